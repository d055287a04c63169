"""A run and its replay, side by side."""

from typing import Any

import msgspec
import pytest

from murmurate.core.journal import StepKind
from murmurate.core.types import (
    Citation,
    Cited,
    Finished,
    FinishReason,
    Text,
    ToolCall,
    Usage,
)
from murmurate.jobs.differences import (
    Again,
    AnswerChange,
    StepChange,
    Verdict,
    answer_change,
    canonical,
    step_changes,
)
from murmurate.jobs.entries import Answer, Failed, StepDone

MODEL, TOOL = StepKind.MODEL, StepKind.TOOL
CITATION = Citation("doc_1", "limits.md", 0, 9, 3, 4, "12 hours.", 0.9)


def reply(text: str = "", *calls: tuple[str, str], call_id: str = "c") -> bytes:
    """Return a model's reply as journals keep it."""
    said = [Text(text)] if text else []
    made = [ToolCall(f"{call_id}{n}", name, arguments) for n, (name, arguments) in enumerate(calls)]
    return msgspec.json.encode([*said, *made, Usage(1, 1), Finished(FinishReason.STOP)])


def said(number: int, text: str = "", *calls: tuple[str, str]) -> StepDone:
    return StepDone(number, MODEL, "tiny", msgspec.Raw(reply(text, *calls)))


def done(number: int, name: str, arguments: str) -> StepDone:
    return StepDone(number, TOOL, name, msgspec.Raw(b"{}"), arguments)


def says(past: int | None, text: str = "", *calls: tuple[str, str]) -> Again:
    return Again(MODEL, "tiny", past=past, reply=reply(text, *calls, call_id="other"))


def does(past: int | None, name: str, arguments: str) -> Again:
    return Again(TOOL, name, arguments, past)


RUN = (said(1, "", ("add", "[1]")), done(2, "add", "[1]"), said(3, "It is 1."))


def verdicts(changes: tuple[StepChange, ...]) -> list[tuple[int | None, Verdict]]:
    return [(change.number, change.verdict) for change in changes]


def test_the_same_steps_are_the_same_whatever_the_ids_of_their_calls() -> None:
    again = [says(1, "", ("add", "[1]")), does(2, "add", "[1]"), says(3, "It is 1.")]
    changes = step_changes(RUN, again, stopped=False)
    assert verdicts(changes) == [(n, Verdict.SAME) for n in (1, 2, 3)]
    assert all(it.was is it.now is None and not it.stopped for it in changes)


def test_a_record_in_the_order_of_its_ends_is_shown_in_that_of_its_beginnings() -> None:
    again = [says(1, "", ("add", "[1]")), does(2, "add", "[1]"), says(3, "It is 1.")]
    assert step_changes(RUN[::-1], again, stopped=False) == step_changes(RUN, again, stopped=False)


def test_another_reply_is_shown_with_its_calls() -> None:
    again = [says(1, "", ("add", "[2]")), does(None, "add", "[2]")]
    first, second, third = step_changes(RUN, again, stopped=True)
    assert first == StepChange(
        Verdict.OTHER_REPLY, MODEL, "tiny", 1, was="add([1])", now="add([2])"
    )
    assert second == StepChange(
        Verdict.OTHER_ARGUMENTS, TOOL, "add", 2, was="[1]", now="[2]", stopped=True
    )
    assert third == StepChange(Verdict.NOT_REACHED, MODEL, "tiny", 3, was="It is 1.")


def test_a_call_of_another_tool_is_additional_and_the_one_it_replaced_not_reached() -> None:
    again = [says(1, "", ("sub", "[1]")), does(None, "sub", "[1]")]
    changes = step_changes(RUN, again, stopped=True)
    assert verdicts(changes) == [
        (1, Verdict.OTHER_REPLY),
        (None, Verdict.ADDITIONAL),
        (2, Verdict.NOT_REACHED),
        (3, Verdict.NOT_REACHED),
    ]
    assert (changes[1].now, changes[1].stopped) == ("[1]", True)


