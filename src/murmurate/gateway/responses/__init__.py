"""The Responses API, after OpenAI and the specification of Open Responses (2026-04-24).

A body becomes a `Request` (`body.py`), deltas become items and events (`output.py`), and what is
stored of both is one entry of the log (`store.py`).
"""
