"""A run that has not ended by its deadline fails: worked on, waiting, or taken over."""

import asyncio
from typing import Any

import pytest

from murmurate.core.errors import EngineFailedError, RunDeadlineError
from murmurate.core.ports import Done, Entry, Offer
from murmurate.jobs.deadlines import DEADLINES, Deadlines, deadline_offer, in_time
from murmurate.jobs.entries import DEAD, QUEUE, stream_of
from murmurate.jobs.errands import POLL_S
from murmurate.jobs.views import RunView
from murmurate.jobs.vigil import TTL_S
from murmurate.testing.stories import all_of
from tests.fakes import run_skipping_time
from tests.jobs.stage import SESSION, request
from tests.jobs.test_runner import Stage, now_s, play

LATE_S = POLL_S + 1.2


def has_missed(found: RunView) -> bool:
    return (found.status, found.error and found.error.code) == ("failed", "run.deadline")


async def left_over(stage: Stage) -> list[str]:
    """Return what work there is, once all errands have looked."""
    await asyncio.sleep(40)
    queues = (QUEUE, DEAD, DEADLINES)
    return [it.stream for queue in queues for it in await all_of(stage.log.work("a", queue))]


def test_a_run_that_is_worked_on_ends_at_its_deadline_and_says_so() -> None:
    async def story(stage: Stage) -> None:
        stage.shop.hold["thing 2"] = asyncio.Event()
        began_s = now_s()
        run_id = await stage.a.runs.submit(request(), deadline_s=10)
        shown = await stage.shown(run_id)
        assert shown.deadline_ms is not None
        assert 9_900 < shown.deadline_ms - began_s * 1000 < 10_100
        found = await stage.ended(run_id)
        assert has_missed(found)
        assert 9.9 < now_s() - began_s < 10.2
        assert len(found.steps) == 1
        assert await left_over(stage) == []
        assert stage.a.runner.working + stage.b.runner.working == 0

    play(story)


def test_a_run_that_ends_in_time_hears_nothing_of_it() -> None:
    async def story(stage: Stage) -> None:
        run_id = await stage.a.runs.submit(request(), deadline_s=30)
        assert (await stage.ended(run_id)).status == "finished"
        seen = await all_of(stage.log.read("a", stream_of(run_id)))
        assert await left_over(stage) == []
        assert await all_of(stage.log.read("a", stream_of(run_id))) == seen

    play(story)


def test_a_run_that_waits_for_its_turn_ends_at_its_deadline_though_nobody_has_room() -> None:
    async def story(stage: Stage) -> None:
        stage.a.runner._at_a_time = 1
        hold = stage.shop.hold["thing 1"] = asyncio.Event()
        await stage.a.up()
        blocking = await stage.a.runs.submit(request(1))
        while not stage.shop.effects["1"]:
            await asyncio.sleep(0.01)
        began_s = now_s()
        run_id = await stage.a.runs.submit(
            request(2), deadline_s=5, webhook="https://receiver.example/"
        )
        assert has_missed(await stage.ended(run_id))
        assert 5 <= now_s() - began_s < 5 + LATE_S
        assert stage.shop.effects == {"1": 1}
        await asyncio.sleep(3)
        assert len(stage.a.fetcher.sent) == 1
        hold.set()
        assert (await stage.ended(blocking)).status == "finished"
        assert await left_over(stage) == []
        await stage.a.down()

    play(story, servers="")


def test_a_run_that_waits_for_another_attempt_ends_at_its_deadline() -> None:
    async def story(stage: Stage) -> None:
        stage.shop.error = EngineFailedError("broke", retry_s=60)
        began_s = now_s()
        run_id = await stage.a.runs.submit(request(), deadline_s=10)
        assert has_missed(await stage.ended(run_id))
        assert 10 <= now_s() - began_s < 10 + LATE_S
        assert await left_over(stage) == []

    play(story)


