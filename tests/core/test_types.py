"""The few things that values can do."""

import msgspec
import pytest

from murmurate.core.types import (
    CallPart,
    Delta,
    Finished,
    FinishReason,
    Message,
    Origin,
    OriginKind,
    Role,
    Text,
    TextPart,
    ToolCall,
    Usage,
)

ORIGIN = Origin(OriginKind.USER)


def test_a_message_text_is_its_text_parts_only() -> None:
    parts = (TextPart("a", ORIGIN), CallPart("c", "search", "{}"), TextPart("b", ORIGIN))
    assert Message(Role.ASSISTANT, parts).text == "ab"


def test_usage_is_summed_field_by_field() -> None:
    assert Usage(1, 2, 3).plus(Usage(10, 20, 30)) == Usage(11, 22, 33)


def test_values_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Usage(1, 2).tokens_in = 5  # pyright: ignore[reportAttributeAccessIssue]


def test_deltas_survive_the_way_through_bytes() -> None:
    deltas: list[Delta] = [
        Text("hi"),
        ToolCall("c", "search", "{}"),
        Usage(1, 2),
        Finished(FinishReason.STOP),
    ]
    raw = msgspec.msgpack.encode(deltas)
    assert msgspec.msgpack.decode(raw, type=list[Delta]) == deltas
