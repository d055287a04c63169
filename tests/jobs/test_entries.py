"""What the entries of a run amount to."""

import sys

import msgspec
import pytest

from murmurate.core.errors import LogCorruptError
from murmurate.core.journal import StepKind
from murmurate.core.ports import Stored
from murmurate.core.types import (
    Citation,
    Cited,
    Finished,
    FinishReason,
    Frozen,
    Request,
    SessionRef,
    Text,
    ToolCall,
    Usage,
)
from murmurate.jobs.entries import (
    Answer,
    Asked,
    Begun,
    Failed,
    Kind,
    Nothing,
    RunState,
    RunStatus,
    StepDone,
    Stumbled,
    answer_of,
    deltas_of,
    folded,
    id_of,
    stream_of,
)
from tests.fakes import ask

REQUEST = ask("How?", session=SessionRef("sess_1"))
BEGUN = (Kind.BEGUN, Begun(REQUEST, seen=4, background=True))


def step(number: int) -> tuple[str, Frozen]:
    return Kind.STEP, StepDone(number, StepKind.TOOL, "clock", msgspec.Raw(b"%d" % number))


def state(*entries: tuple[str, Frozen], epoch: int = 1) -> RunState:
    return folded(
        "run_1",
        [
            Stored("a", "run/run_1", n, n, epoch, str(kind), n * 10, msgspec.json.encode(body))
            for n, (kind, body) in enumerate(entries, 1)
        ],
    )


def test_a_run_has_its_request_and_the_outcomes_of_its_steps() -> None:
    found = state(BEGUN, step(1), step(2), epoch=3)
    assert (found.id, found.began_ms, found.status) == ("run_1", 10, RunStatus.UNDER_WAY)
    assert found.begun == Begun(REQUEST, seen=4, background=True)
    assert [(it.number, bytes(it.outcome)) for it in found.steps] == [(1, b"1"), (2, b"2")]
    assert found.epoch_last == 3


def test_a_request_comes_back_as_it_was() -> None:
    request = ask("a", "b", model="m", session=SessionRef("s", new=True))
    assert msgspec.json.decode(msgspec.json.encode(request), type=Request) == request


def test_ends_are_told_with_what_they_came_to() -> None:
    answer = Answer("42", FinishReason.STOP)
    finished = state(BEGUN, (Kind.FINISHED, answer))
    assert (finished.status, finished.answer, finished.ended_ms) == ("finished", answer, 20)
    failed = state(BEGUN, (Kind.FAILED, Failed("engine.failed", "broke")))
    assert (failed.status, failed.failure) == ("failed", Failed("engine.failed", "broke"))
    cancelled = state(BEGUN, (Kind.CANCEL, Nothing()), (Kind.CANCELLED, Nothing()))
    assert (cancelled.status, cancelled.cancel_asked) == ("cancelled", True)


def test_a_resumed_run_is_under_way_again_with_its_steps() -> None:
    failure = (Kind.FAILED, Failed("engine.failed", "broke"))
    found = state(BEGUN, step(1), (Kind.CANCEL, Nothing()), failure, (Kind.RESUMED, Nothing()))
    assert (found.status, found.failure, found.ended_ms) == ("under way", None, None)
    assert (found.cancel_asked, len(found.steps)) == (False, 1)


def asked(number: int, due_ms: int = 9) -> tuple[str, Frozen]:
    return Kind.ASKED, Asked(number, "sell", "{}", "agent", 1, due_ms, "key_1")


def decided(number: int) -> tuple[str, Frozen]:
    said = msgspec.Raw(b'{"approved":true}')
    return Kind.STEP, StepDone(number, StepKind.APPROVAL, "sell", said, "{}")


def test_what_is_asked_waits_until_its_step_is_done() -> None:
    found = state(BEGUN, step(1), asked(2), asked(3))
    assert [it.number for it in found.asked] == [2, 3]
    assert found.asked[0].by == "key_1"
    assert [it.number for it in state(BEGUN, asked(2), asked(3), decided(2)).asked] == [3]
    assert state(BEGUN, asked(2), decided(2), asked(3), decided(3)).asked == ()


