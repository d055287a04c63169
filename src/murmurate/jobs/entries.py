"""What the log keeps of a run, and what its entries amount to. Pure.

`run/ID` begins with the request, then come the outcomes of its steps in the order in which they
were finished, and in between what happened to the run: it stumbled, somebody cancelled it. Each
step is written once and is as big as its outcome: the conversation so far is never written again.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum

import msgspec

from murmurate.core.errors import LogCorruptError
from murmurate.core.journal import StepKind
from murmurate.core.ports import Stored
from murmurate.core.types import (
    Citation,
    Cited,
    Delta,
    Finished,
    FinishReason,
    Frozen,
    Request,
    Text,
    ToolCall,
    Usage,
)

QUEUE = "runs"
ASKING = "runs.asking"
"""The queue of runs that wait for an approval, due when that counts as denied."""
DEAD = "runs.dead"
"""The queue of runs that were given up; nobody claims from it."""


class Kind(StrEnum):
    """The kinds of a run's entries."""

    BEGUN = "run.begun"
    READ = "run.read"
    STEP = "run.step"
    ASKED = "run.asked"
    STUMBLED = "run.stumbled"
    CANCEL = "run.cancel"
    FINISHED = "run.finished"
    FAILED = "run.failed"
    CANCELLED = "run.cancelled"
    RESUMED = "run.resumed"
    LEFT = "run.left"
    """Its server stopped in an orderly way, and left it to another."""


class BatchLine(Frozen, frozen=True):
    """A line of a batch: which batch, which line of its input, and what the client calls it."""

    batch: str
    number: int
    custom_id: str


class Begun(Frozen, frozen=True, omit_defaults=True):
    """The request, and up to where its session was read."""

    request: Request
    seen: int | None = None
    background: bool = False
    deadline_ms: int | None = None
    """When it fails unless it has ended, by the wall clock: it may be another server's by then."""
    webhook: str | None = None
    """The URL that is told when it ends."""
    line: BatchLine | None = None
    """Which line of a batch it answers."""


class Read(Frozen, frozen=True):
    """Up to where the session was read, where that was not known when the run began."""

    seen: int


class StepDone(Frozen, frozen=True, omit_defaults=True):
    """What a step came to. `number` counts the steps as they were begun, from 1."""

    number: int
    kind: StepKind
    name: str
    outcome: msgspec.Raw
    arguments: str = ""
    """What a tool was called with; empty for a model."""


class Asked(Frozen, frozen=True, omit_defaults=True):
    """A call that somebody must decide: what is asked is in the log before anybody is asked.

    `number` is that of its step, which is done with the decision.
    """

    number: int
    name: str
    arguments: str
    agent: str
    at_ms: int
    due_ms: int
    """When it counts as denied, by the wall clock."""
    by: str | None = None
    """The key that began the run: not the one that decides."""


class Stumbled(Frozen, frozen=True):
    """An attempt failed; the next one follows at `again_ms`."""

    code: str
    detail: str
    again_ms: int


class Failed(Frozen, frozen=True):
    """The run was given up."""

    code: str
    detail: str


