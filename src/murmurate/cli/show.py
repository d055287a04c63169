"""What people would rather look at than read: progress and trees."""

from typing import Any

import msgspec

from murmurate.observe.spans import SpanRecord
from murmurate.observe.tree import tree

REPORTED_MAX = 20


def trace_tree(spans: list[dict[str, Any]]) -> str:
    """Return the spans of a trace as a tree with times."""
    return tree(msgspec.convert(spans, list[SpanRecord]))
