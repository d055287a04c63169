"""What an agent says to its model and reads from the conversation."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from murmurate.agents.turn import (
    UNKNOWN_EN,
    UNKNOWN_ZH,
    Reply,
    heard,
    length,
    newest,
    opening,
    question_of,
    quoted,
    said,
    unknown,
)
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
    ResultPart,
    Role,
    Text,
    TextPart,
    ToolCall,
    Usage,
)
from tests.fakes import assistant, message, result, user

CITATION = Citation("doc_1", "a.md", 1, 5, 2, 3, "the words", 0.9)


def call(call_id: str) -> ToolCall:
    return ToolCall(call_id, "search", "{}")


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    """Turns as clients send them: a question, then calls with their results, then an answer."""
    messages: list[Message] = []
    for turn in range(draw(st.integers(1, 4))):
        messages.append(user("u" * draw(st.integers(0, 20))))
        for step in range(draw(st.integers(0, 2))):
            messages.append(assistant("", call(f"{turn}.{step}")))
            messages.append(result(f"{turn}.{step}", "r" * draw(st.integers(0, 20))))
        messages.append(assistant("a" * draw(st.integers(0, 20))))
    while messages[-1].role is Role.ASSISTANT:
        messages.pop()
    return messages


def chars(messages: Sequence[Message]) -> int:
    return sum(length(part) for message in messages for part in message.parts)


@given(conversations(), st.integers(0, 120))
def test_trimmed_history_is_a_tail_that_keeps_the_last_message(
    messages: list[Message], chars_max: int
) -> None:
    kept = newest(messages, chars_max=chars_max)
    assert kept == tuple(messages[-len(kept) :])
    assert kept[0].role is Role.USER


@given(conversations(), st.integers(0, 120))
def test_trimmed_history_never_splits_a_result_from_its_call(
    messages: list[Message], chars_max: int
) -> None:
    made: set[str] = set()
    for kept in newest(messages, chars_max=chars_max):
        for part in kept.parts:
            if isinstance(part, CallPart):
                made.add(part.id)
            elif isinstance(part, ResultPart):
                assert part.call_id in made


@given(conversations(), st.integers(0, 120))
def test_trimmed_history_fits_unless_it_is_one_question_and_as_much_as_fits_is_kept(
    messages: list[Message], chars_max: int
) -> None:
    kept = newest(messages, chars_max=chars_max)
    questions = [m for m in kept if m.role is Role.USER]
    assert chars(kept) <= chars_max or len(questions) == 1
    before = messages[: len(messages) - len(kept)]
    starts = [i for i, m in enumerate(before) if m.role is Role.USER]
    assert not starts or chars(messages[starts[-1] :]) > chars_max


def test_a_conversation_without_a_user_stays_whole() -> None:
    messages = [assistant("", call("c")), result("c", "long")]
    assert newest(messages, chars_max=1) == tuple(messages)
    assert newest([], chars_max=1) == ()


def test_the_opening_is_one_system_message_then_the_history() -> None:
    messages = [user("old" * 50), message(Role.SYSTEM, "from the client"), user("new")]
    first, *rest = opening("Be brief.", messages, chars_max=10)
    assert first.role is Role.SYSTEM
    assert first.parts == (TextPart("Be brief.\n\nfrom the client", Origin(OriginKind.SYSTEM)),)
    assert rest == [user("new")]


def test_without_instructions_there_is_no_system_message() -> None:
    assert opening("", [user("hi")], chars_max=10) == (user("hi"),)


@pytest.mark.parametrize(
    ("messages", "question"),
    [
        ([user("a"), assistant("b"), user("c")], "c"),
        ([user("a"), assistant("", call("c")), result("c", "r")], "a"),
        ([assistant("b")], ""),
        ([], ""),
    ],
)
def test_the_question_is_the_users_last_message(messages: list[Message], question: str) -> None:
    assert question_of(messages) == question


def test_a_step_shows_text_and_citations_and_keeps_the_rest() -> None:
    step = Reply()
    deltas: list[Delta] = [
        Text("a"),
        Text("b"),
        Cited((CITATION,)),
        call("c"),
        Usage(1, 2, 1),
        Usage(1, 1),
        Finished(FinishReason.TOOL_CALLS),
    ]
    seen = [shown for delta in deltas if (shown := step.take(delta)) is not None]
    assert seen == deltas[:3]
    assert (step.text, step.calls, step.usage) == ("ab", [call("c")], Usage(2, 3, 1))
    assert step.reason is FinishReason.TOOL_CALLS


def test_what_the_model_said_becomes_a_message() -> None:
    origin = Origin(OriginKind.MODEL, "tiny")
    expected = (TextPart("hm", origin), CallPart("c", "search", "{}"))
    assert said("hm", [call("c")], "tiny") == Message(Role.ASSISTANT, expected)
    assert said("", [], "tiny").parts == ()


def test_what_a_tool_said_becomes_a_message_with_its_origin() -> None:
    origin = Origin(OriginKind.DOCUMENT, "docs")
    assert heard(call("c"), "{}", origin) == Message(Role.TOOL, (ResultPart("c", "{}", origin),))


@pytest.mark.parametrize(("last", "lines"), [(2, "line 2"), (3, "lines 2-3")])
def test_a_quotation_says_where_it_stands(last: int, lines: str) -> None:
    citation = Citation("doc_1", "a.md", 1, 5, 2, last, "the words", 0.9)
    assert quoted(citation) == f"the words\n\n(quoted from a.md, {lines})"


@pytest.mark.parametrize(
    ("question", "answer"),
    [("What is it?", UNKNOWN_EN), ("这是什么？", UNKNOWN_ZH), ("What is 票?", UNKNOWN_ZH)],
)
def test_not_knowing_is_said_in_the_questions_language(question: str, answer: str) -> None:
    assert unknown(question) == answer