def test_what_is_asked_again_counts_once_as_it_was_asked_last() -> None:
    found = state(BEGUN, asked(2, due_ms=5), asked(2, due_ms=7))
    assert [(it.number, it.due_ms) for it in found.asked] == [(2, 7)]


def test_of_two_decisions_the_first_counts() -> None:
    other = (Kind.STEP, StepDone(2, StepKind.APPROVAL, "sell", msgspec.Raw(b"0"), "{}"))
    assert state(BEGUN, asked(2), decided(2), other).steps == state(BEGUN, decided(2)).steps


@pytest.mark.parametrize("end", [Kind.CANCELLED, Kind.FAILED])
def test_a_run_that_has_ended_asks_nothing_any_more(end: Kind) -> None:
    body = Failed("run.deadline", "late") if end is Kind.FAILED else Nothing()
    assert state(BEGUN, asked(2), (end, body)).asked == ()
    assert state(BEGUN, asked(2), (end, body), (Kind.RESUMED, Nothing())).asked == ()


def test_a_step_that_is_done_wipes_out_the_attempts_before_it() -> None:
    stumbled = (Kind.STUMBLED, Stumbled("engine.failed", "broke", 5))
    assert state(BEGUN, stumbled, stumbled).stumbles == 2
    assert state(BEGUN, stumbled, step(1), stumbled).stumbles == 1


def test_a_step_that_was_delivered_twice_counts_once() -> None:
    assert state(BEGUN, step(1), step(1), step(2)).steps == state(BEGUN, step(1), step(2)).steps


def test_words_of_a_later_version_change_nothing() -> None:
    assert state(BEGUN, ("run.sang", Nothing()), step(1)) == state(BEGUN, step(1))


@pytest.mark.parametrize(
    "entries", [(), (step(1),), ((Kind.BEGUN, Nothing()),), (BEGUN, (Kind.STEP, Nothing()))]
)
def test_what_cannot_be_a_run_is_damage(entries: tuple[tuple[str, Frozen], ...]) -> None:
    with pytest.raises(LogCorruptError, match="run_1"):
        state(*entries)


def test_an_answer_is_gathered_from_its_deltas() -> None:
    place = Citation("d", "a.md", 1, 2, 3, 4, "q", 0.5)
    length = Finished(FinishReason.LENGTH)
    deltas = [Text("4"), Text("2"), Cited((place,)), Usage(1, 2), Usage(3, 4), length]
    assert answer_of(deltas) == Answer("42", FinishReason.LENGTH, Usage(4, 6), (place,))


def test_a_run_has_a_stream() -> None:
    assert id_of(stream_of("run_1")) == "run_1"


def test_an_answer_keeps_the_calls_of_the_clients_tools_and_is_deltas_again() -> None:
    deltas = (
        Text("Let me "),
        Text("see."),
        ToolCall("call_1", "weather", '{"city": "Bonn"}'),
        Usage(3, 4),
        Finished(FinishReason.TOOL_CALLS),
    )
    answer = answer_of(deltas)
    assert answer.calls == (ToolCall("call_1", "weather", '{"city": "Bonn"}'),)
    assert deltas_of(answer) == (Text("Let me see."), *deltas[2:])
    assert answer_of(deltas_of(answer)) == answer
    before = b'{"text": "x", "reason": "stop"}'
    assert msgspec.json.decode(before, type=Answer).calls == ()


def test_a_run_of_many_steps_is_read_in_a_time_that_grows_with_their_number() -> None:
    def replaced(count: int) -> int:
        """Count what is done, by calls: a clock would measure the machine."""
        calls = 0

        def note(_frame: object, event: str, _what: object) -> None:
            nonlocal calls
            calls += event == "call"

        entries = [BEGUN, *(step(number) for number in range(1, count + 1))]
        sys.setprofile(note)
        try:
            assert len(state(*entries).steps) == count
        finally:
            sys.setprofile(None)
        return calls

    assert replaced(800) < 2.2 * replaced(400)