@pytest.mark.parametrize("deadline_s", [TTL_S / 2, 20.0])
def test_the_deadline_outlives_the_server_that_worked_on_the_run(deadline_s: float) -> None:
    async def story(stage: Stage) -> None:
        stage.shop.hold["thing 2"] = asyncio.Event()
        await stage.a.up()
        began_s = now_s()
        run_id = await stage.a.runs.submit(request(), deadline_s=deadline_s)
        while not stage.shop.effects["2"]:
            await asyncio.sleep(0.01)
        stage.a.wire.cut()
        await stage.b.up()
        found = await stage.ended(run_id)
        assert has_missed(found)
        assert deadline_s <= now_s() - began_s < deadline_s + TTL_S + LATE_S
        stage.a.wire.mend()
        await asyncio.sleep(5)
        assert (await stage.shown(run_id)).ended_ms == found.ended_ms
        for server in (stage.a, stage.b):
            await server.down()

    play(story, servers="")


def test_a_service_that_was_down_fails_what_is_late_when_it_comes_up() -> None:
    async def story(stage: Stage) -> None:
        run_id = await stage.a.runs.submit(request(), deadline_s=10)
        await asyncio.sleep(3600)
        await stage.b.up()
        assert has_missed(await stage.ended(run_id))
        assert not stage.shop.effects
        assert await left_over(stage) == []
        await stage.b.down()

    play(story, servers="")


def test_a_run_that_is_resumed_has_no_deadline_any_more() -> None:
    async def story(stage: Stage) -> None:
        hold = stage.shop.hold["thing 2"] = asyncio.Event()
        run_id = await stage.a.runs.submit(request(), deadline_s=10)
        assert has_missed(await stage.ended(run_id))
        hold.set()
        await stage.a.runs.resume("a", run_id)
        found = await stage.ended(run_id)
        assert (found.status, found.deadline_ms, len(found.steps)) == ("finished", None, 3)
        assert await left_over(stage) == []

    play(story)


def test_a_run_that_ends_while_the_errand_looks_at_it_has_ended() -> None:
    async def story(stage: Stage) -> None:
        run_id = await stage.a.runs.submit(request(), deadline_s=1)
        await asyncio.sleep(2)
        append = stage.log.append

        async def late(entries: list[Entry], **kwargs: Any) -> list[int]:
            stage.log.append = append  # type: ignore[method-assign]
            await stage.log.renew("fast")
            [claim] = await stage.log.claim(QUEUE, "fast", limit=1)
            end = Entry("a", claim.stream, "run.cancelled", b"{}")
            done = Done("a", claim.stream)
            await append([end], fence=claim, work=[done])
            return await append(entries, **kwargs)

        await stage.log.renew("a")
        [claim] = await stage.log.claim(DEADLINES, "a", limit=1)
        stage.log.append = late  # type: ignore[method-assign,assignment]
        await Deadlines(stage.log, stage.a.clock).end(claim)
        kinds = [it.kind for it in await all_of(stage.log.read("a", stream_of(run_id)))]
        assert kinds == ["run.begun", "run.cancelled"]
        [waits] = await all_of(stage.log.work("a", DEADLINES))
        assert waits.runner is None, "it looks once more, and finds the run over"

    play(story, servers="")


def test_an_errand_that_comes_early_waits_and_one_for_nothing_is_struck_off() -> None:
    async def story(stage: Stage) -> None:
        stage.shop.hold["thing 2"] = asyncio.Event()
        run_id = await stage.a.runs.submit(request(), deadline_s=30)
        began_s = now_s()
        early = Offer("a", f"deadline/{run_id}", DEADLINES, due_ms=0)
        nothing = deadline_offer("a", "run_none", 0)
        await stage.log.append([], work=[early, nothing])
        await asyncio.sleep(5)
        [waits] = await all_of(stage.log.work("a", DEADLINES))
        assert (waits.stream, waits.runner) == (f"deadline/{run_id}", None)
        assert has_missed(await stage.ended(run_id))
        assert now_s() - began_s > 29

    play(story)


def test_a_client_that_waits_itself_has_no_deadline() -> None:
    async def story(stage: Stage) -> None:
        deltas = [delta async for delta in stage.a.runs.answer(request(session=SESSION))]
        assert deltas
        assert await all_of(stage.log.work("a", DEADLINES)) == []

    play(story)


def test_a_time_out_within_the_block_is_not_the_deadline() -> None:
    async def story() -> None:
        with pytest.raises(TimeoutError):
            async with in_time(60_000, now_ms=0):
                raise TimeoutError
        with pytest.raises(RunDeadlineError):
            async with in_time(0, now_ms=5_000):
                await asyncio.sleep(1)
        async with in_time(None, now_ms=0):
            await asyncio.sleep(1)

    run_skipping_time(story())