def test_what_is_left_out_is_missing_in_its_place() -> None:
    record = (said(1), done(2, "add", "[1]"), done(3, "add", "[2]"), said(4, "3"))
    again = [says(1), does(3, "add", "[2]"), says(4, "3")]
    assert verdicts(step_changes(record, again, stopped=False)) == [
        (1, Verdict.SAME),
        (2, Verdict.MISSING),
        (3, Verdict.SAME),
        (4, Verdict.SAME),
    ]
    assert verdicts(step_changes(RUN, [says(1, "1")], stopped=False)) == [
        (1, Verdict.OTHER_REPLY),
        (2, Verdict.MISSING),
        (3, Verdict.MISSING),
    ]


def test_a_further_question_to_the_model_is_additional_and_no_reason_to_stop() -> None:
    again = [says(1, "", ("add", "[1]")), does(2, "add", "[1]"), says(3, "It is 1."), says(None)]
    *_, last = step_changes(RUN, again, stopped=False)
    assert (last.verdict, last.stopped) == (Verdict.ADDITIONAL, False)


def test_of_calls_side_by_side_each_is_held_against_its_like_first() -> None:
    record = (said(1), done(2, "add", "[1]"), done(3, "add", "[2]"))
    again = [says(1), does(None, "add", "[9]"), does(2, "add", "[1]")]
    changes = step_changes(record, again, stopped=True)
    assert [(it.number, it.was, it.now) for it in changes[1:]] == [
        (3, "[2]", "[9]"),
        (2, None, None),
    ]


def test_a_reply_that_never_ended_is_another_one() -> None:
    [change] = step_changes(RUN[:1], [Again(MODEL, "tiny", past=1)], stopped=False)
    assert (change.verdict, change.was, change.now) == (Verdict.OTHER_REPLY, "add([1])", None)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ('{"a":1,"b":[2]}', '{ "b": [2], "a": 1 }', True),
        ('{"a":1}', '{"a":2}', False),
        ('{"a":[1,2]}', '{"a":[2,1]}', False),
        ('{"a', '{"a', True),
        ('{"a', '{"b', False),
        ("", "{}", False),
    ],
)
def test_arguments_are_the_same_however_they_are_written(one: str, other: str, same: bool) -> None:
    assert (canonical(one) == canonical(other)) is same


FAILED = Failed("engine.failed", "it hung up")


@pytest.mark.parametrize(
    ("was", "now", "change"),
    [
        (Answer("a", FinishReason.STOP), Answer("a", FinishReason.STOP, Usage(9, 9)), {}),
        (FAILED, FAILED, {}),
        (
            Answer("a", FinishReason.STOP),
            Answer("b", FinishReason.STOP),
            {"was": "a", "now": "b"},
        ),
        (
            Answer("a", FinishReason.STOP),
            Answer("a", FinishReason.LENGTH),
            {"was": "a", "now": "a\n[ended: length]"},
        ),
        (
            Answer("a", FinishReason.STOP, citations=(CITATION,)),
            Answer("a", FinishReason.STOP),
            {"was": "a\n[limits.md, lines 3-4: 12 hours.]", "now": "a"},
        ),
        (
            Answer("a", FinishReason.STOP),
            FAILED,
            {"was": "a", "now": "failed: engine.failed: it hung up"},
        ),
        (None, Answer("a", FinishReason.STOP), {"now": "a"}),
    ],
)
def test_an_answer_is_the_same_or_both_are_shown(
    was: Answer | Failed | None, now: Answer | Failed | None, change: dict[str, Any]
) -> None:
    verdict = Verdict.OTHER_ANSWER if change else Verdict.SAME
    assert answer_change(was, now) == AnswerChange(verdict, **change)


def test_an_answer_that_was_not_reached_shows_what_it_was() -> None:
    change = answer_change(Answer("a", FinishReason.STOP), None)
    assert change == AnswerChange(Verdict.NOT_REACHED, was="a")


def test_a_reply_is_shown_with_what_it_cites() -> None:
    kept = msgspec.json.encode([Text("see"), Cited((CITATION,)), Finished(FinishReason.STOP)])
    [change] = step_changes([], [Again(MODEL, "tiny", reply=kept)], stopped=False)
    assert change.now == "see\n[limits.md, lines 3-4: 12 hours.]"
