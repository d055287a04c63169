"""Runs that ended long ago are forgotten, and nothing else."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest

from murmurate.adapters.memory import MemoryLog
from murmurate.core.errors import (
    LogConflictError,
    LogCorruptError,
    LogUnavailableError,
    MurmurateError,
)
from murmurate.core.ids import Ids
from murmurate.core.ports import NEVER_MS, Entry, Offer
from murmurate.jobs.batch_lines import run_of
from murmurate.jobs.entries import DEAD, Kind, id_of, stream_of
from murmurate.jobs.notices import HOOKS_DEAD
from murmurate.jobs.retention import LOOK_S, Retention
from murmurate.testing.stories import all_of, names_of
from tests.fakes import FakeClock, RecordingLog

DAY_S = 86_400


class Stage:
    """A log with runs of several days."""

    def __init__(self) -> None:
        self.clock = FakeClock(100.0 * DAY_S)
        self.ids = Ids(self.clock, random.Random(1))
        self.log = MemoryLog(clock=self.clock)
        self.events = RecordingLog()
        self.retention = Retention(
            log=self.log,
            clock=self.clock,
            events=self.events,
            kept_s=30 * DAY_S,
            tenants=lambda: {"a", "b"},
        )

    async def run(self, day: int, *kinds: Kind, tenant: str = "a") -> str:
        self.clock.time_s = day * DAY_S
        stream = stream_of(self.ids.new("run"))
        await self.log.append([Entry(tenant, stream, it, b"{}") for it in (Kind.BEGUN, *kinds)])
        self.clock.time_s = 100.0 * DAY_S
        return stream

    async def names(self, tenant: str = "a") -> list[str]:
        return names_of(await all_of(self.log.streams(tenant, "")))


def test_what_ended_long_ago_is_forgotten_in_every_tenant() -> None:
    async def story() -> None:
        stage = Stage()
        for kind in (Kind.FINISHED, Kind.FAILED, Kind.CANCELLED):
            await stage.run(60, kind)
        await stage.run(69, Kind.FINISHED, tenant="b")
        kept = await stage.run(71, Kind.FINISHED)
        await stage.log.append([Entry("a", "session/1", "message", b"{}")])
        assert await stage.retention.look() == 4
        assert await stage.names() == [kept, "session/1"]
        assert await stage.names("b") == []
        assert await stage.retention.look() == 0

    asyncio.run(story())


def test_what_is_under_way_or_was_resumed_stays() -> None:
    async def story() -> None:
        stage = Stage()
        runs = [await stage.run(1), await stage.run(2, Kind.STEP)]
        runs.append(await stage.run(3, Kind.FAILED, Kind.RESUMED))
        assert await stage.retention.look() == 0
        assert await stage.names() == sorted(runs)

    asyncio.run(story())


def test_one_that_was_given_up_leaves_the_list_of_the_dead() -> None:
    async def story() -> None:
        stage = Stage()
        stream = await stage.run(60, Kind.FAILED)
        await stage.log.append([], work=[Offer("a", stream, DEAD, due_ms=NEVER_MS)])
        assert await stage.retention.look() == 1
        assert await all_of(stage.log.work("a", DEAD)) == []

    asyncio.run(story())


def test_it_looks_again_and_again_and_outlasts_an_outage() -> None:
    async def story() -> None:
        stage = Stage()
        await stage.run(60, Kind.FINISHED)
        forget = stage.log.forget

        async def full(*_: object, **__: object) -> None:
            stage.log.forget = forget  # type: ignore[method-assign]
            raise LogUnavailableError("full")

        stage.log.forget = full  # type: ignore[method-assign]
        life = asyncio.create_task(stage.retention.keep_up())
        while not stage.events.named("runs.forgotten"):
            await asyncio.sleep(0)
        life.cancel()
        assert [name for name, _ in stage.events.events] == ["runs.log", "runs.forgotten"]
        assert stage.clock.slept_s[0] == LOOK_S

    asyncio.run(story())


def test_a_wish_to_cancel_that_came_behind_the_end_keeps_nothing() -> None:
    async def story() -> None:
        stage = Stage()
        await stage.run(60, Kind.FINISHED, Kind.CANCEL, Kind.CANCEL)
        open_ = [await stage.run(60, Kind.STEP, Kind.CANCEL), await stage.run(61, Kind.CANCEL)]
        assert await stage.retention.look() == 1
        assert await stage.names() == open_

    asyncio.run(story())


@pytest.mark.parametrize(
    ("error", "said"), [(LogCorruptError("damaged"), 1), (LogConflictError("resumed"), 0)]
)
def test_a_run_that_cannot_be_forgotten_keeps_no_other(error: MurmurateError, said: int) -> None:
    async def story() -> None:
        stage = Stage()
        first = await stage.run(60, Kind.FINISHED)
        await stage.run(61, Kind.FINISHED)
        await stage.run(61, Kind.FINISHED, tenant="b")
        append = stage.log.append

        async def refused(entries: Sequence[Entry], **kwargs: Any) -> list[int]:
            if ("a", first) in kwargs.get("expected", {}):
                raise error
            return await append(entries, **kwargs)

        stage.log.append = refused  # type: ignore[method-assign, assignment]
        assert await stage.retention.look() == 2
        assert (await stage.names(), await stage.names("b")) == ([first], [])
        assert len(stage.events.named("runs.log")) == said

    asyncio.run(story())


def test_the_notices_of_a_forgotten_run_go_with_it_and_no_others() -> None:
    async def story() -> None:
        stage = Stage()
        old, young = await stage.run(60, Kind.FAILED), await stage.run(71, Kind.FINISHED)
        hooks = [f"hook/{id_of(old)}", f"hook/{id_of(old)}-2", f"hook/{id_of(young)}"]
        for name in hooks:
            dead = Offer("a", name, HOOKS_DEAD, due_ms=NEVER_MS)
            await stage.log.append([Entry("a", name, "hook.given_up", b"{}")], work=[dead])
        assert await stage.retention.look() == 1
        assert await stage.names() == [hooks[2], young]
        assert [it.stream for it in await all_of(stage.log.work("a", HOOKS_DEAD))] == [hooks[2]]

    asyncio.run(story())


def test_other_things_are_swept_with_the_runs_and_what_is_damaged_stops_nobody() -> None:
    async def story() -> None:
        stage = Stage()
        seen: list[tuple[str, str]] = []

        async def damaged(tenant: str) -> int:
            seen.append(("damaged", tenant))
            raise LogCorruptError("damaged")

        async def old(tenant: str) -> int:
            seen.append(("old", tenant))
            return 2

        retention = Retention(
            log=stage.log,
            clock=stage.clock,
            events=stage.events,
            kept_s=DAY_S,
            tenants=lambda: {"a", "b"},
            sweeps=[damaged, old],
        )
        life = asyncio.create_task(retention.keep_up())
        while not stage.events.named("log.swept"):
            await asyncio.sleep(0)
        life.cancel()
        assert seen[:4] == [("damaged", "a"), ("old", "a"), ("damaged", "b"), ("old", "b")]
        assert stage.events.named("log.swept")[0] == {"things": 4}
        assert len(stage.events.named("runs.log")) >= 2

    asyncio.run(story())


def test_the_runs_of_a_batch_are_as_old_as_their_batch() -> None:
    async def story() -> None:
        stage = Stage()
        for day in (60, 80):
            stage.clock.time_s = day * DAY_S
            batch_id = stage.ids.new("batch")
            stage.clock.time_s = 100.0 * DAY_S
            for number, kind in ((1, Kind.FINISHED), (2, Kind.STEP)):
                stream = stream_of(run_of(batch_id, number))
                entries = [Entry("a", stream, it, b"{}") for it in (Kind.BEGUN, kind)]
                await stage.log.append(entries)
        assert await stage.retention.look() == 1
        names = await stage.names()
        assert len(names) == 3
        assert stream_of(run_of(batch_id, 1)) in names

    asyncio.run(story())
