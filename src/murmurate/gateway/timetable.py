"""Schedules: what will begin by itself, and what did last."""

from murmurate.core.ports import Span
from murmurate.core.types import Caller
from murmurate.gateway.exchange import Exchange
from murmurate.gateway.ports import Schedules


class Timetable:
    """The routes of schedules."""

    def __init__(self, schedules: Schedules) -> None:
        self._schedules = schedules

    async def listing(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """List the tenant's schedules: when each is due next, and the run that it began last."""
        del span
        found = await self._schedules.listing(caller.tenant)
        await exchange.answer_json(200, {"schedules": found})
