"""A run done again, against the code, the configuration and the models of today.

Models are really asked. Tools are not called: a call that the run has made gets the outcome that it
had then, and one that it has not made ends the replay, as nobody knows what it would come to. So
nothing is done a second time, and nothing of a replay is stored.
"""

from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing

import msgspec

from murmurate.core.errors import ModelUnknownError, MurmurateError, NotFoundError, RunOverError
from murmurate.core.ids import Ids
from murmurate.core.journal import Journals, StepKind
from murmurate.core.ports import Entry, Log, Model
from murmurate.core.types import Delta, Frozen, Request, TraceRef
from murmurate.jobs.attempts import may_help
from murmurate.jobs.differences import (
    Again,
    AnswerChange,
    StepChange,
    Verdict,
    answer_change,
    canonical,
    step_changes,
)
from murmurate.jobs.entries import (
    Answer,
    Failed,
    RunState,
    RunStatus,
    StepDone,
    answer_of,
    folded,
    stream_of,
)
from murmurate.jobs.journal import OpenJournals

NOT_THERE = 404


class Replayed(Frozen, frozen=True, kw_only=True):
    """A run and its replay, step by step."""

    id: str
    model: str | None
    """The model that was asked instead of the agent's own."""
    same: bool
    steps: tuple[StepChange, ...]
    answer: AnswerChange


class NoRecordError(Exception):
    """The run has made no such call: what it would come to is not known."""


class Replay:
    """The journal of a replay (`core.journal.Journal`): it gives what was recorded."""

    def __init__(self, state: RunState, *, model: str | None) -> None:
        self.model = model
        self.seen = state.begun.seen
        self.steps: list[ReplayStep] = []
        self._left = sorted(state.steps, key=lambda step: step.number)

    def sees(self, seq: int) -> None:
        """Forget it: what the run has read is read again."""

    def step(self, kind: StepKind, name: str, arguments: str = "") -> "ReplayStep":
        """Begin the next step: a model takes the place of the next one, a call that of its like."""
        past = next((it for it in self._left if _takes_place(it, kind, name, arguments)), None)
        if past is not None:
            self._left.remove(past)
        step = ReplayStep(Again(kind, name, arguments, None if past is None else past.number), past)
        self.steps.append(step)
        return step

    async def finish(self, entries: Sequence[Entry], answer: Sequence[Delta]) -> None:
        """Store nothing."""


class ReplayStep:
    """A step of a replay (`core.journal.Step`)."""

    key = ""
    """None is needed: nothing is done under it."""

    def __init__(self, again: Again, past: StepDone | None) -> None:
        self.again = again
        self._past = past

    @property
    def outcome(self) -> bytes | None:
        """What the call came to in the run; None for a model, which is asked.

        `NoRecordError`: the run has made no such call. All calls of a reply are begun before any is
        looked at, so that those beside it are seen, too.
        """
        if self.again.kind is StepKind.MODEL:
            return None
        if self._past is None:
            raise NoRecordError
        return bytes(self._past.outcome)

    async def done(self, outcome: bytes) -> None:
        """Note what the model said."""
        self.ends(outcome)

    def ends(self, outcome: bytes) -> None:
        """Note what the model said."""
        self.again = msgspec.structs.replace(self.again, reply=outcome)


class Asked:
    """A `Model` in front of all models: it asks the one that a replay names instead."""

    def __init__(self, below: Model, journals: Journals) -> None:
        self._below = below
        self._journals = journals

    def answer(self, request: Request) -> AsyncGenerator[Delta]:
        """Pass the request on, perhaps to another model."""
        replay = self._journals.of(request)
        if isinstance(replay, Replay) and replay.model is not None:
            request = msgspec.structs.replace(request, model=replay.model)
        return self._below.answer(request)


class Replays:
    """Does runs again. `below` must ask models for a replay, not a cache: see `is_replay`."""

    def __init__(
        self,
        below: Model,
        journals: OpenJournals,
        *,
        log: Log,
        ids: Ids,
        models: Callable[[str], Collection[str]],
    ) -> None:
        """`models` says which agents and models a tenant may use today."""
        self._below = below
        self._journals = journals
        self._log = log
        self._ids = ids
        self._models = models

    async def replay(
        self, tenant: str, run_id: str, *, model: str | None, trace: TraceRef
    ) -> Replayed:
        """Do a run again, asking `model` instead of the agent's own, and tell what is different.

        Raises:
            NotFoundError: The tenant has no such run.
            RunOverError: It is under way.
            ModelUnknownError: What it was asked of is not served any more, or `model` is not.
        """
        state = await self._ended(tenant, run_id)
        asked = state.begun.request
        if asked.model not in self._models(tenant):
            raise ModelUnknownError(
                f"{run_id} was asked of {asked.model!r}, which is not served here any more"
            )
        request = msgspec.structs.replace(asked, id=self._ids.new("req"), trace=trace)
        replay = Replay(state, model=model)
        self._journals.open(request, replay)
        try:
            answer = await self._answer(request, state.failure)
        finally:
            self._journals.close(request, replay)
        again = [step.again for step in replay.steps]
        steps = step_changes(state.steps, again, stopped=answer is None)
        change = answer_change(state.answer or state.failure, answer)
        same = {change.verdict, *(step.verdict for step in steps)} == {Verdict.SAME}
        return Replayed(id=run_id, model=model, same=same, steps=steps, answer=change)

    async def _answer(self, request: Request, failure: Failed | None) -> Answer | Failed | None:
        """Return what it comes to; None where nothing is recorded for a call that it makes.

        An error that says nothing about the agent (it is overloaded, or not there) is raised,
        unless the run failed by it, too.
        """
        try:
            async with aclosing(self._below.answer(request)) as deltas:
                return answer_of([delta async for delta in deltas])
        except NoRecordError:
            return None
        except MurmurateError as error:
            expected = failure is not None and failure.code == error.code
            if not expected and (may_help(error) or error.http_status == NOT_THERE):
                raise
            return failure if expected else Failed(error.code, error.detail)

    async def _ended(self, tenant: str, run_id: str) -> RunState:
        async with aclosing(self._log.read(tenant, stream_of(run_id))) as entries:
            found = [stored async for stored in entries]
        if not found:
            raise NotFoundError(f"there is no run {run_id[:64]!r}")
        state = folded(run_id, found)
        if state.status is RunStatus.UNDER_WAY:
            raise RunOverError(f"{run_id} is under way: it can be replayed once it is over")
        return state


def is_replay(journals: Journals, request: Request) -> bool:
    """Tell whether a request belongs to a replay, whose answer may neither be cached nor come so.

    It rests on what tools found in the past.
    """
    return isinstance(journals.of(request), Replay)


def _takes_place(past: StepDone, kind: StepKind, name: str, arguments: str) -> bool:
    if kind is StepKind.MODEL:
        return past.kind is kind
    its_arguments, asked = canonical(past.arguments), canonical(arguments)
    return (past.kind, past.name, its_arguments) == (kind, name, asked)
