"""A request that is sent again with its key finds the run that it began."""

import asyncio

import pytest

from murmurate.adapters.memory import MemoryLog
from murmurate.core.clock import SystemClock
from murmurate.core.errors import KeyReusedError, LogConflictError
from murmurate.core.types import Once
from murmurate.jobs.repeats import DAY_MS, REPEATS, Known, Repeats
from murmurate.testing.stories import all_of, refused
from tests.jobs.stage import SESSION, request
from tests.jobs.test_runner import Stage, play

ONCE = Once("a key of the client's", "what it asks")


def test_the_same_key_finds_the_same_run_at_any_server_and_after_its_end() -> None:
    async def story(stage: Stage) -> None:
        assert await stage.a.runs.sent_before("a", ONCE) is None
        run_id = await stage.a.runs.submit(request(session=SESSION), once=ONCE)
        known = Known(run_id, ONCE.asks, SESSION.id)
        assert await stage.b.runs.sent_before("a", ONCE) == known
        assert (await stage.ended(run_id)).status == "finished"
        assert await stage.b.runs.sent_before("a", ONCE) == known
        assert await stage.a.runs.sent_before("b", ONCE) is None  # another tenant's key

    play(story)


def test_the_same_key_for_something_else_is_refused() -> None:
    async def story(stage: Stage) -> None:
        run_id = await stage.a.runs.submit(request(), once=ONCE)
        with pytest.raises(KeyReusedError, match=run_id):
            await stage.a.runs.sent_before("a", Once(ONCE.key, "something else"))

    play(story)


def test_of_two_that_are_sent_at_once_one_begins() -> None:
    async def story(stage: Stage) -> None:
        both = [server.runs.submit(request(), once=ONCE) for server in (stage.a, stage.b)]
        outcomes = await asyncio.gather(*both, return_exceptions=True)
        [run_id] = [it for it in outcomes if isinstance(it, str)]
        assert [type(it) for it in outcomes if it != run_id] == [LogConflictError]
        known = await stage.a.runs.sent_before("a", ONCE)
        assert known is not None
        assert known.run == run_id
        assert len(await stage.a.runs.listing("a")) == 1

    play(story)


class Later(SystemClock):
    """A clock that can be set."""

    ahead_ms = 0

    def unix_ms(self) -> int:
        return 20_000 * DAY_MS + self.ahead_ms


@pytest.mark.parametrize("at_ms", [0, DAY_MS // 2, DAY_MS - 1])
def test_a_key_is_known_for_a_day_at_least_and_then_forgotten(at_ms: int) -> None:
    async def story() -> None:
        clock = Later()
        log = MemoryLog(clock=clock)
        repeats = Repeats(log, clock)
        clock.ahead_ms = at_ms
        note = repeats.note("a", ONCE, Known("run_1", ONCE.asks))
        await log.append([note.entry], expected=note.expected, work=[note.offer])
        await log.renew("me")
        clock.ahead_ms = min(at_ms + DAY_MS, 2 * DAY_MS - 1)
        assert await log.claim(REPEATS, "me", limit=1) == []
        assert await repeats.known("a", ONCE) == Known("run_1", ONCE.asks)
        clock.ahead_ms = 2 * DAY_MS
        [claim] = await log.claim(REPEATS, "me", limit=1)
        await repeats.forget(claim)
        assert await repeats.known("a", ONCE) is None
        assert await all_of(log.work("a", REPEATS)) == []
        assert await all_of(log.streams("a", "asked/")) == []
        note = repeats.note("a", ONCE, Known("run_2", ONCE.asks))
        assert await log.append([note.entry], expected=note.expected, work=[note.offer]) == [1]

    asyncio.run(story())


def test_where_the_beginning_is_not_written_the_key_is_free() -> None:
    async def story(stage: Stage) -> None:
        await stage.a.runs.submit(request(), once=ONCE)
        await refused(stage.a.runs.submit(request(2), once=ONCE), LogConflictError)
        assert len(await stage.a.runs.listing("a")) == 1

    play(story)
