"""Forgets runs that ended long ago: a log that only grows fills its disk one day."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import aclosing

from murmurate.core.clock import Clock
from murmurate.core.errors import FencedError, LogConflictError, LogCorruptError, MurmurateError
from murmurate.core.ids import first_of
from murmurate.core.ports import Done, EventLog, Log
from murmurate.jobs.batch_lines import LINE_RUN
from murmurate.jobs.entries import Kind, id_of, stream_of
from murmurate.jobs.notices import notice_stream

LOOK_S = 3600.0
Sweep = Callable[[str], Awaitable[int]]
"""Forgets what is old enough of a tenant; returns how much that was."""
ENDS = {Kind.FINISHED.value, Kind.FAILED.value, Kind.CANCELLED.value}


class Retention:
    """Forgets the runs of all tenants that began `kept_s` ago and have ended.

    One that is under way or waits stays, however old; one that was given up goes like the others.
    """

    def __init__(
        self,
        *,
        log: Log,
        clock: Clock,
        events: EventLog,
        kept_s: float,
        tenants: Callable[[], Collection[str]],
        sweeps: Sequence[Sweep] = (),
    ) -> None:
        """`sweeps` forget other things, with the runs."""
        self._log = log
        self._clock = clock
        self._events = events
        self._kept_ms = int(kept_s * 1000)
        self._tenants = tenants
        self._sweeps = sweeps

    async def keep_up(self) -> None:
        """Look once an hour, until cancelled."""
        while True:
            try:
                if forgotten := await self.look():
                    self._events.event("runs.forgotten", runs=forgotten)
                if swept := await self.sweep():
                    self._events.event("log.swept", things=swept)
            except MurmurateError as error:
                self._events.event("runs.log", code=error.code, detail=error.detail)
            await self._clock.sleep(LOOK_S)

    async def look(self) -> int:
        """Forget what is old enough; return how many runs that were."""
        forgotten = 0
        for tenant in sorted(self._tenants()):
            for name, head in await self._older(tenant):
                try:
                    forgotten += await self._forget(tenant, name, head)
                except (LogConflictError, FencedError):
                    continue  # it was resumed meanwhile, or one of its notices is delivered now
                except LogCorruptError as damage:  # whether it has ended is not known: it stays
                    self._events.event("runs.log", code=damage.code, detail=damage.detail)
        return forgotten

    async def forget(self, tenant: str, run_id: str) -> bool:
        """Forget a run now, if it has ended; return whether it is gone."""
        name = stream_of(run_id)
        async with aclosing(self._log.streams(tenant, name)) as streams:
            info = await anext(streams, None)
        if info is None or info.stream != name:
            return True
        return await self._forget(tenant, name, info.head)

    async def sweep(self) -> int:
        """Forget what the others find; what is damaged stops none of them."""
        swept = 0
        for tenant in sorted(self._tenants()):
            for sweep in self._sweeps:
                try:
                    swept += await sweep(tenant)
                except (LogConflictError, LogCorruptError) as error:
                    self._events.event("runs.log", code=error.code, detail=error.detail)
        return swept

    async def _forget(self, tenant: str, name: str, head: int) -> bool:
        """Forget a run if it has ended; return whether it was."""
        if not await self._has_ended(tenant, name, head):
            return False
        await self._forget_notices(tenant, id_of(name))
        await self._log.append([], expected={(tenant, name): head}, work=[Done(tenant, name)])
        await self._log.forget(tenant, name)
        return True

    async def _forget_notices(self, tenant: str, run_id: str) -> None:
        """Forget what the world was told of a run's ends, and what nobody wanted to hear."""
        async with aclosing(self._log.streams(tenant, notice_stream(run_id, 0))) as streams:
            notices = [info.stream async for info in streams]
        for stream in notices:
            await self._log.append([], work=[Done(tenant, stream)])
            await self._log.forget(tenant, stream)

    async def _older(self, tenant: str) -> list[tuple[str, int]]:
        """Return the tenant's runs that are old enough, with their last seqs.

        Those of batches are as old as their batch.
        """
        found: list[tuple[str, int]] = []
        for prefix in ("run", LINE_RUN):
            end = stream_of(first_of(prefix, self._clock.unix_ms() - self._kept_ms))
            async with aclosing(self._log.streams(tenant, stream_of(f"{prefix}_"))) as streams:
                async for info in streams:
                    if info.stream >= end:
                        break
                    found.append((info.stream, info.head))
        return found

    async def _has_ended(self, tenant: str, name: str, head: int) -> bool:
        """Tell whether the run's last word is its end: where it was resumed, it is not.

        That somebody wished to cancel it may come behind its end.
        """
        after = head - 1
        while after >= 0:
            async with aclosing(self._log.read(tenant, name, after=after)) as entries:
                last = await anext(entries, None)
            if last is None or last.kind != Kind.CANCEL:
                return last is not None and last.kind in ENDS
            after -= 1
        return False
