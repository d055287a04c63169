"""A run as those see it who ask for it. Pure."""

import msgspec

from murmurate.core.errors import LogCorruptError
from murmurate.core.ids import made_ms
from murmurate.core.ports import WorkInfo
from murmurate.core.types import Frozen, Message
from murmurate.jobs.entries import Answer, Asked, Failed, RunState, RunStatus, StepDone

ASKS = "waiting for approval"
"""The status of a run that does nothing until somebody has decided."""


class RunInfo(Frozen, frozen=True, omit_defaults=True):
    """A run as a list shows it."""

    id: str
    model: str
    status: str
    began_ms: int
    steps: int
    ended_ms: int | None = None
    session: str | None = None
    error: str | None = None
    due_ms: int | None = None
    """When it is tried again."""


class Webhook(Frozen, frozen=True, omit_defaults=True):
    """Who is told when a run ends, and how far that is: waiting, delivered or given up."""

    url: str
    status: str
    attempts: int = 0
    detail: str | None = None
    """What the last attempt came to."""


class RunView(Frozen, frozen=True, omit_defaults=True):
    """A run in whole."""

    id: str
    model: str
    status: str
    began_ms: int
    messages: tuple[Message, ...]
    steps: tuple[StepDone, ...] = ()
    asked: tuple[Asked, ...] = ()
    """The calls that wait for a decision."""
    ended_ms: int | None = None
    session: str | None = None
    answer: Answer | None = None
    error: Failed | None = None
    deadline_ms: int | None = None
    webhook: Webhook | None = None


class RunEvent(Frozen, frozen=True):
    """An entry of a run as its followers see it."""

    kind: str
    seq: int
    at_ms: int
    body: msgspec.Raw


def info_of(state: RunState, work: WorkInfo | None) -> RunInfo:
    """Return a run as a list shows it."""
    status = status_of(state, work)
    return RunInfo(
        id=state.id,
        model=state.begun.request.model,
        status=status,
        began_ms=state.began_ms,
        steps=len(state.steps),
        ended_ms=state.ended_ms,
        session=session_of(state),
        error=None if state.failure is None else state.failure.code,
        due_ms=work.due_ms if work is not None and status == "waiting" else None,
    )


def damaged(run_id: str, damage: LogCorruptError) -> RunInfo:
    """Return a run that can't be read as a list shows it."""
    return RunInfo(
        id=run_id,
        model="",
        status="damaged",
        began_ms=made_ms(run_id.partition("-")[0]),
        steps=0,
        error=damage.code,
    )


def status_of(state: RunState, work: WorkInfo | None) -> str:
    """Return where a run stands: its entries say whether it is over, its work the rest."""
    if state.status is not RunStatus.UNDER_WAY:
        return state.status.value
    if state.asked:
        return ASKS
    if work is not None and work.runner is not None:
        return "running"
    return "waiting" if work is not None and work.due_ms else "queued"


def session_of(state: RunState) -> str | None:
    """Return the session that gets the turn of a run."""
    session = state.begun.request.session
    return None if session is None else session.id
