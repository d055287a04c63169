"""Who runs next: the slots of one backend and the two lanes that wait for them. Pure.

A ticket arrives, then waits or runs, then leaves; `Lanes` says at each step who runs. It never
waits itself, so a table of cases tests it.
"""

from collections import OrderedDict
from collections.abc import Sequence
from enum import StrEnum

from murmurate.core.types import Frozen, Lane

URGENT_TURNS_MAX = 7
"""Urgent tickets that may pass a waiting batch ticket; the next free slot is the batch lane's."""

RETRY_S_MIN = 1.0
RETRY_S_MAX = 60.0


class QueueLimits(Frozen, frozen=True):
    """How many requests may wait for one backend, by lane."""

    urgent_queue_max: int
    batch_queue_max: int

    def of(self, lane: Lane) -> int:
        """Return the bound of a lane."""
        return self.urgent_queue_max if lane is Lane.URGENT else self.batch_queue_max


class Load(Frozen, frozen=True):
    """What a backend has to do right now."""

    slots: int
    running: int
    urgent_waiting: int
    batch_waiting: int


class Arrival(StrEnum):
    """What becomes of a ticket that arrives."""

    RUNS = "runs"
    WAITS = "waits"
    REFUSED = "refused"


class Lanes:
    """The state of one backend: who runs, who waits, and whose turn it is.

    Invariants: never more than `slots` run; nobody waits while a slot is free; first come, first
    served within a lane; the batch lane is passed at most `URGENT_TURNS_MAX` times in a row.
    """

    def __init__(self, slots: int, limits: QueueLimits) -> None:
        self._slots = slots
        self._limits = limits
        self._running: set[int] = set()
        self._waiting: dict[Lane, OrderedDict[int, None]] = {lane: OrderedDict() for lane in Lane}
        self._urgent_turns = 0

    def arrive(self, ticket: int, lane: Lane) -> Arrival:
        """Let a new ticket run or wait; a refused one is forgotten at once."""
        if len(self._running) < self._slots:
            self._running.add(ticket)
            return Arrival.RUNS
        queue = self._waiting[lane]
        if len(queue) >= self._limits.of(lane):
            return Arrival.REFUSED
        queue[ticket] = None
        return Arrival.WAITS

    def leave(self, ticket: int) -> int | None:
        """Let a ticket go, whether it ran or waited; return the ticket that runs in its place.

        A ticket that is not here (refused, or gone already) changes nothing, so a slot can't be
        given back twice.
        """
        for queue in self._waiting.values():
            if ticket in queue:
                del queue[ticket]
                return None
        if ticket not in self._running:
            return None
        self._running.remove(ticket)
        return self._next()

    def load(self) -> Load:
        """Return how much runs and waits."""
        return Load(
            slots=self._slots,
            running=len(self._running),
            urgent_waiting=len(self._waiting[Lane.URGENT]),
            batch_waiting=len(self._waiting[Lane.BATCH]),
        )

    def _next(self) -> int | None:
        """Move the ticket whose turn it is from its lane into the free slot."""
        urgent, batch = self._waiting[Lane.URGENT], self._waiting[Lane.BATCH]
        if not urgent and not batch:
            return None
        batch_turn = bool(batch) and (not urgent or self._urgent_turns >= URGENT_TURNS_MAX)
        self._urgent_turns = 0 if batch_turn or not batch else self._urgent_turns + 1
        ticket, _ = (batch if batch_turn else urgent).popitem(last=False)
        self._running.add(ticket)
        return ticket


def retry_s(ahead: int, slots: int, service_s: Sequence[float]) -> float:
    """Estimate when a place is free again: `ahead` requests by the recent service times.

    Kept between 1 and 60 s: sooner only knocks, and nobody should give up on one slow minute.
    """
    mean_s = sum(service_s) / len(service_s) if service_s else RETRY_S_MIN
    return min(max(mean_s * ahead / slots, RETRY_S_MIN), RETRY_S_MAX)
