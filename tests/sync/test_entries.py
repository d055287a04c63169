"""Messages as the log keeps them, and how a request continues them."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from murmurate.core.errors import BadRequestError
from murmurate.core.types import (
    CallPart,
    Citation,
    Cited,
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
from murmurate.sync.entries import (
    SessionMessage,
    added,
    answer_citations,
    answer_parts,
    continued,
    decode,
    encode,
    fresh,
    next_hlc,
    stream_of,
)
from tests.fakes import assistant, message, result, user

CITATION = Citation("doc_1", "a.md", 1, 5, 2, 3, "words", 0.9)
SYSTEM = message(Role.SYSTEM, "be kind")
CALL = ToolCall("c1", "search", "{}")


def stored(said: Message, number: int = 1) -> SessionMessage:
    return SessionMessage(f"msg_{number}", "h", "turn_1", None, said.role, said.parts)


@given(st.lists(st.integers(0, 2**47), min_size=2))
def test_the_hybrid_clock_strictly_grows_whatever_the_wall_shows(walls_ms: list[int]) -> None:
    clock: str | None = None
    values = [clock := next_hlc(clock, wall_ms, "a") for wall_ms in walls_ms]
    assert all(before < after for before, after in pairwise(values))


@given(st.lists(st.tuples(st.integers(0, 2**40), st.sampled_from("ab")), min_size=2))
def test_the_hybrid_clock_grows_over_several_writers(steps: list[tuple[int, str]]) -> None:
    clock: str | None = None
    values = [clock := next_hlc(clock, wall_ms, writer) for wall_ms, writer in steps]
    assert all(before < after for before, after in pairwise(values))


@pytest.mark.parametrize(
    ("last", "now_ms", "expected"),
    [
        (None, 255, "0000000000ff-000000-a"),
        (None, 0, "000000000000-000001-a"),
        ("0000000000ff-000007-b", 256, "000000000100-000000-a"),
        ("0000000000ff-000007-b", 255, "0000000000ff-000008-a"),
        ("0000000000ff-000007-b-c", 3, "0000000000ff-000008-a"),
        ("0000000000ff-ffffff-b", 3, "000000000100-000000-a"),
    ],
)
def test_the_hybrid_clock_stays_as_close_to_the_wall_as_it_can(
    last: str | None, now_ms: int, expected: str
) -> None:
    assert next_hlc(last, now_ms, "a") == expected


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([user("a")], [user("a")]),
        ([SYSTEM, user("a")], [user("a")]),
        ([user("a"), assistant("b"), user("c")], [user("c")]),
        ([user("a"), assistant("b"), SYSTEM, user("c"), user("d")], [user("c"), user("d")]),
        ([user("a"), assistant("", CALL), result("c1", "r")], [result("c1", "r")]),
        ([user("a"), assistant("b")], []),
        ([], []),
    ],
)
def test_fresh_is_what_follows_the_last_assistant_turn(
    messages: list[Message], expected: list[Message]
) -> None:
    assert fresh([stored(user("before"))], messages) == expected


def test_a_session_that_is_just_begun_takes_all_that_was_said_so_far() -> None:
    messages = [SYSTEM, user("a"), assistant("", CALL), result("c1", "r")]
    assert fresh([], messages) == messages[1:]


def test_a_result_is_matched_with_its_call_wherever_that_stands() -> None:
    [found] = added([stored(assistant("", CALL))], [result("c1", "r")])
    assert found.parts[0].origin == Origin(OriginKind.TOOL, CALL.name)  # type: ignore[union-attr]
    with pytest.raises(BadRequestError, match="'c1'"):
        added([stored(user("x"))], [result("c1", "r")])


def test_a_conversation_goes_on_from_what_is_stored() -> None:
    kept = [stored(user("stored question")), stored(assistant("stored answer"))]
    asked = [SYSTEM, user("claimed question"), assistant("claimed answer"), user("new")]
    assert continued(kept, asked) == (
        SYSTEM,
        user("stored question"),
        assistant("stored answer"),
        user("new"),
    )


def test_a_new_conversation_begins_with_the_request() -> None:
    assert continued([], [SYSTEM, user("a")]) == (SYSTEM, user("a"))


def test_an_answer_is_kept_as_text_and_calls_with_its_citations() -> None:
    deltas: list[Delta] = [
        Text("a"),
        Text("b"),
        CALL,
        Cited((CITATION,)),
        Cited((CITATION,)),
        Usage(1, 1),
        Finished(FinishReason.STOP),
    ]
    assert answer_parts(deltas, "tiny") == (
        TextPart("ab", Origin(OriginKind.MODEL, "tiny")),
        CallPart("c1", "search", "{}"),
    )
    assert answer_citations(deltas) == (CITATION, CITATION)


def test_an_answer_without_words_has_no_parts() -> None:
    assert answer_parts([Finished(FinishReason.STOP)], "tiny") == ()
    assert answer_citations([]) == ()


@given(st.text(), st.sampled_from(Role), st.none() | st.text(min_size=1))
def test_a_message_survives_the_way_through_the_log(
    text: str, role: Role, after: str | None
) -> None:
    parts = (TextPart(text, Origin(OriginKind.USER)), CallPart("c", "n", "{}"))
    kept = SessionMessage("msg_1", "h", "turn_1", after, role, parts, (CITATION,))
    assert decode(encode(kept)) == kept


def test_a_session_is_one_stream() -> None:
    assert stream_of("sess_1") == "session/sess_1"
