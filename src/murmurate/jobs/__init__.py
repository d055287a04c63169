"""Runs: what an agent does for a request, step by step in the log, so that any server goes on."""
