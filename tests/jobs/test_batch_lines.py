"""The end of a line's run tells its batch, once."""

import msgspec
import pytest

from murmurate.core.errors import BadRequestError, LogCorruptError
from murmurate.core.ports import Entry, Nudge
from murmurate.core.types import FinishReason
from murmurate.jobs.batch_lines import (
    CANCELLED,
    LineEnd,
    is_line,
    line_told,
    lines_of,
    lost_line,
    run_of,
)
from murmurate.jobs.entries import Answer, BatchLine, Begun, Kind, stream_of
from tests.fakes import ask

LINE = Begun(ask(), background=True, line=BatchLine("batch_0abc", 7, "mine"))
ANSWER = Answer("said", FinishReason.STOP)


def end_of(entry: Entry) -> LineEnd:
    assert (entry.tenant, entry.stream) == ("a", lines_of("batch_0abc"))
    return msgspec.json.decode(entry.body, type=LineEnd)


def test_the_runs_of_a_batch_have_names_that_follow_from_it_in_order() -> None:
    names = [run_of("batch_0abc", number) for number in (2, 10, 50_000)]
    assert names == sorted(names)
    assert all(map(is_line, names))
    assert not is_line("run_0abc")


def test_an_answer_is_told() -> None:
    [entry], news = line_told(LINE, "a", how=Kind.FINISHED, ends=0, outcome=ANSWER)
    assert entry.kind == "batch.line.ended"
    assert end_of(entry) == LineEnd(7, "mine", "tiny", ANSWER)
    assert news == (Nudge("a", "batch/batch_0abc"),)


def test_a_failure_is_told_as_a_client_would_hear_it() -> None:
    error = BadRequestError("not so", param="stop")
    [entry], _ = line_told(LINE, "a", how=Kind.FAILED, ends=0, outcome=error)
    assert entry.kind == "batch.line.failed"
    failure = end_of(entry).failure
    assert failure is not None
    assert (failure.status, failure.code, failure.detail) == (400, "request.invalid", "not so")
    assert (failure.type, failure.param) == ("invalid_request_error", "stop")


def test_that_a_run_was_cancelled_is_told() -> None:
    [entry], _ = line_told(LINE, "a", how=Kind.CANCELLED, ends=0, outcome=None)
    failure = end_of(entry).failure
    assert failure is not None
    assert failure.code == CANCELLED


@pytest.mark.parametrize(
    ("begun", "how", "ends"),
    [
        (Begun(ask()), Kind.FINISHED, 0),
        (LINE, Kind.FINISHED, 1),
        (LINE, Kind.STUMBLED, 0),
        (LINE, Kind.LEFT, 0),
    ],
)
def test_nothing_else_is_told(begun: Begun, how: Kind, ends: int) -> None:
    assert line_told(begun, "a", how=how, ends=ends, outcome=ANSWER) == ((), ())


def test_a_run_of_which_only_the_name_is_left_is_told_as_lost() -> None:
    stream = stream_of(run_of("batch_0abc", 7))
    [entry], news = lost_line("a", stream, LogCorruptError("damaged"))
    end = end_of(entry)
    assert (end.number, end.custom_id) == (7, None)
    assert end.failure is not None
    assert end.failure.code == "log.corrupt"
    assert news == (Nudge("a", "batch/batch_0abc"),)
    assert lost_line("a", "run/run_0abc", LogCorruptError("damaged")) == ((), ())