class Answer(Frozen, frozen=True, omit_defaults=True):
    """What the run answered, in whole."""

    text: str
    reason: FinishReason
    usage: Usage = Usage(0, 0)
    citations: tuple[Citation, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    """The calls of the client's own tools, where the answer asks for some."""


class Nothing(Frozen, frozen=True):
    """The body of an entry whose kind says all."""


class RunStatus(StrEnum):
    """Where a run stands, as far as its entries tell."""

    UNDER_WAY = "under way"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RunState(Frozen, frozen=True, kw_only=True):
    """What the entries of a run amount to."""

    id: str
    begun: Begun
    began_ms: int
    status: RunStatus = RunStatus.UNDER_WAY
    steps: tuple[StepDone, ...] = ()
    ended_ms: int | None = None
    answer: Answer | None = None
    failure: Failed | None = None
    asked: tuple[Asked, ...] = ()
    """The calls that wait for a decision."""
    cancel_asked: bool = False
    stumbles: int = 0
    """How many attempts in a row failed since the last step."""
    epoch_last: int = 0
    """Which holder wrote last: a run that ends its servers gets through many that write nothing."""
    ends: int = 0
    """How often it has ended: one that was resumed ends again."""


def stream_of(run_id: str) -> str:
    """Return the log's stream of a run."""
    return f"run/{run_id}"


def id_of(stream: str) -> str:
    """Return the run that a stream belongs to."""
    return stream.removeprefix("run/")


def answer_of(deltas: Sequence[Delta]) -> Answer:
    """Return the answer as one value."""
    usage, reason = Usage(0, 0), FinishReason.STOP
    for delta in deltas:
        if isinstance(delta, Usage):
            usage = usage.plus(delta)
        elif isinstance(delta, Finished):
            reason = delta.reason
    text = "".join(delta.text for delta in deltas if isinstance(delta, Text))
    citations = tuple(c for d in deltas if isinstance(d, Cited) for c in d.citations)
    calls = tuple(delta for delta in deltas if isinstance(delta, ToolCall))
    return Answer(text, reason, usage, citations, calls)


def deltas_of(answer: Answer) -> tuple[Delta, ...]:
    """Return deltas that amount to the answer."""
    text = (Text(answer.text),) if answer.text else ()
    cited = (Cited(answer.citations),) if answer.citations else ()
    return (*text, *cited, *answer.calls, answer.usage, Finished(answer.reason))


def folded(run_id: str, entries: Iterable[Stored], *, state: RunState | None = None) -> RunState:
    """Return what the entries of a run amount to, or those that follow on a `state`.

    Raises:
        LogCorruptError: They don't begin with a request, or one of them can't be read.
    """
    steps = {} if state is None else {step.number: step for step in state.steps}
    for stored in entries:
        try:
            if state is not None and stored.kind == Kind.STEP:
                state = _advanced(state, stored, steps)
            else:
                state = after(state, run_id, stored)
        except msgspec.MsgspecError as cause:
            raise LogCorruptError(f"entry {stored.seq} of run {run_id} can't be read") from cause
    if state is None:
        raise LogCorruptError(f"run {run_id} has no entries")
    return msgspec.structs.replace(state, steps=tuple(steps.values()))


def after(state: RunState | None, run_id: str, stored: Stored) -> RunState:
    """Return the state after one more entry that is no step."""
    body, at_ms = stored.body, stored.at_ms
    if state is None:
        if stored.kind != Kind.BEGUN:
            raise LogCorruptError(f"run {run_id} does not begin with a request")
        return RunState(id=run_id, begun=msgspec.json.decode(body, type=Begun), began_ms=at_ms)
    new = msgspec.structs.replace
    if stored.epoch:
        state = new(state, epoch_last=stored.epoch)
    match stored.kind:
        case Kind.READ:
            seen = msgspec.json.decode(body, type=Read).seen
            return new(state, begun=new(state.begun, seen=seen))
        case Kind.ASKED:
            asked = msgspec.json.decode(body, type=Asked)
            return new(state, asked=(*_but(state.asked, asked.number), asked))
        case Kind.STUMBLED | Kind.CANCEL:
            stumbles = state.stumbles + (stored.kind == Kind.STUMBLED)
            cancel_asked = state.cancel_asked or stored.kind == Kind.CANCEL
            return new(state, stumbles=stumbles, cancel_asked=cancel_asked)
        case Kind.FINISHED | Kind.FAILED | Kind.CANCELLED:
            return _ended(new(state, ended_ms=at_ms, ends=state.ends + 1), stored)
        case Kind.RESUMED:
            return _resumed(state)
        case _:
            return state  # a later version's word, which changes nothing here


def _advanced(state: RunState, stored: Stored, steps: dict[int, StepDone]) -> RunState:
    """Return the state after a step, which is added to `steps`: a copy for each would be slow."""
    step = msgspec.json.decode(stored.body, type=StepDone)
    new = msgspec.structs.replace
    if stored.epoch:
        state = new(state, epoch_last=stored.epoch)
    if step.number in steps:
        return state  # it was delivered twice: the first one counts
    steps[step.number] = step
    return new(state, asked=_but(state.asked, step.number), stumbles=0)


def _but(asked: Sequence[Asked], number: int) -> tuple[Asked, ...]:
    return tuple(it for it in asked if it.number != number)


def _resumed(state: RunState) -> RunState:
    new = msgspec.structs.replace
    begun = new(state.begun, deadline_ms=None)  # whoever resumes it wants it after all
    fresh = new(state, status=RunStatus.UNDER_WAY, failure=None, ended_ms=None, begun=begun)
    return new(fresh, stumbles=0, cancel_asked=False)


def _ended(state: RunState, stored: Stored) -> RunState:
    new = msgspec.structs.replace
    state = new(state, asked=())  # a run that is resumed asks anew
    match stored.kind:
        case Kind.FINISHED:
            answer = msgspec.json.decode(stored.body, type=Answer)
            return new(state, status=RunStatus.FINISHED, answer=answer)
        case Kind.FAILED:
            failure = msgspec.json.decode(stored.body, type=Failed)
            return new(state, status=RunStatus.FAILED, failure=failure)
        case _:
            return new(state, status=RunStatus.CANCELLED)
