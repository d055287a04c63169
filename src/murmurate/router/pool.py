"""Which of a model's upstreams is asked next: few requests under way, and well. Pure.

Two of those that may be asked are drawn by weight; the one with fewer requests under way, for its
weight, is taken (Mitzenmacher, "The Power of Two Choices", 2001; Envoy's `least_request`).
"""

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from murmurate.core.types import Frozen
from murmurate.router.breaker import Breaker, State
from murmurate.router.failures import MEANINGS, Failure


class Standing(Frozen, frozen=True):
    """How an upstream does."""

    name: str
    state: State
    outstanding: int
    asked: int
    failed: int


@dataclass(slots=True)
class Turn:
    """One request to one upstream; `Pool` is told what becomes of it."""

    index: int
    probe: bool
    has_outcome: bool = False
    is_over: bool = False


class _Member:
    """An upstream as the choice sees it."""

    def __init__(self, name: str, weight: float) -> None:
        self.name = name
        self.weight = weight
        self.breaker = Breaker()
        self.left_alone_until_s = 0.0
        self.outstanding = 0
        self.asked = 0
        self.failed = 0

    @property
    def load(self) -> float:
        return self.outstanding / self.weight


class Pool:
    """The upstreams of one model, by number. Their names are for people."""

    def __init__(self, members: Sequence[tuple[str, float]], *, chance: random.Random) -> None:
        """`members` are names and weights."""
        self._members = [_Member(name, weight) for name, weight in members]
        self._chance = chance

    def take(self, now_s: float, *, tried: Collection[int] = ()) -> Turn | None:
        """Begin a request to the best upstream; None: all are at rest after failures.

        Preferred is one that was not `tried`; then one that has not asked to be left alone.
        """
        index = self._best(now_s, tried)
        if index is None:
            return None
        member = self._members[index]
        member.outstanding += 1
        member.asked += 1
        return Turn(index, member.breaker.begin())

    def has_other(self, now_s: float, tried: Collection[int]) -> bool:
        """Say whether there is one to ask at once that was not `tried`."""
        return any(
            index not in tried
            and now_s >= member.left_alone_until_s
            and member.breaker.allows(now_s)
            for index, member in enumerate(self._members)
        )

    def waits_s(self, now_s: float) -> float:
        """Return when the first of them may be asked again."""
        return min(member.breaker.waits_s(now_s) for member in self._members)

    def answered(self, turn: Turn, now_s: float) -> None:
        """Note the first delta of an answer: the upstream is well."""
        turn.has_outcome = True
        self._members[turn.index].breaker.succeeded(now_s, probe=turn.probe)

    def failed(
        self, turn: Turn, failure: Failure, now_s: float, *, retry_s: float | None = None
    ) -> None:
        """Note how a request failed; behind its first delta, too. The turn is over."""
        member = self._members[turn.index]
        probe = turn.probe and not turn.has_outcome
        if MEANINGS[failure].is_ill:
            member.failed += 1
            member.breaker.failed(now_s, probe=probe)
        elif failure is Failure.OVERLOADED:
            member.left_alone_until_s = now_s + (retry_s or 0.0)
            member.breaker.dropped(probe=probe)
        else:  # it read the request and said what is wrong with it
            member.breaker.succeeded(now_s, probe=probe)
        turn.has_outcome = True
        self.over(turn)

    def over(self, turn: Turn) -> None:
        """Note that nothing is under way any more; without an outcome nothing is concluded."""
        if turn.is_over:
            return
        turn.is_over = True
        member = self._members[turn.index]
        member.outstanding -= 1
        if not turn.has_outcome:
            member.breaker.dropped(probe=turn.probe)

    def standings(self, now_s: float) -> list[Standing]:
        """Return how each upstream does, in their order."""
        return [
            Standing(it.name, it.breaker.state(now_s), it.outstanding, it.asked, it.failed)
            for it in self._members
        ]

    def _best(self, now_s: float, tried: Collection[int]) -> int | None:
        if len(self._members) == 1:
            return 0 if self._members[0].breaker.allows(now_s) else None
        allowed = [i for i, member in enumerate(self._members) if member.breaker.allows(now_s)]
        fresh = [i for i in allowed if i not in tried] or allowed
        rested = [i for i in fresh if now_s >= self._members[i].left_alone_until_s] or fresh
        if len(rested) <= 1:
            return rested[0] if rested else None
        first = self._drawn(rested)
        second = self._drawn([index for index in rested if index != first])
        # Of two alike the first drawn is taken: so an idle pool is used by its weights.
        return second if self._members[second].load < self._members[first].load else first

    def _drawn(self, indexes: Sequence[int]) -> int:
        weights = [self._members[index].weight for index in indexes]
        return self._chance.choices(indexes, weights)[0]
