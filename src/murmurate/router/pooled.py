"""A model with upstreams: each request goes to one of them, and to another where that fails.

What to do is decided by `pool`, `breaker`, `budget` and `failures`; here it is done. Until the
first delta anything may be tried; from then on the answer is that upstream's, to its end or its
failure.
"""

import asyncio
import random
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

import msgspec

from murmurate.core.clock import Clock
from murmurate.core.errors import EngineUnreachableError, MurmurateError
from murmurate.core.ports import Tracer
from murmurate.core.types import Delta, Frozen, Request, Usage
from murmurate.router.budget import Budget
from murmurate.router.failures import MEANINGS, Failure, failure_of, pause_s
from murmurate.router.pool import Pool, Standing, Turn
from murmurate.router.ports import Upstream

RETRY_SHARE = 0.2
RETRIES_PER_S = 1.0
RETRIES_MOST = 10.0
"""Finagle's 20 %; of its ten a second one is left, as a model is asked less often than a server."""

HEDGE_SHARE = 0.05
HEDGES_MOST = 5.0
"""After the 95th percentile, one in twenty is asked twice (Dean and Barroso, "The Tail at Scale",
2013); when all of them are slow, no more are."""

FIRSTS_KEPT = 128
FIRSTS_MIN = 20
"""With fewer, a 95th percentile is a guess."""


class Terms(Frozen, frozen=True):
    """How much is done for one answer, and how long that may take.

    A hedge is sent `hedge_s` after the first request, or after the quantile of the times that first
    deltas took of late.
    """

    retries: int
    total_s: float
    hedge_s: float | None = None
    hedge_quantile: float | None = None


@dataclass(slots=True)
class Counts:
    """What was done beside asking once, since the start."""

    retries: int = 0
    retries_refused: int = 0
    """By the budget."""
    hedges: int = 0
    hedges_won: int = 0
    hedge_tokens: int = 0
    """Of prompts that were read for nothing: as many as the other upstream counted."""


