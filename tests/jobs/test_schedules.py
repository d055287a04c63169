"""Each time of a schedule begins one run, whatever servers and clocks do."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from murmurate.adapters.memory import MemoryLog
from murmurate.config import ScheduleConfig
from murmurate.core.errors import FencedError, LogConflictError, LogUnavailableError
from murmurate.core.ports import Done, Entry, Stored
from murmurate.core.types import Lane, SessionRef
from murmurate.jobs.entries import QUEUE, Begun
from murmurate.jobs.errands import Errands
from murmurate.jobs.schedules import (
    KEPT,
    LOOK_S,
    MISSED_MS,
    SCHEDULES,
    Schedules,
)
from murmurate.jobs.vigil import LOOK_S as WATCH_S
from murmurate.jobs.vigil import TTL_S
from murmurate.testing.stories import all_of, names_of
from tests.fakes import RecordingLog, run_skipping_time, seeded_ids
from tests.jobs.stage import Clock, Server, Shop

MINUTELY = {"cron": "* * * * *", "model": "agent", "message": "buy", "tenant": "a"}
DAILY = {**MINUTELY, "cron": "0 7 * * *", "zone": "Europe/Berlin"}
FRIDAY = "2026-11-20T06:00:00+01:00"
SOON_S = 3.0
"""So long after its time a schedule has fired."""


class Wall(Clock):
    """A wall clock that goes with the loop, until somebody sets it."""

    def __init__(self) -> None:
        super().__init__()
        self._ahead_ms = 0

    def unix_ms(self) -> int:
        return super().unix_ms() + self._ahead_ms

    def set(self, text: str) -> None:
        self._ahead_ms = ms(text) - super().unix_ms()


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


class House:
    """A server with schedules."""

    def __init__(self, name: str, hall: "Hall", **schedules: dict[str, Any]) -> None:
        self.server = Server(name, hall.log, hall.shop, clock=hall.wall)
        self.events = RecordingLog()
        self.schedules = Schedules(
            msgspec.convert(schedules, dict[str, ScheduleConfig]),
            log=self.server.wire,  # type: ignore[arg-type]
            clock=hall.wall,
            ids=seeded_ids(),
            events=self.events,
            has_session=hall.has_session,
            tenants=lambda: {"default", "a"},
        )
        self.server.errands.append(
            Errands(
                self.server.runner,
                self.schedules.fire,
                queue=SCHEDULES,
                log=self.server.wire,  # type: ignore[arg-type]
                clock=hall.wall,
                events=self.events,
            )
        )
        self.keeping: asyncio.Task[None] | None = None

    async def up(self) -> "House":
        await self.server.up()
        self.keeping = asyncio.create_task(self.schedules.keep())
        await asyncio.sleep(SOON_S)
        return self

    async def down(self) -> None:
        assert self.keeping is not None
        self.keeping.cancel()
        await self.server.down()


class Hall:
    """A log, a wall clock, and whoever is up."""

    def __init__(self) -> None:
        self.wall = Wall()
        self.log = MemoryLog(clock=self.wall)
        self.shop = Shop()
        self.sessions: set[str] = set()
        self.houses: list[House] = []

    async def has_session(self, tenant: str, session_id: str) -> bool:
        return session_id in self.sessions

    async def up(self, *names: str, **schedules: dict[str, Any]) -> House:
        for name in names:
            self.houses.append(await House(name, self, **schedules).up())
        return self.houses[-1]

    async def down(self) -> None:
        for house in self.houses:
            house.server.wire.mend()
            await house.down()
        self.houses.clear()

    async def begun(self) -> list[Begun]:
        """Return how the runs began, in the order of their ids, which is that of their times."""
        found: list[Begun] = []
        for name in names_of(await all_of(self.log.streams("a", "run/"))):
            [first, *later] = await all_of(self.log.read("a", name))
            assert "run.begun" not in {it.kind for it in later}, "it has begun once"
            found.append(msgspec.json.decode(first.body, type=Begun))
        return found

    async def fired(self, name: str = "s") -> list[str]:
        """Return the times that have fired and have left an entry, as UTC."""
        kinds = [it for it in await self.entries(name) if it.kind == "schedule.fired"]
        return [text_of(body_of(it)["last_ms"]) for it in kinds]

    async def entries(self, name: str = "s") -> list[Stored]:
        return await all_of(self.log.read("a", f"schedule/{name}"))

    async def due(self, name: str = "s") -> str | None:
        """Return the next time, as the work of the log has it."""
        work = await all_of(self.log.work("a", SCHEDULES))
        return next((text_of(it.due_ms) for it in work if it.stream == f"schedule/{name}"), None)

    async def pass_to(self, text: str) -> None:
        """Let the time come, and what is due then."""
        self.wall.set(text)
        await asyncio.sleep(SOON_S)


def text_of(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, tz=UTC):%m-%d %H:%M}"


def body_of(stored: Stored) -> Any:
    return msgspec.json.decode(stored.body)


def play(story: Callable[[Hall], Awaitable[None]], *, start: str = FRIDAY) -> None:
    async def whole() -> None:
        hall = Hall()
        hall.wall.set(start)
        try:
            await story(hall)
        finally:
            await hall.down()

    run_skipping_time(whole())


def test_each_time_begins_one_run_however_many_servers_are_up() -> None:
    async def story(hall: Hall) -> None:
        await hall.up("x", "y", "z", s=MINUTELY)
        await asyncio.sleep(180)
        assert await hall.fired() == ["11-20 05:01", "11-20 05:02", "11-20 05:03"]
        assert len(await hall.begun()) == 3
        assert hall.shop.effects == Counter({str(step): 3 for step in (1, 2, 3)})
        kinds = [it.kind for it in await hall.entries()]
        assert kinds == ["schedule.set", *["schedule.fired"] * 3]

    play(story)


def test_the_run_the_firing_and_the_next_time_are_one_append() -> None:
    async def story(hall: Hall) -> None:
        await hall.up("x", s={**DAILY, "priority": 3, "session": "diary"})
        hall.sessions.add("diary")
        await hall.pass_to("2026-11-20T07:00:00+01:00")
        [begun] = await hall.begun()
        request = begun.request
        assert (request.tenant, request.model, request.messages[0].text) == ("a", "agent", "buy")
        assert (request.lane, request.session) == (Lane.BATCH, SessionRef("diary"))
        assert begun.background
        [stream] = names_of(await all_of(hall.log.streams("a", "run/")))
        [first, *_] = await all_of(hall.log.read("a", stream))
        *_, fired = await hall.entries()
        assert fired.position == first.position + 1
        assert f"run/{body_of(fired)['last_run']}" == stream
        assert await hall.due() == "11-21 06:00"

    play(story)


def test_a_run_of_a_schedule_has_its_priority() -> None:
    async def story(hall: Hall) -> None:
        house = await hall.up("x", s={**DAILY, "priority": 3})
        house.server.runner._at_a_time = 0
        await hall.pass_to("2026-11-20T07:00:00+01:00")
        [run] = await all_of(hall.log.work("a", QUEUE))
        assert run.priority == 3

    play(story)


def test_a_run_of_a_schedule_has_its_deadline_and_tells_of_its_end() -> None:
    async def story(hall: Hall) -> None:
        url = "https://receiver.example/"
        house = await hall.up("x", s={**DAILY, "deadline_s": 5, "webhook": url})
        house.server.runner._at_a_time = 0
        await hall.pass_to("2026-11-20T07:00:00+01:00")
        [begun] = await hall.begun()
        assert begun.webhook == url
        assert begun.deadline_ms is not None
        await hall.pass_to("2026-11-20T07:00:10+01:00")
        [name] = names_of(await all_of(hall.log.streams("a", "run/")))
        failed = [it for it in await all_of(hall.log.read("a", name)) if it.kind == "run.failed"]
        assert [body_of(it)["code"] for it in failed] == ["run.deadline"]
        assert len(house.server.fetcher.sent) == 1

    play(story)


@pytest.mark.parametrize(
    ("session", "known", "expected"),
    [(None, False, None), ("diary", False, True), ("diary", True, False), ("new", False, True)],
)
def test_a_session_goes_on_from_run_to_run_or_is_new(
    session: str | None, known: bool, expected: bool | None
) -> None:
    async def story(hall: Hall) -> None:
        if known:
            hall.sessions.add("diary")
        await hall.up("x", s={**DAILY, "session": session})
        await hall.pass_to("2026-11-20T07:00:00+01:00")
        await hall.pass_to("2026-11-21T07:00:00+01:00")
        sessions = [it.request.session for it in await hall.begun()]
        assert [None if it is None else it.new for it in sessions] == [expected] * 2
        names = {it.id for it in sessions if it is not None}
        assert len(names) == {None: 0, "diary": 1, "new": 2}[session]

    play(story)


@pytest.mark.parametrize(
    ("start", "cron", "expected"),
    [
        ("2026-03-28T20:00:00+01:00", "30 2 * * *", "03-29 01:00"),  # 03:00, at once after the gap
        ("2026-10-24T20:00:00+02:00", "30 2 * * *", "10-25 00:30"),  # the first 02:30
    ],
)
def test_on_a_day_with_another_number_of_hours_it_fires_once(
    start: str, cron: str, expected: str
) -> None:
    async def story(hall: Hall) -> None:
        await hall.up("x", "y", s={**DAILY, "cron": cron})
        assert await hall.due() == expected
        for minute in range(0, 300, 10):  # through the night, in steps that miss no time
            await hall.pass_to(f"2026-{expected[:5]}T{minute // 60:02}:{minute % 60:02}:00+00:00")
        assert await hall.fired() == [expected]
        assert len(await hall.begun()) == 1

    play(story, start=start)


def test_a_server_that_dies_while_it_fires_is_followed_by_another() -> None:
    async def story(hall: Hall) -> None:
        await hall.up("x", s=DAILY)
        await hall.down()
        hall.wall.set("2026-11-20T07:00:00+01:00")
        await hall.log.renew("dead")
        [claim] = await hall.log.claim(SCHEDULES, "dead", limit=1)
        await hall.up("y", s=DAILY)
        await asyncio.sleep(TTL_S + 4 * WATCH_S + SOON_S)
        assert await hall.fired() == ["11-20 06:00"]
        late = House("dead", hall, s=DAILY)
        with pytest.raises((FencedError, LogConflictError)):
            await late.schedules.fire(claim)
        assert len(await hall.begun()) == 1

    play(story)


def test_a_hung_server_that_wakes_up_late_fires_nothing_again() -> None:
    async def story(hall: Hall) -> None:
        house = await hall.up("x", s=DAILY)
        await hall.up("y", s=DAILY)
        house.server.wire.cut()
        await hall.pass_to("2026-11-20T07:00:00+01:00")
        await asyncio.sleep(10)
        house.server.wire.mend()
        await asyncio.sleep(10)
        assert await hall.fired() == ["11-20 06:00"]
        assert len(await hall.begun()) == 1

    play(story)


@pytest.mark.parametrize(("missed", "runs"), [("once", 1), ("skip", 0)])
def test_after_a_day_without_a_server_one_run_or_none_makes_up_for_it(
    missed: str, runs: int
) -> None:
    async def story(hall: Hall) -> None:
        hourly = {**DAILY, "cron": "0 * * * *", "missed": missed}
        await hall.up("x", s=hourly)
        await hall.down()
        hall.wall.set("2026-11-21T06:30:00+01:00")
        house = await hall.up("y", s=hourly)
        assert len(await hall.begun()) == runs
        assert await hall.due() == "11-21 06:00"
        assert len(house.events.named("schedule.skipped")) == 1 - runs
        await hall.pass_to("2026-11-21T07:00:00+01:00")
        assert len(await hall.begun()) == runs + 1

    play(story)


def test_a_time_that_is_only_late_is_not_missed() -> None:
    async def story(hall: Hall) -> None:
        skipping = {**DAILY, "missed": "skip"}
        await hall.up("x", s=skipping)
        await hall.down()
        hall.wall.set("2026-11-20T07:00:50+01:00")
        await hall.up("y", s=skipping)
        assert 50_000 + SOON_S * 1000 < MISSED_MS
        assert await hall.fired() == ["11-20 06:00"]

    play(story)


def test_a_clock_that_is_set_back_repeats_no_time_and_delays_none() -> None:
    async def story(hall: Hall) -> None:
        await hall.up("x", "y", s={**DAILY, "cron": "0 * * * *"})
        await hall.pass_to("2026-11-20T07:00:00+01:00")
        await hall.pass_to("2026-11-20T08:00:00+01:00")
        assert len(await hall.begun()) == 2
        hall.wall.set("2026-11-20T06:59:30+01:00")
        await asyncio.sleep(2 * LOOK_S + SOON_S)
        assert await hall.due() == "11-20 07:00", "the old 07:00 came again, and began nothing"
        assert len(await hall.begun()) == 2
        await hall.pass_to("2026-11-20T08:00:00+01:00")
        await hall.pass_to("2026-11-20T09:00:00+01:00")
        assert len(await hall.begun()) == 3

    play(story)


def test_a_clock_that_was_years_ahead_and_is_mended_leaves_no_schedule_behind() -> None:
    async def story(hall: Hall) -> None:
        await hall.up("x", s=DAILY)
        await hall.pass_to("2031-01-01T12:00:00+01:00")
        assert len(await hall.begun()) == 1
        hall.wall.set("2026-11-20T06:58:00+01:00")
        await asyncio.sleep(2 * LOOK_S + SOON_S)
        assert await hall.due() == "11-20 06:00"
        assert len(await hall.begun()) == 1

    play(story)


def test_a_changed_schedule_is_due_by_its_new_rule_and_a_removed_one_never() -> None:
    async def story(hall: Hall) -> None:
        await hall.up("x", s=DAILY, other=DAILY)
        await hall.pass_to("2026-11-20T07:00:00+01:00")
        await hall.down()
        house = await hall.up("y", s={**DAILY, "cron": "30 9 * * *"})
        assert (await hall.due(), await hall.due("other")) == ("11-20 08:30", None)
        [info] = await house.schedules.listing("a")
        assert info.last_ms == ms("2026-11-20T07:00:00+01:00")
        await hall.down()
        await hall.up("z", s={**DAILY, "cron": "30 9 * * *"}, other=DAILY)
        assert await hall.due("other") == "11-21 06:00"
        assert [it.kind for it in await hall.entries("other")] == [
            "schedule.set",
            "schedule.fired",
            "schedule.removed",
            "schedule.set",
        ]

    play(story)


def test_a_schedule_that_moves_to_another_tenant_leaves_the_first() -> None:
    async def story(hall: Hall) -> None:
        await hall.up("x", s=DAILY)
        await hall.down()
        house = await hall.up("y", s={**DAILY, "tenant": "b"})
        assert await hall.due() is None
        [work] = await all_of(hall.log.work("b", SCHEDULES))
        assert work.stream == "schedule/s"
        assert await house.schedules.listing("a") == []

    play(story)


def test_a_server_with_an_older_configuration_leaves_a_schedule_to_the_others() -> None:
    async def story(hall: Hall) -> None:
        await hall.up("old", "older", s={**DAILY, "cron": "0 22 * * *"})
        await hall.up("oldest")
        await hall.up("new", s=DAILY)
        assert await hall.due() == "11-20 06:00"
        hall.wall.set("2026-11-20T07:00:00+01:00")
        await asyncio.sleep(60)
        assert await hall.fired() == ["11-20 06:00"]
        assert await hall.due() == "11-21 06:00"
        [old] = await hall.houses[0].schedules.listing("a")
        assert (old.cron, old.next_ms) == ("0 22 * * *", None)

    play(story)


def test_a_list_says_when_each_is_due_and_what_it_began_last() -> None:
    async def story(hall: Hall) -> None:
        house = House("x", hall, s=DAILY, t=MINUTELY)
        first, second = await house.schedules.listing("a")
        assert (first.name, first.zone, first.next_ms, first.last_run) == (
            "s",
            "Europe/Berlin",
            None,
            None,
        )
        assert (second.name, second.zone, second.model) == ("t", "UTC", "agent")
        hall.houses.append(await house.up())
        await hall.pass_to("2026-11-20T07:00:00+01:00")
        first, _ = await house.schedules.listing("a")
        assert first.next_ms == ms("2026-11-21T07:00:00+01:00")
        assert first.last_ms == ms("2026-11-20T07:00:00+01:00")
        assert f"run/{first.last_run}" in names_of(await all_of(hall.log.streams("a", "run/")))
        assert await house.schedules.listing("b") == []

    play(story)


def test_a_damaged_schedule_is_placed_anew() -> None:
    async def story(hall: Hall) -> None:
        house = await hall.up("x", s=DAILY)
        await hall.log.append([Entry("a", "schedule/s", "schedule.set", b"nonsense")])
        await hall.pass_to("2026-11-20T07:00:00+01:00")
        assert house.events.named("schedule.damaged") == [{"schedule": "s"}]
        assert await hall.due() == "11-21 06:00"
        await hall.log.append([Entry("a", "schedule/s", "schedule.set", b"nonsense")])
        await hall.down()
        await hall.up("y", s=DAILY)
        await hall.pass_to("2026-11-21T07:00:00+01:00")
        assert body_of((await hall.entries())[-1])["last_ms"] == ms("2026-11-21T07:00:00+01:00")
        assert len(await hall.begun()) == 1

    play(story)


def test_work_that_was_lost_is_offered_again_at_the_next_start() -> None:
    async def story(hall: Hall) -> None:
        await hall.up("x", s=DAILY)
        await hall.down()
        await hall.log.append([], work=[Done("a", "schedule/s")])
        await hall.up("y", s=DAILY)
        assert await hall.due() == "11-20 06:00"

    play(story)


def test_only_the_newest_entries_of_a_schedule_are_kept() -> None:
    async def story(hall: Hall) -> None:
        house = House("x", hall, s=MINUTELY)
        await house.server.runner.enlist()
        await house.schedules.take_up()
        for _ in range(2 * KEPT + 5):
            [work] = await all_of(hall.log.work("a", SCHEDULES))
            hall.wall._ahead_ms += work.due_ms - hall.wall.unix_ms()
            [claim] = await hall.log.claim(SCHEDULES, "x", limit=1)
            await house.schedules.fire(claim)
        assert len(await hall.begun()) == 2 * KEPT + 5
        assert 0 < len(await hall.entries()) <= KEPT + 1

    play(story)


def test_an_outage_of_the_log_at_the_start_is_outlasted() -> None:
    async def story(hall: Hall) -> None:
        append, down = hall.log.append, [LogUnavailableError("full")] * 3

        async def flaky(entries: list[Entry], **kwargs: object) -> list[int]:
            if down and any(it.stream.startswith("schedule/") for it in entries):
                raise down.pop()
            return await append(entries, **kwargs)  # type: ignore[arg-type]

        hall.log.append = flaky  # type: ignore[method-assign,assignment]
        house = await hall.up("x", s=DAILY)
        await asyncio.sleep(5)
        assert await hall.due() == "11-20 06:00"
        assert len(house.events.named("schedules.log")) == 3

    play(story)
