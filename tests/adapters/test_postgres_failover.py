"""The primary dies in the middle of commits, its standby takes over, and nothing is lost or twice.

Real servers: a hot standby that every commit waits for (`synchronous_standby_names`).
"""

import asyncio
import time
from collections.abc import Iterator

import pytest

from murmurate.adapters.postgres.database import Database
from murmurate.adapters.postgres.log import PostgresLog
from murmurate.core.clock import SystemClock
from murmurate.core.errors import LogUnavailableError, MurmurateError
from murmurate.core.ports import Entry, Offer
from murmurate.testing.stories import all_of
from tests.servers.postgres import PASSWORD, STANDBY, USER, PostgresServer

T = "default"
WRITERS = 10
BACK_S = 20.0
"""From the promotion until appends are taken again, at most; it takes about a second."""


class Pair:
    """A primary and its standby, and a log that knows both."""

    def __init__(self) -> None:
        self.primary = PostgresServer()
        self.primary.start()
        self.standby = PostgresServer(primary=self.primary)
        self.standby.start()
        self.primary.wait_for(STANDBY)

    def url(self) -> str:
        hosts = f"127.0.0.1:{self.primary.port},127.0.0.1:{self.standby.port}"
        return f"postgresql://{USER}:{PASSWORD}@{hosts}/postgres?sslmode=disable"

    def close(self) -> None:
        self.standby.close()
        self.primary.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


class Writers:
    """Append all the time; know what was acknowledged, refused, and left open."""

    def __init__(self, log: PostgresLog) -> None:
        self._log = log
        self._over = False
        self.acknowledged: dict[tuple[str, int], str] = {}
        self.refused: set[str] = set()
        self.open: set[str] = set()
        self.longest_s = 0.0
        self.unclear = 0

    async def write(self, number: int) -> None:
        stream, step = f"session/{number}", 0
        while not self._over:
            step += 1
            body, begun_s = f"{number}.{step}", time.monotonic()
            try:
                [seq] = await self._log.append([Entry(T, stream, "note", body.encode())])
            except LogUnavailableError as error:
                is_open = "not known" in error.detail
                (self.open if is_open else self.refused).add(body)
                self.unclear += not is_open and "nothing was written" not in error.detail
                await asyncio.sleep(0.02)
            else:
                self.acknowledged[stream, seq] = body
                self.longest_s = max(self.longest_s, time.monotonic() - begun_s)

    async def until(self, count: int) -> None:
        while len(self.acknowledged) < count:
            await asyncio.sleep(0.01)

    def end(self) -> None:
        self._over = True

    async def check(self) -> None:
        found: dict[tuple[str, int], str] = {}
        for number in range(WRITERS):
            stream = f"session/{number}"
            stored = await all_of(self._log.read(T, stream))
            assert [one.seq for one in stored] == list(range(1, len(stored) + 1))
            found |= {(stream, one.seq): one.body.decode() for one in stored}
        assert not self.unclear
        assert {place: found.get(place) for place in self.acknowledged} == self.acknowledged
        bodies = list(found.values())
        assert len(bodies) == len(set(bodies)), "something is there twice"
        assert not self.refused.intersection(bodies), "what was refused for certain is there"


def test_when_the_standby_takes_over_nothing_is_lost_and_nothing_is_there_twice(
    pair: Pair,
) -> None:
    async def story() -> None:
        database = Database(pair.url())
        log = await PostgresLog.open(database, clock=SystemClock())
        assert database.host == f"127.0.0.1:{pair.primary.port}"
        await log.renew("me")
        await log.append([], work=[Offer(T, "run/1", "runs", holder="me")])
        [claim] = await log.held("me")
        writers = Writers(log)
        tasks = [asyncio.create_task(writers.write(number)) for number in range(WRITERS)]
        await writers.until(300)
        pair.primary.kill()
        await asyncio.sleep(0.5)
        before = len(writers.acknowledged)
        await asyncio.to_thread(pair.standby.promote)
        async with asyncio.timeout(BACK_S):
            await writers.until(before + 300)
        assert database.host == f"127.0.0.1:{pair.standby.port}"
        assert (await log.renew("me")).known
        [seq] = await log.append([Entry(T, "run/1", "step", b"")], fence=claim)
        assert seq == 1
        # The old primary comes back, and believes that it leads.
        pair.primary.start()
        fresh = Database(pair.url())
        connection = await fresh.connect()
        assert fresh.host == f"127.0.0.1:{pair.standby.port}"
        await connection.close()
        before = len(writers.acknowledged)
        await writers.until(before + 100)
        writers.end()
        await asyncio.gather(*tasks)
        await writers.check()
        print(f"longest wait {writers.longest_s:.2f} s, open {len(writers.open)}")
        # Not even alone is it written to, by whoever has seen the new one.
        pair.standby.kill()
        with pytest.raises(LogUnavailableError, match="old primary, on timeline 1: 2 was promoted"):
            await log.append([Entry(T, "late", "note", b"")])
        await log.close()
        assert not await asked(pair.primary, "late")

    asyncio.run(story())


def test_a_standby_that_has_gone_is_waited_for_and_nothing_is_acknowledged_meanwhile(
    pair: Pair,
) -> None:
    """Not even when PostgreSQL, asked to wait no longer, calls the commit done."""

    async def story() -> None:
        log = await PostgresLog.open(Database(pair.url()), clock=SystemClock())
        await log.append([Entry(T, "s", "note", b"a")])
        pair.standby.kill()
        waiting = asyncio.create_task(log.append([Entry(T, "s", "note", b"b")]))
        await asyncio.sleep(0.5)
        cancelled = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query = 'COMMIT'"
        assert await asyncio.to_thread(pair.primary.ask, cancelled)
        await asyncio.sleep(0.5)
        assert not waiting.done()
        assert (await log.beats()) == {}
        pair.standby.start()
        assert await waiting == [2]
        assert len(await all_of(log.read(T, "s"))) == 2
        await log.close()

    asyncio.run(story())


def test_another_cluster_in_the_place_of_the_one_that_was_known_is_not_written_to(
    pair: Pair, postgres: PostgresServer
) -> None:
    async def story() -> None:
        url = pair.primary.url
        database = Database(f"{url}&target_session_attrs=read-write")
        await (await database.connect()).close()
        database._urls = [postgres.url]  # as if its name led elsewhere by now
        with pytest.raises(MurmurateError, match="another cluster than the one that was written"):
            await database.connect()

    asyncio.run(story())


async def asked(server: PostgresServer, stream: str) -> list[object]:
    """Return what a server has of a stream, whatever it is."""
    return await asyncio.to_thread(
        server.ask, "SELECT * FROM murmurate.entry WHERE stream = $1", stream
    )
