"""Batches: files of requests that are answered within a day, whatever dies meanwhile."""