class Pooled:
    """An engine made of upstreams: each with a name for people and a weight."""

    def __init__(
        self,
        name: str,
        upstreams: Sequence[tuple[str, float, Upstream]],
        *,
        terms: Terms,
        clock: Clock,
        tracer: Tracer,
        chance: random.Random,
    ) -> None:
        self._name = name
        self._upstreams = [upstream for _, _, upstream in upstreams]
        self._terms = terms
        self._clock = clock
        self._tracer = tracer
        self._chance = chance
        self._pool = Pool([(it, weight) for it, weight, _ in upstreams], chance=chance)
        now_s = clock.now_s()
        self._retries = Budget(
            share=RETRY_SHARE, per_s=RETRIES_PER_S, most=RETRIES_MOST, now_s=now_s
        )
        self._hedges = Budget(share=HEDGE_SHARE, per_s=0, most=HEDGES_MOST, now_s=now_s)
        self._firsts_s: deque[float] = deque(maxlen=FIRSTS_KEPT)
        self._why = ""
        self.counts = Counts()

    async def answer(self, request: Request) -> AsyncGenerator[Delta]:
        """Stream the answer of the first upstream that begins one.

        `EngineUnreachableError` with `retry_s` at once while all are at rest after failures;
        otherwise the last failure, when nothing more may be tried.
        """
        attempt = await self._opened(request)
        losers = attempt.losers
        try:
            yield attempt.first
            async for delta in attempt.deltas:
                if losers and isinstance(delta, Usage):
                    self.counts.hedge_tokens += losers * delta.tokens_in
                yield delta
        except MurmurateError as error:
            self._note_failure(attempt, error)
            raise
        finally:
            await self._close(attempt)

    async def health(self) -> bool:
        """Say whether any of them would take a request."""
        return any(await asyncio.gather(*(it.health() for it in self._upstreams)))

    async def close(self) -> None:
        """Close the connections to all of them."""
        for upstream in self._upstreams:
            await upstream.close()

    def standings(self) -> list[Standing]:
        """Return how each upstream does, in their order."""
        return self._pool.standings(self._clock.now_s())

    async def _opened(self, request: Request) -> "_Attempt":
        """Return an attempt that has its first delta; each has what time the others left it."""
        self._retries.deposit()
        self._hedges.deposit()
        ends_s = self._clock.now_s() + self._terms.total_s
        tried: set[int] = set()
        last: MurmurateError | None = None
        for number in range(self._terms.retries + 1):
            turn = self._pool.take(self._clock.now_s(), tried=tried)
            if turn is None:
                raise last or self._at_rest()
            try:
                return await self._first(_Asked(request, ends_s), turn, tried)
            except MurmurateError as error:
                last = error
            wait_s = self._again_in_s(last, number, tried)
            if wait_s is None or self._clock.now_s() + wait_s >= ends_s:
                raise last
            facts = {"cause": last.code, "wait_ms": round(wait_s * 1000)}
            with self._tracer.span(request.trace, "retry", **facts):
                await self._clock.sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")

    def _again_in_s(self, error: MurmurateError, number: int, tried: set[int]) -> float | None:
        """Return how long to wait before the next attempt; None: there is none."""
        if number >= self._terms.retries:
            return None
        now_s = self._clock.now_s()
        if MEANINGS[failure_of(error)].elsewhere and self._pool.has_other(now_s, tried):
            wait_s = 0.0
        else:
            found = pause_s(error, number, chance=self._chance.random())
            if found is None:
                return None
            wait_s = found
        if not self._retries.take(now_s):
            self.counts.retries_refused += 1
            return None
        self.counts.retries += 1
        return wait_s

    async def _first(self, asked: "_Asked", turn: Turn, tried: set[int]) -> "_Attempt":
        """Ask one upstream, and a second one where the first is slow; `tried` hears of both."""
        tried.add(turn.index)
        attempt = self._attempt(asked, turn)
        delay_s = self._hedge_s()
        if delay_s is None:
            await self._open(attempt)
            return attempt
        opening = asyncio.create_task(self._open(attempt))
        racing = {opening: attempt}
        try:
            await asyncio.wait(racing, timeout=delay_s)
            if not opening.done() and (second := self._hedge_turn(tried)) is not None:
                return await self._raced(asked, racing, second)
            await opening
            del racing[opening]
            return attempt
        finally:
            await self._end_others(racing)

    async def _raced(
        self, asked: "_Asked", racing: dict["asyncio.Task[None]", "_Attempt"], turn: Turn
    ) -> "_Attempt":
        """Send a hedge; return the attempt that has its first delta first, taken from `racing`."""
        self.counts.hedges += 1
        with self._tracer.span(asked.request.trace, "hedge") as span:
            below = msgspec.structs.replace(asked.request, trace=span.ref)
            hedge = self._attempt(_Asked(below, asked.ends_s), turn)
            racing[asyncio.create_task(self._open(hedge))] = hedge
            failed: list[MurmurateError] = []
            waiting = set(racing)
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for opening in done:
                    try:
                        opening.result()
                    except MurmurateError as error:
                        failed.append(error)
                        continue
                    winner = racing.pop(opening)
                    winner.losers = len(racing) - len(failed)
                    self._note_slow(racing)
                    self.counts.hedges_won += winner is hedge
                    span.note(won=winner is hedge)
                    return winner
            raise failed[0]

    def _note_slow(self, racing: dict["asyncio.Task[None]", "_Attempt"]) -> None:
        """Count what was too slow with the time that it had.

        Without the slow ones the quantile would sink with each hedge, until the budget is spent.
        """
        now_s = self._clock.now_s()
        waited_s = [now_s - it.began_s for opening, it in racing.items() if not opening.done()]
        self._firsts_s.extend(waited_s)

    async def _end_others(self, racing: dict["asyncio.Task[None]", "_Attempt"]) -> None:
        """Hang up at once on whoever lost; the tokens that they still write are theirs."""
        for opening in racing:
            opening.cancel()
        await asyncio.gather(*racing, return_exceptions=True)
        for attempt in racing.values():
            await self._close(attempt)

    def _hedge_s(self) -> float | None:
        """Return when to ask a second upstream; None: never."""
        terms = self._terms
        if terms.hedge_s is not None or terms.hedge_quantile is None:
            return terms.hedge_s
        if len(self._firsts_s) < FIRSTS_MIN:
            return None
        return sorted(self._firsts_s)[int(terms.hedge_quantile * len(self._firsts_s))]

    def _hedge_turn(self, tried: set[int]) -> Turn | None:
        """Return the turn of a second request, if one may be sent."""
        now_s = self._clock.now_s()
        if not self._hedges.take(now_s):
            return None
        turn = self._pool.take(now_s, tried=tried)
        if turn is not None:
            tried.add(turn.index)
        return turn

    def _attempt(self, asked: "_Asked", turn: Turn) -> "_Attempt":
        within_s = asked.ends_s - self._clock.now_s()
        deltas = self._upstreams[turn.index].answer(asked.request, within_s=within_s)
        return _Attempt(turn, deltas, self._clock.now_s())

    async def _open(self, attempt: "_Attempt") -> None:
        """Wait for the first delta, and note how that went."""
        try:
            attempt.first = await anext(attempt.deltas)
        except MurmurateError as error:
            self._note_failure(attempt, error)
            raise
        except BaseException:
            await self._close(attempt)
            raise
        now_s = self._clock.now_s()
        self._pool.answered(attempt.turn, now_s)
        self._firsts_s.append(now_s - attempt.began_s)

    def _note_failure(self, attempt: "_Attempt", error: MurmurateError) -> None:
        failure, now_s = failure_of(error), self._clock.now_s()
        self._pool.failed(attempt.turn, failure, now_s, retry_s=error.retry_s)
        if MEANINGS[failure].is_ill:
            # Other failures have the upstream's words in them, which may quote another tenant.
            self._why = f"; {error.detail}" if failure is Failure.UNREACHABLE else ""

    async def _close(self, attempt: "_Attempt") -> None:
        self._pool.over(attempt.turn)
        await attempt.deltas.aclose()

    def _at_rest(self) -> EngineUnreachableError:
        wait_s = max(self._pool.waits_s(self._clock.now_s()), 1.0)
        return EngineUnreachableError(
            f"{self._name} failed too often and is left alone; retry after {wait_s:.0f} s"
            f"{self._why}",
            retry_s=wait_s,
        )


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request, and when its time is over."""

    request: Request
    ends_s: float


class _Attempt:
    """One upstream asked once: its deltas, the first of them apart, and how many it outran."""

    def __init__(self, turn: Turn, deltas: AsyncGenerator[Delta], began_s: float) -> None:
        self.turn = turn
        self.deltas = deltas
        self.began_s = began_s
        self.first: Delta
        self.losers = 0
