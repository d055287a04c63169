"""The book: noted at once, written soon, added up from whatever the log holds."""

import asyncio
from collections.abc import Sequence
from datetime import date
from typing import Any

import pytest

from murmurate.accounts.prices import Price
from murmurate.accounts.service import LINES_MAX, PAGES_MAX, Book
from murmurate.accounts.usage import Row, Used
from murmurate.adapters.memory import MemoryLog
from murmurate.core.errors import BadRequestError, LogUnavailableError
from murmurate.core.ports import Entry
from murmurate.core.types import Usage
from murmurate.testing.stories import all_of, names_of
from tests.fakes import FakeClock, RecordingLog

TODAY = date(2026, 11, 21)
NOON_S = 1_795_262_400.0
DAY_S = 86_400.0


class Shelf(MemoryLog):
    """A log that can be out of reach."""

    is_out = False

    async def append(self, entries: Sequence[Entry], **terms: Any) -> list[int]:
        if self.is_out:
            raise LogUnavailableError("no disk")
        return await super().append(entries, **terms)


class Office:
    """A book over a log in memory, at noon."""

    def __init__(self) -> None:
        self.clock = FakeClock(NOON_S)
        self.log = Shelf(clock=self.clock)
        self.book = self.opened()

    def opened(self) -> Book:
        return Book(
            {"tiny": Price.of_a_million(1.0, 2.0)},
            log=self.log,
            clock=self.clock,
            events=RecordingLog(),
            kept_days=30,
            tenants=lambda: {"a"},
        )

    async def sums(self, *by: str, tenant: str = "a", last: date = TODAY) -> Sequence[Row]:
        return await self.book.sums(tenant, TODAY, last, by)


def test_what_is_noted_is_written_and_adds_up_over_servers() -> None:
    async def story() -> None:
        office = Office()
        for book in (office.book, office.opened()):
            book.asked("a", "key_a", "helper")
            book.used("a", "key_a", "tiny", Usage(10, 5))
            book.used("b", "key_b", "tiny", Usage(1, 1))
            assert await office.sums() == [] or book is not office.book
            await book.write()
        assert await office.sums("key", "model") == [
            Row(Used(requests=2), key="key_a", model="helper"),
            Row(Used(0, 2, 20, 10, 0, 2 * 20_000_000), key="key_a", model="tiny"),
        ]
        assert await office.sums(tenant="b") == [Row(Used(0, 2, 2, 2, 0, 6_000_000))]

    asyncio.run(story())


def test_a_model_without_a_price_costs_nothing() -> None:
    office = Office()
    assert office.book.used("a", "k", "other", Usage(10, 10)) == 0
    assert office.book.used("a", "k", "tiny", Usage(1, 1)) == 3_000_000


def test_what_can_not_be_written_stays_noted() -> None:
    async def story() -> None:
        office = Office()
        office.book.asked("a", "k", "tiny")
        office.log.is_out = True
        with pytest.raises(LogUnavailableError):
            await office.book.write()
        office.book.asked("a", "k", "tiny")
        office.log.is_out = False
        await office.book.write()
        await office.book.write()
        assert await office.sums() == [Row(Used(requests=2))]

    asyncio.run(story())


def test_notes_without_room_are_counted() -> None:
    office = Office()
    for number in range(LINES_MAX + 3):
        office.book.asked("a", f"key_{number}", "tiny")
    office.book.asked("a", "key_0", "tiny")
    assert office.book.lost == 3


def test_each_day_has_its_own_stream_and_many_pages_become_one() -> None:
    async def story() -> None:
        office = Office()
        for _ in range(PAGES_MAX + 1):
            office.book.asked("a", "k", "tiny")
            await office.book.write()
        office.clock.time_s += DAY_S
        for _ in range(2):
            office.book.asked("a", "k", "tiny")
            await office.book.write()
        tomorrow = date(2026, 11, 22)
        before = await office.sums("day", last=tomorrow)
        await office.book.tidy("a")
        assert await office.sums("day", last=tomorrow) == before
        counts = [
            len(await all_of(office.log.read("a", f"usage/{day}"))) for day in (TODAY, tomorrow)
        ]
        assert counts == [1, 2]  # today's few pages are left alone
        office.book.asked("a", "k", "tiny")
        await office.book.write()
        assert [row.used.requests for row in await office.sums("day", last=tomorrow)] == [513, 3]

    asyncio.run(story())


def test_old_days_are_forgotten() -> None:
    async def story() -> None:
        office = Office()
        for _ in range(3):
            office.book.asked("a", "k", "tiny")
            await office.book.write()
            office.clock.time_s += 20 * DAY_S
        office.clock.time_s -= 10 * DAY_S  # the days are 50, 30 and 10 days old
        await office.book.tidy("a")
        names = names_of(await all_of(office.log.streams("a", "")))
        assert names == ["usage/2026-12-11", "usage/2026-12-31"]

    asyncio.run(story())


@pytest.mark.parametrize(
    ("first", "last", "by", "param"),
    [
        (TODAY, date(2026, 11, 20), (), "since"),
        (date(2020, 1, 1), TODAY, (), "since"),
        (TODAY, TODAY, ("colour",), "by"),
    ],
)
def test_what_can_not_be_added_up_is_refused(
    first: date, last: date, by: tuple[str, ...], param: str
) -> None:
    with pytest.raises(BadRequestError) as refused:
        asyncio.run(Office().book.sums("a", first, last, by))
    assert refused.value.param == param


def test_too_many_rows_are_refused() -> None:
    async def story() -> None:
        office = Office()
        for number in range(10_001):
            office.book.asked("a", f"key_{number}", "tiny")
        await office.book.write()
        assert len(await office.sums("model")) == 1
        with pytest.raises(BadRequestError, match="10001 rows"):
            await office.sums("key")

    asyncio.run(story())
