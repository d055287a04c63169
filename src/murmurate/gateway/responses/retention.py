"""Forgets responses that were stored long ago: a log that only grows fills its disk one day."""

from collections.abc import Callable, Collection
from contextlib import aclosing

from murmurate.core.clock import Clock
from murmurate.core.errors import MurmurateError
from murmurate.core.ids import first_of
from murmurate.core.ports import EventLog, Log
from murmurate.gateway.responses.store import stream_of

LOOK_S = 3600.0


class ResponseRetention:
    """Forgets the responses of all tenants that were begun `kept_s` ago."""

    def __init__(
        self,
        *,
        log: Log,
        clock: Clock,
        events: EventLog,
        kept_s: float,
        tenants: Callable[[], Collection[str]],
    ) -> None:
        self._log = log
        self._clock = clock
        self._events = events
        self._kept_ms = int(kept_s * 1000)
        self._tenants = tenants

    async def keep_up(self) -> None:
        """Look once an hour, until cancelled."""
        while True:
            try:
                if forgotten := await self.look():
                    self._events.event("responses.forgotten", responses=forgotten)
            except MurmurateError as error:
                self._events.event("responses.log", code=error.code, detail=error.detail)
            await self._clock.sleep(LOOK_S)

    async def look(self) -> int:
        """Forget what is old enough; return how many responses that were."""
        end = stream_of(first_of("resp", self._clock.unix_ms() - self._kept_ms))
        forgotten = 0
        for tenant in sorted(self._tenants()):
            for name in await self._older(tenant, end):
                await self._log.forget(tenant, name)
                forgotten += 1
        return forgotten

    async def _older(self, tenant: str, end: str) -> list[str]:
        """Return the tenant's responses that were begun before that."""
        found: list[str] = []
        async with aclosing(self._log.streams(tenant, stream_of(""))) as streams:
            async for info in streams:
                if info.stream >= end:
                    break
                found.append(info.stream)
        return found
