"""Answers in a real Redis: kept, stale, and what becomes of them when it is ill."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Generator

import pytest

from murmurate.adapters.redis_answers import PREFIX, PUTS_MAX, REST_S, RedisAnswers
from murmurate.core.clock import SystemClock
from tests.fakes import RecordingLog
from tests.servers.redis import RedisServer, redis_server


@pytest.fixture(scope="module")
def server() -> Generator[RedisServer]:
    with redis_server() as it:
        yield it


class SettableClock(SystemClock):
    """The real clock, and how far it was put forward."""

    ahead_s = 0.0

    def now_s(self) -> float:
        return super().now_s() + self.ahead_s

    def unix_ms(self) -> int:
        return super().unix_ms() + int(self.ahead_s * 1000)


class Told:
    """One server's view of the Redis."""

    def __init__(self, server: RedisServer) -> None:
        self.clock = SettableClock()
        self.events = RecordingLog()
        self.answers = RedisAnswers(server.url, clock=self.clock, events=self.events)

    async def kept(self, key: bytes, value: bytes, ttl_s: float = 60.0) -> None:
        self.answers.put(key, value, ttl_s=ttl_s)
        await asyncio.wait(self.answers._puts)

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.events.events]


def told(server: RedisServer, story: Callable[[Told], Awaitable[None]]) -> None:
    async def run() -> None:
        it = Told(server)
        try:
            await story(it)
        finally:
            await it.answers.close()

    asyncio.run(run())


def test_a_value_comes_back_with_the_time_it_has_left(server: RedisServer) -> None:
    async def story(it: Told) -> None:
        await it.kept(b"a", b"\x00value", ttl_s=60)
        found = await it.answers.get(b"a")
        assert found is not None
        assert found[0] == b"\x00value"
        assert 50 < found[1] <= 60
        assert await it.answers.get(b"other") is None
        assert (it.answers.hits, it.answers.misses) == (1, 1)

    told(server, story)


def test_what_is_stale_is_a_miss_whatever_redis_still_has(server: RedisServer) -> None:
    async def story(it: Told) -> None:
        await it.kept(b"old", b"value", ttl_s=60)
        it.clock.ahead_s = 61
        assert await it.answers.get(b"old") is None
        it.answers.put(b"short", b"value", ttl_s=0.0001)
        assert not it.answers._puts, "it would be stale before it is there"

    told(server, story)


@pytest.mark.parametrize("found", [b"", b"1234567", b"\xff" * 7])
def test_what_is_no_value_is_a_miss(server: RedisServer, found: bytes) -> None:
    async def story(it: Told) -> None:
        await it.answers._redis.set(PREFIX + b"strange", found)
        assert await it.answers.get(b"strange") is None
        assert it.names == []

    told(server, story)


def test_a_redis_that_is_away_costs_one_try_a_second_and_is_told_once() -> None:
    async def story(it: Told) -> None:
        await it.kept(b"a", b"value")
        server.stop()
        assert await it.answers.get(b"a") is None
        assert await it.answers.get(b"a") is None  # nothing is asked of it now
        it.answers.put(b"b", b"value", ttl_s=60)
        assert not it.answers._puts
        it.clock.ahead_s += REST_S
        assert await it.answers.get(b"a") is None
        assert it.names == ["answers.shared_away"]
        server.start()
        it.clock.ahead_s += REST_S
        assert await it.answers.get(b"a") is None  # it kept nothing
        await it.kept(b"a", b"value")
        assert await it.answers.get(b"a") is not None
        assert it.names == ["answers.shared_away", "answers.shared_back"]

    with redis_server() as server:
        told(server, story)


def test_a_redis_that_hangs_is_not_waited_for() -> None:
    async def story(it: Told) -> None:
        await it.kept(b"a", b"value")
        server.signal(signal.SIGSTOP)
        try:
            async with asyncio.timeout(2):  # it gives up after a tenth of a second
                assert await it.answers.get(b"a") is None
        finally:
            server.signal(signal.SIGCONT)
        it.clock.ahead_s += REST_S
        found = await it.answers.get(b"a")
        assert found is not None
        assert found[0] == b"value"

    with redis_server() as server:
        told(server, story)


def test_values_on_their_way_are_bounded(server: RedisServer) -> None:
    async def story(it: Told) -> None:
        for number in range(PUTS_MAX + 10):
            it.answers.put(b"%d" % number, b"value", ttl_s=60)
        assert len(it.answers._puts) == PUTS_MAX
        await asyncio.wait(it.answers._puts)
        assert await it.answers.get(b"0") is not None
        assert await it.answers.get(b"%d" % (PUTS_MAX + 9)) is None

    told(server, story)


def test_what_is_no_url_is_refused() -> None:
    with pytest.raises(ValueError, match="scheme"):
        RedisAnswers("http://127.0.0.1/", clock=SystemClock(), events=RecordingLog())
