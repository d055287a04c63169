"""Watches the router from outside: who waited, who was passed, and how often.

It knows only arrivals and starts, not the router's own state. A request that was let in and has not
run its first step yet looks as if it still waited, so each bound is wider by the slots.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from murmurate.core.types import Lane
from murmurate.router.lanes import URGENT_TURNS_MAX


@dataclass(slots=True)
class Ticket:
    """A request at the router. `own` and `other` are the starts in both lanes before it came."""

    model: str
    lane: str
    ahead: int
    own: int
    other: int
    waits: bool = True


class LaneWatch:
    """Urgent requests are never starved, batch requests are served eventually, all in turn."""

    def __init__(self, slots: Mapping[str, int], *, fail: Callable[[str], None]) -> None:
        self._slots = slots
        self._fail = fail
        self._waiting: Counter[tuple[str, str]] = Counter()
        self._starts: Counter[tuple[str, str]] = Counter()

    def arrived(self, model: str, lane: str) -> Ticket:
        """Take a request that has come to the router."""
        own, other = (model, lane), (model, _other(lane))
        ticket = Ticket(model, lane, self._waiting[own], self._starts[own], self._starts[other])
        self._waiting[own] += 1
        return ticket

    def started(self, ticket: Ticket) -> None:
        """Note that it runs, and check who has passed it meanwhile."""
        model, lane, slots = ticket.model, ticket.lane, self._slots[ticket.model]
        passed = self._starts[model, _other(lane)] - ticket.other
        if lane == Lane.URGENT:
            most = ticket.ahead // URGENT_TURNS_MAX + 1 + slots
        else:
            most = (ticket.ahead + 1) * URGENT_TURNS_MAX + slots
        if passed > most:
            self._fail(f"{lane} request of {model} was passed {passed} times; at most {most}")
        overtaken = self._starts[model, lane] - ticket.own
        if overtaken > ticket.ahead + slots:
            self._fail(f"{lane} request of {model} was overtaken in its own lane")
        self._starts[model, lane] += 1
        self._settle(ticket)

    def left(self, ticket: Ticket) -> None:
        """Note that it has left the router, wherever it was."""
        self._settle(ticket)

    def _settle(self, ticket: Ticket) -> None:
        if ticket.waits:
            ticket.waits = False
            self._waiting[ticket.model, ticket.lane] -= 1


def _other(lane: str) -> str:
    return Lane.BATCH if lane == Lane.URGENT else Lane.URGENT
