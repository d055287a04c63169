"""Where a run stands follows from its entries, and from what the store knows of its work."""

import pytest

from murmurate.core.errors import LogCorruptError
from murmurate.core.ids import first_of
from murmurate.core.ports import NEVER_MS, WorkInfo
from murmurate.core.types import SessionRef
from murmurate.jobs.entries import ASKING, QUEUE, Asked, Begun, Failed, RunState, RunStatus
from murmurate.jobs.views import damaged, info_of, status_of
from tests.fakes import ask

ASKED = (Asked(2, "pay", "{}", "clerk", 5, 9),)


def state_of(
    *, asked: tuple[Asked, ...] = (), status: RunStatus = RunStatus.UNDER_WAY, code: str = ""
) -> RunState:
    return RunState(
        id="run_1",
        begun=Begun(ask(model="clerk", session=SessionRef("sess_1"))),
        began_ms=7,
        asked=asked,
        status=status,
        failure=Failed(code, "") if code else None,
    )


def work_of(*, queue: str = QUEUE, due_ms: int = 0, runner: str | None = None) -> WorkInfo:
    return WorkInfo("a", "run/run_1", queue, 0, due_ms, runner, 1)


@pytest.mark.parametrize(
    ("state", "work", "status"),
    [
        (state_of(), work_of(), "queued"),
        (state_of(), None, "queued"),
        (state_of(), work_of(runner="r"), "running"),
        (state_of(), work_of(due_ms=5), "waiting"),
        (state_of(asked=ASKED), None, "waiting for approval"),
        (state_of(asked=ASKED), work_of(queue=ASKING, due_ms=9), "waiting for approval"),
        (state_of(status=RunStatus.FAILED), work_of(due_ms=NEVER_MS), "failed"),
        (state_of(status=RunStatus.FINISHED), None, "finished"),
    ],
)
def test_entries_say_whether_it_is_over_and_its_work_the_rest(
    state: RunState, work: WorkInfo | None, status: str
) -> None:
    assert status_of(state, work) == status


def test_a_list_says_until_when_a_run_waits_and_why_it_failed() -> None:
    assert info_of(state_of(), work_of(due_ms=5)).due_ms == 5
    assert info_of(state_of(), work_of(due_ms=5, runner="r")).due_ms is None
    failed = info_of(state_of(status=RunStatus.FAILED, code="engine.failed"), None)
    assert (failed.error, failed.model, failed.session) == ("engine.failed", "clerk", "sess_1")


def test_a_damaged_run_stands_where_it_began() -> None:
    run_id = first_of("run", 1234)
    info = damaged(run_id, LogCorruptError("broken"))
    assert (info.began_ms, info.status, info.error) == (1234, "damaged", "log.corrupt")
