"""The book: notes what is used as it is used, and keeps it in the log.

Nothing waits for it. What was noted is written within `WRITE_S`, all of it in one append, so a
process that is killed takes at most that much with it; one that is stopped takes nothing.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from datetime import date, timedelta

import msgspec

from murmurate.accounts.prices import Price
from murmurate.accounts.usage import (
    PAGE,
    PREFIX,
    By,
    Line,
    Page,
    Row,
    Used,
    added_up,
    days_of,
    page_of,
    split,
    stream_of,
    time_of,
)
from murmurate.core.clock import Clock
from murmurate.core.errors import BadRequestError, MurmurateError
from murmurate.core.ports import SNAPSHOT, Entry, EventLog, Log
from murmurate.core.types import Usage

WRITE_S = 0.25
TIDY_S = 3600.0
PAGES_MAX = 512
"""More pages of a day than that become one."""
DAYS_MAX = 400
ROWS_MAX = 10_000
LINES_MAX = 100_000
"""So many lines wait at most while the log can't be written; further ones are lost, and counted."""

_FREE = Price()


class Book:
    """What every tenant has used."""

    def __init__(
        self,
        prices: Mapping[str, Price],
        *,
        log: Log,
        clock: Clock,
        events: EventLog,
        kept_days: int,
        tenants: Callable[[], Collection[str]],
    ) -> None:
        self._prices = prices
        self._log = log
        self._clock = clock
        self._events = events
        self._kept_days = kept_days
        self._tenants = tenants
        self._noted: dict[tuple[str, date, int, str, str], Used] = {}
        self.lost = 0
        """Notes for which there was no room any more."""

    def asked(self, tenant: str, key: str, model: str) -> None:
        """Note that a client has asked."""
        self._note(tenant, key, model, Used(requests=1))

    def used(self, tenant: str, key: str, model: str, usage: Usage) -> int:
        """Note the tokens of one call of an engine; return what they cost, in picos."""
        cost = self._prices.get(model, _FREE).cost(usage)
        tokens = (usage.tokens_in, usage.tokens_out, usage.tokens_cached)
        self._note(tenant, key, model, Used(0, 1, *tokens, cost))
        return cost

    def _note(self, tenant: str, key: str, model: str, used: Used) -> None:
        day, hour = time_of(self._clock.unix_ms())
        place = (tenant, day, hour, key, model)
        known = self._noted.get(place)
        if known is not None:
            self._noted[place] = known.plus(used)
        elif len(self._noted) < LINES_MAX:
            self._noted[place] = used
        else:
            self.lost += 1

    async def keep(self) -> None:
        """Write down what was noted, again and again, until cancelled."""
        while True:
            try:
                await self.write()
            except MurmurateError as error:
                self._events.event("usage.log", code=error.code, detail=error.detail)
            await self._clock.sleep(WRITE_S)

    async def write(self) -> None:
        """Write down what was noted; where that fails it stays noted."""
        noted, self._noted = self._noted, {}
        pages: dict[tuple[str, date], list[Line]] = {}
        for (tenant, day, hour, key, model), used in noted.items():
            pages.setdefault((tenant, day), []).append(Line(hour, key, model, used))
        entries = [
            Entry(tenant, stream_of(day), PAGE, msgspec.json.encode(Page(tuple(lines))))
            for (tenant, day), lines in pages.items()
        ]
        if not entries:
            return
        try:
            await self._log.append(entries)
        except MurmurateError:  # one that was cancelled was handed over, and will be written
            for place, used in self._noted.items():
                known = noted.get(place)
                noted[place] = used if known is None else known.plus(used)
            self._noted = noted
            raise

    async def sums(self, tenant: str, first: date, last: date, by: Sequence[str]) -> Sequence[Row]:
        """Return what a tenant used from the first day to the last, split by day, hour, key, model.

        `BadRequestError`: too many days, too many rows, or nothing that it can be split by.
        """
        parts = _parts(by)
        if not 0 <= (last - first).days < DAYS_MAX:
            raise BadRequestError(
                f"since = {first}, until = {last}: expected 1 to {DAYS_MAX} days", param="since"
            )
        days = [(day, (await self._day(tenant, stream_of(day)))[0]) for day in days_of(first, last)]
        rows = split(days, parts)
        if len(rows) > ROWS_MAX:
            raise BadRequestError(
                f"that is {len(rows)} rows, the most is {ROWS_MAX}: ask for fewer days, or split"
                " by less",
                param="by",
            )
        return rows

    async def keep_tidy(self) -> None:
        """Make one page of many, and forget what is too old, once an hour, until cancelled."""
        while True:
            for tenant in sorted(self._tenants()):
                try:
                    await self.tidy(tenant)
                except MurmurateError as error:
                    self._events.event("usage.log", code=error.code, detail=error.detail)
            await self._clock.sleep(TIDY_S)

    async def tidy(self, tenant: str) -> None:
        """Make one page of the many of a day, and forget the days that are too old."""
        today, _ = time_of(self._clock.unix_ms())
        async with aclosing(self._log.streams(tenant, PREFIX)) as streams:
            names = [info.stream async for info in streams]
        for name in names:
            if name < stream_of(today - timedelta(days=self._kept_days)):
                await self._log.forget(tenant, name)
                continue
            page, pages, seq = await self._day(tenant, name)
            if pages > (PAGES_MAX if name == stream_of(today) else 1):
                await self._log.snapshot(tenant, name, seq, msgspec.json.encode(page))
                await self._log.forget(tenant, name, before=seq + 1)

    async def _day(self, tenant: str, stream: str) -> tuple[Page, int, int]:
        """Return a day's sums, how many pages they are made of, and the last one's seq."""
        lines: list[Line] = []
        pages = seq = 0
        async with aclosing(self._log.read(tenant, stream)) as entries:
            async for stored in entries:
                if stored.kind == SNAPSHOT:  # it stands for all before it
                    lines.clear()
                    pages = 0
                lines += page_of(stored).lines
                pages, seq = pages + 1, stored.seq
        return added_up(lines), pages, seq


def _parts(names: Sequence[str]) -> Sequence[By]:
    """Return what to split by, each once."""
    try:
        return tuple(dict.fromkeys(By(name) for name in names))
    except ValueError:
        shown = ",".join(names)[:64]
        raise BadRequestError(
            f"by = {shown!r}: expected some of {', '.join(By)}", param="by"
        ) from None
