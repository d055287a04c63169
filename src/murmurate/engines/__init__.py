"""Engines: what runs models, and what they all share."""
