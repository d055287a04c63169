"""Deadlines of runs: one that has not ended by then fails, wherever it is worked on or waits.

Whoever works on a run ends it itself, in time. A run that waits (for its turn, for a later
attempt, for a server to be given up) is ended by an errand that becomes due with the deadline.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

import msgspec

from murmurate.core.clock import Clock
from murmurate.core.errors import FencedError, LogConflictError, LogCorruptError, RunDeadlineError
from murmurate.core.ports import Claim, Done, Entry, Log, Offer
from murmurate.jobs.entries import Kind, RunState, RunStatus, folded, stream_of
from murmurate.jobs.journal import all_told, failure_of, put_off, strike_off

DEADLINES = "deadlines"
PREFIX = "deadline/"
AGAIN_MS = 1_000
"""When to look again at a run that somebody works on: its holder may have died just now."""


def deadline_offer(tenant: str, run_id: str, deadline_ms: int) -> Offer:
    """Return the errand that ends a run at its deadline."""
    return Offer(tenant, f"{PREFIX}{run_id}", DEADLINES, due_ms=deadline_ms)


@asynccontextmanager
async def in_time(deadline_ms: int | None, *, now_ms: int) -> AsyncGenerator[None]:
    """Cancel the block at the deadline: it ends with `RunDeadlineError`, or does not begin."""
    left_s = None if deadline_ms is None else (deadline_ms - now_ms) / 1000
    if left_s is not None and left_s <= 0:
        raise too_late()
    limit = asyncio.timeout(left_s)
    try:
        async with limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise too_late() from None


def too_late() -> RunDeadlineError:
    """Return what a run fails with."""
    return RunDeadlineError("the run had not ended by its deadline")


class Deadlines:
    """Ends the runs that wait when their time is over."""

    def __init__(self, log: Log, clock: Clock) -> None:
        self._log = log
        self._clock = clock

    async def end(self, claim: Claim) -> None:
        """Do the errand: end the run if it has not ended, and if nobody works on it."""
        run_id = claim.stream.removeprefix(PREFIX)
        try:
            state, head = await self._read(claim.tenant, run_id)
        except LogCorruptError:  # whoever holds the run finds that, too, and gives it up
            await strike_off(self._log, claim)
            return
        deadline_ms, now_ms = state.begun.deadline_ms, self._clock.unix_ms()
        if deadline_ms is None or state.status is not RunStatus.UNDER_WAY:
            await strike_off(self._log, claim)
        elif now_ms < deadline_ms:
            await put_off(self._log, claim, deadline_ms)
        else:
            try:
                await self._fail(claim, state, head)
            except (FencedError, LogConflictError):
                await put_off(self._log, claim, now_ms + AGAIN_MS)

    async def _fail(self, claim: Claim, state: RunState, head: int) -> None:
        """End a run that nobody holds. `FencedError`, `LogConflictError`: somebody does."""
        place, error = (claim.tenant, stream_of(state.id)), too_late()
        entry = Entry(*place, Kind.FAILED.value, msgspec.json.encode(failure_of(error)))
        told, offers = all_told(state.begun, place, how=Kind.FAILED, ends=state.ends, outcome=error)
        await self._log.append(
            [entry, *told],
            expected={place: head},
            fence=claim,
            work=[Done(*place), Done(claim.tenant, claim.stream), *offers],
        )

    async def _read(self, tenant: str, run_id: str) -> tuple[RunState, int]:
        async with aclosing(self._log.read(tenant, stream_of(run_id))) as entries:
            found = [stored async for stored in entries]
        return folded(run_id, found), found[-1].seq
