"""How the work for a request remembers what it did, so that nothing is done again after a crash.

Whatever is not a pure function of the request and the steps before it is a step: a model's answer,
a tool's result. The work runs from its beginning again after a crash; steps that are in the journal
give their outcome instead of being done.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from murmurate.core.ports import Entry, Log
from murmurate.core.types import Delta, Frozen, Request


class StepKind(StrEnum):
    """What a step does."""

    MODEL = "model"
    TOOL = "tool"
    RETRIEVAL = "retrieval"
    APPROVAL = "approval"
    """Somebody decides whether a call is made. Its outcome is a `Decision`."""


class Decision(Frozen, frozen=True, omit_defaults=True):
    """What was said to a call that asks."""

    approved: bool
    reason: str = ""
    by: str | None = None
    """The key that decided; None where nobody did."""


class Step(Protocol):
    """One step of a run: done before, or to be done now."""

    @property
    def key(self) -> str:
        """The idempotency key, `run:number`: the same however often the step is begun."""
        ...

    @property
    def outcome(self) -> bytes | None:
        """What the step came to (JSON) when it was done; None while it was not.

        An approval is done by whoever decides. While it is None, the work ends with
        `RunWaitingError`, and begins again when all approvals that it has begun are decided.
        """
        ...

    async def done(self, outcome: bytes) -> None:
        """Write down what the step came to. It is durable then, and never done again.

        `FencedError`: another runner has the work by now, and this one must stop.
        """
        ...

    def ends(self, outcome: bytes) -> None:
        """Note what the last step came to; it becomes durable together with the run's end."""
        ...


class Journal(Protocol):
    """The memory of one run."""

    @property
    def seen(self) -> int | None:
        """The end of its session when the run began; None while it has not been read."""
        ...

    def sees(self, seq: int) -> None:
        """Note up to which entry its session was read, so that every attempt reads the same."""
        ...

    def step(self, kind: StepKind, name: str, arguments: str = "") -> Step:
        """Begin the next step. The order of these calls must follow from the steps before.

        `arguments` is what a tool is called with, as the model said it.
        `RunDivergedError`: the first attempt did something else here.
        """
        ...

    async def finish(self, entries: Sequence[Entry], answer: Sequence[Delta]) -> None:
        """Write the run's end, and the entries with it: all of it, or nothing."""
        ...


class Journals(Protocol):
    """The journals of all requests under way."""

    def of(self, request: Request) -> Journal:
        """Return the journal of the run that the request belongs to, or one that keeps nothing."""
        ...


NO_RUN = msgspec.json.encode(
    Decision(
        approved=False,
        reason="it needs an approval, which only a run can wait for: ask within a session (header"
        " x-murmurate-session), or begin a run (POST /api/runs)",
    )
)


class Unkept:
    """The journal of work that nobody goes on with: its steps have keys, and are forgotten."""

    def __init__(self, name: str, log: Log) -> None:
        self._name = name
        self._log = log
        self._steps = 0

    seen: int | None = None

    def sees(self, seq: int) -> None:
        """Forget it."""

    def step(self, kind: StepKind, name: str, arguments: str = "") -> Step:
        """Begin the next step. Nobody can be asked: who would wait for the answer?"""
        del name, arguments
        self._steps += 1
        return UnkeptStep(
            f"{self._name}:{self._steps}",
            outcome=NO_RUN if kind is StepKind.APPROVAL else None,
        )

    async def finish(self, entries: Sequence[Entry], answer: Sequence[Delta]) -> None:
        """Append the entries."""
        del answer
        if entries:
            await self._log.append(entries)


class UnkeptStep:
    """A step of work that nobody goes on with."""

    def __init__(self, key: str, *, outcome: bytes | None = None) -> None:
        self.key = key
        self.outcome = outcome

    async def done(self, outcome: bytes) -> None:
        """Forget it."""

    def ends(self, outcome: bytes) -> None:
        """Forget it."""


class NothingKept:
    """Journals where no request is a run."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def of(self, request: Request) -> Journal:
        """Return a journal that keeps nothing."""
        return Unkept(request.id, self._log)
