"""Agents: a model that may use tools before it answers, served under a name of its own."""
