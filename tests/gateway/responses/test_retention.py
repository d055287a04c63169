"""Responses are forgotten when they are old."""

import asyncio

import pytest

from murmurate.adapters.memory import MemoryLog
from murmurate.core.errors import LogUnavailableError
from murmurate.core.ports import Entry
from murmurate.gateway.responses.retention import LOOK_S, ResponseRetention
from murmurate.gateway.responses.store import KIND, stream_of
from tests.fakes import FakeClock, RecordingLog, seeded_ids, until

DAY_S = 86_400.0


class Stage:
    """A log whose responses are kept for a day."""

    def __init__(self) -> None:
        self.clock = FakeClock(time_s=10 * DAY_S)
        self.log = MemoryLog(clock=self.clock)
        self.events = RecordingLog()
        self.retention = ResponseRetention(
            log=self.log,
            clock=self.clock,
            events=self.events,
            kept_s=DAY_S,
            tenants=self.tenants,
        )
        self.outages = 0

    def tenants(self) -> set[str]:
        if self.outages:
            self.outages -= 1
            raise LogUnavailableError("the disk is full")
        return {"a", "b"}

    async def put(self, tenant: str) -> None:
        name = stream_of(seeded_ids(self.clock).new("resp"))
        await self.log.append([Entry(tenant, name, KIND, b"{}")])

    async def kept(self, tenant: str) -> int:
        return len([it async for it in self.log.streams(tenant, "")])


def test_what_is_older_than_its_time_goes_and_nothing_else() -> None:
    async def story() -> None:
        stage = Stage()
        await stage.put("a")
        await stage.put("b")
        await stage.log.append([Entry("a", "session/sess_1", "message", b"{}")])
        stage.clock.time_s += DAY_S
        assert await stage.retention.look() == 0
        await stage.put("a")
        stage.clock.time_s += 1
        assert await stage.retention.look() == 2
        assert (await stage.kept("a"), await stage.kept("b")) == (2, 0)
        assert await stage.retention.look() == 0

    asyncio.run(story())


def test_it_looks_once_an_hour_and_outlasts_an_outage() -> None:
    async def story() -> None:
        stage = Stage()
        await stage.put("a")
        stage.clock.time_s += 2 * DAY_S
        stage.outages = 1
        life = asyncio.create_task(stage.retention.keep_up())
        await until(lambda: bool(stage.events.named("responses.forgotten")))
        life.cancel()
        with pytest.raises(asyncio.CancelledError):
            await life
        assert [code["code"] for code in stage.events.named("responses.log")] == ["log.unavailable"]
        assert stage.events.named("responses.forgotten") == [{"responses": 1}]
        assert stage.clock.slept_s[0] == LOOK_S

    asyncio.run(story())
