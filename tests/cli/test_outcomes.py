"""What happens in a run, as people read it."""

from typing import Any

import msgspec
import pytest

from murmurate.agents.ports import ToolResult
from murmurate.cli.client import RefusedError
from murmurate.cli.outcomes import (
    SHORT_CHARS,
    answer_of,
    event_line,
    outcome,
    run_lines,
    short,
    step_tree,
    took,
    typed,
)
from murmurate.core.journal import Decision, StepKind
from murmurate.core.types import Finished, FinishReason, Origin, OriginKind, Text, ToolCall, Usage
from murmurate.jobs.entries import (
    Answer,
    Asked,
    Begun,
    Failed,
    Kind,
    Nothing,
    Read,
    StepDone,
    Stumbled,
)
from murmurate.jobs.views import RunEvent, RunInfo, RunView
from tests.fakes import ask, passage, user

TOOL = Origin(OriginKind.TOOL, "t")
DONE = Finished(FinishReason.STOP)


def step(number: int, kind: StepKind, outcome: Any, arguments: str = "") -> StepDone:
    raw = msgspec.Raw(msgspec.json.encode(outcome))
    return StepDone(number, kind, "it", raw, arguments)


def event(kind: str, body: Any, at_ms: int = 0) -> RunEvent:
    return RunEvent(kind, 1, at_ms, msgspec.Raw(msgspec.json.encode(body)))


def said(kind: str, body: Any) -> str | None:
    """Return the line of an event without its time."""
    line = event_line(event(kind, body))
    return None if line is None else line.partition("  ")[2]


@pytest.mark.parametrize(
    ("kind", "result", "words"),
    [
        (StepKind.MODEL, [Text("It "), Text("is."), Usage(1, 1), DONE], '"It is."'),
        (StepKind.MODEL, [ToolCall("c", "add", "{}"), DONE], "calls add"),
        (
            StepKind.MODEL,
            [Text("So:"), ToolCall("c", "add", "{}"), ToolCall("d", "sub", "{}")],
            '"So:", calls add, sub',
        ),
        (StepKind.MODEL, [DONE], '""'),
        (StepKind.TOOL, ToolResult("7", TOOL), "7"),
        (StepKind.TOOL, ToolResult('{"error":"no"}', TOOL, failed=True), 'failed: {"error":"no"}'),
        (StepKind.RETRIEVAL, ToolResult("…", TOOL, passages=()), "0 passages"),
        (StepKind.RETRIEVAL, ToolResult("…", TOOL, passages=(passage(),)), "1 passage"),
        (StepKind.APPROVAL, Decision(approved=True, by="key_1"), "approved by key_1"),
        (
            StepKind.APPROVAL,
            Decision(approved=False, reason="too\ndear", by="key_1"),
            "denied by key_1: too dear",
        ),
        (
            StepKind.APPROVAL,
            Decision(approved=False, reason="nobody has decided in time"),
            "denied: nobody has decided in time",
        ),
    ],
)
def test_a_step_came_to_something_in_few_words(kind: StepKind, result: Any, words: str) -> None:
    assert outcome(step(1, kind, result)) == words


def test_an_outcome_in_another_form_is_strange() -> None:
    for kind in (StepKind.MODEL, StepKind.TOOL, StepKind.APPROVAL):
        with pytest.raises(RefusedError, match="not in the form"):
            outcome(step(1, kind, 7))


def test_calls_stand_below_the_reply_that_made_them_in_the_order_of_their_beginning() -> None:
    reply, result = [Text("x")], ToolResult("7", TOOL)
    steps = [
        step(1, StepKind.MODEL, reply),
        step(3, StepKind.TOOL, result, "[2]"),
        step(2, StepKind.TOOL, result, "[1]"),
        step(4, StepKind.MODEL, reply),
        step(5, StepKind.TOOL, result),
    ]
    assert step_tree(steps) == [
        '├─ 1 model it: "x"',
        "│  ├─ 2 tool it([1]): 7",
        "│  └─ 3 tool it([2]): 7",
        '└─ 4 model it: "x"',
        "   └─ 5 tool it: 7",
    ]
    assert step_tree([]) == []
    assert step_tree(steps[1:2]) == ["└─ 3 tool it([2]): 7"], "a step before any reply"


ASKED = Asked(3, "pay", '{"sum":\n12}', "clerk", 0, 9)


def test_what_is_asked_is_told_with_the_call() -> None:
    assert said(Kind.ASKED, ASKED) == 'asks: 3 pay({"sum": 12}): murmurate runs approvals'


def test_a_run_that_asks_is_shown_with_what_it_asks_and_how_to_decide() -> None:
    lines = run_lines(view(asked=(ASKED,)))
    assert lines[3:] == [
        'asks: 3 pay({"sum": 12})',
        "",
        "murmurate runs approve, or deny, run_1 (--step NUMBER, where it asks for several)",
    ]


def view(**fields: Any) -> RunView:
    known: dict[str, Any] = {"id": "run_1", "model": "tiny", "status": "finished", "began_ms": 0}
    return RunView(**known, messages=(user("why?"),), **fields)


def test_a_run_is_shown_with_its_answer_or_why_there_is_none() -> None:
    answer = Answer("Because.", FinishReason.STOP)
    lines = run_lines(view(answer=answer, ended_ms=1500, session="sess_1"))
    assert lines[0] == "run_1  tiny  finished"
    assert lines[1].startswith("began 19")
    assert lines[1].endswith(", took 1.5 s, session sess_1")
    assert lines[2:] == ["question: why?", "", "Because."]
    assert run_lines(view(error=Failed("engine.failed", "it\nhung up")))[-3:] == [
        "",
        "failed: engine.failed: it hung up",
        "murmurate runs resume run_1 tries again",
    ]
    assert len(run_lines(view())) == 3


@pytest.mark.parametrize(
    ("kind", "body", "line"),
    [
        (Kind.BEGUN, Begun(ask("why\nnot?")), "began: tiny, asked 'why not?'"),
        (Kind.STEP, step(1, StepKind.MODEL, [Text("x")]), '1 model it: "x"'),
        (Kind.STUMBLED, Stumbled("e", "d", 1500), "stumbled: e: d; again in 1.5 s"),
        (Kind.CANCEL, Nothing(), "asked to stop"),
        (Kind.RESUMED, Nothing(), "resumed"),
        (Kind.FINISHED, Answer("a", FinishReason.STOP), "finished"),
        (Kind.FAILED, Failed("e", "d"), "failed: e: d"),
        (Kind.CANCELLED, Nothing(), "cancelled"),
        (Kind.READ, Read(1), None),
        ("run.of_a_later_version", Nothing(), "of_a_later_version"),
    ],
)
def test_what_happened_is_told_in_a_line(kind: str, body: Any, line: str | None) -> None:
    assert said(kind, body) == line


def test_the_answer_comes_with_the_end() -> None:
    assert answer_of(event(Kind.FINISHED, Answer("a", FinishReason.STOP))) == "a"
    assert answer_of(event(Kind.CANCELLED, Nothing())) is None


@pytest.mark.parametrize(
    ("ended_ms", "words"),
    [
        (None, "–"),
        (1000, "0.0 s"),
        (500, "0.0 s"),
        (4250, "3.2 s"),
        (62_000, "1 min 1 s"),
        (7_381_000, "2 h 3 min"),
    ],
)
def test_times_are_told_as_people_do(ended_ms: int | None, words: str) -> None:
    assert took(1000, ended_ms) == words


def test_what_is_short_is_one_line_that_moves_no_cursor() -> None:
    assert short(" a\n\tb  c ") == "a b c"
    assert short("\x1b[2Jred\x07") == "?[2Jred?"
    assert short("x" * SHORT_CHARS) == "x" * SHORT_CHARS
    assert short("x" * 99) == "x" * (SHORT_CHARS - 1) + "…"


def test_what_a_newer_server_adds_is_no_trouble_and_what_is_missing_is() -> None:
    run = {"id": "run_1", "model": "m", "status": "queued", "began_ms": 1, "steps": 0}
    assert typed([{**run, "mood": "good"}], list[RunInfo]) == [
        RunInfo("run_1", "m", "queued", 1, 0)
    ]
    for strange in (None, {}, [{}], [{**run, "steps": "no"}]):
        with pytest.raises(RefusedError, match="not in the form"):
            typed(strange, list[RunInfo])
