"""Small work is claimed, done, and put back where it could not be."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from murmurate.core.errors import FencedError, LogUnavailableError
from murmurate.core.ports import Claim, Offer
from murmurate.jobs.errands import AGAIN_MS, FAULT_AGAIN_MS, POLL_S, Errands
from murmurate.jobs.journal import strike_off
from murmurate.jobs.runner import COUNT_EVERY_S
from murmurate.testing.stories import all_of
from tests.jobs.test_runner import Stage, now_s, play

QUEUE = "dishes"


class Kitchen:
    """Washes what it gets, unless it is to fail."""

    def __init__(self, stage: Stage, **settings: Any) -> None:
        self.stage = stage
        self.washed: list[tuple[str, float]] = []
        self.errors: list[Exception] = []
        self.hold: asyncio.Event | None = None
        server = stage.a
        shared: dict[str, Any] = {"log": server.wire, "clock": server.clock}
        self.errands = Errands(
            server.runner, self.wash, queue=QUEUE, events=server.events, **shared, **settings
        )

    async def wash(self, claim: Claim) -> None:
        self.washed.append((claim.stream, now_s()))
        if self.hold is not None:
            await self.hold.wait()
        if self.errors:
            raise self.errors.pop(0)
        await strike_off(self.stage.log, claim)

    async def offer(self, *streams: str) -> None:
        await self.stage.log.append([], work=[Offer("a", it, QUEUE) for it in streams])


def cook(story: Callable[[Kitchen], Awaitable[None]], **settings: Any) -> None:
    async def whole(stage: Stage) -> None:
        kitchen = Kitchen(stage, **settings)
        working = asyncio.create_task(kitchen.errands.run())
        try:
            await story(kitchen)
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    play(whole, servers="a")


def test_work_is_done_soon_and_once() -> None:
    async def story(kitchen: Kitchen) -> None:
        await kitchen.offer("dish/1", "dish/2")
        began_s = now_s()
        await asyncio.sleep(10)
        assert [stream for stream, _ in kitchen.washed] == ["dish/1", "dish/2"]
        assert kitchen.washed[-1][1] - began_s <= POLL_S + 0.1
        assert await all_of(kitchen.stage.log.work("a", QUEUE)) == []

    cook(story)


def test_no_more_is_claimed_than_there_is_room_for() -> None:
    async def story(kitchen: Kitchen) -> None:
        kitchen.hold = asyncio.Event()
        await kitchen.offer(*(f"dish/{number}" for number in range(5)))
        await asyncio.sleep(5)
        assert len(kitchen.washed) == 2
        held = [it.runner for it in await all_of(kitchen.stage.log.work("a", QUEUE))]
        assert held == ["a", "a", None, None, None]
        kitchen.hold.set()
        await asyncio.sleep(5)
        assert len(kitchen.washed) == 5

    cook(story, at_a_time=2)


def test_what_meets_a_fault_is_put_back_for_later_and_the_fault_is_noted() -> None:
    async def story(kitchen: Kitchen) -> None:
        kitchen.errors = [LogUnavailableError("full"), RuntimeError("bug")]
        await kitchen.offer("dish/1")
        await asyncio.sleep(100)
        first, second, third = (at_s for _, at_s in kitchen.washed)
        assert AGAIN_MS - 1 <= (second - first) * 1000 <= AGAIN_MS + 2000 * POLL_S
        assert FAULT_AGAIN_MS - 1 <= (third - second) * 1000 <= FAULT_AGAIN_MS + 2000 * POLL_S
        events = kitchen.stage.a.events
        assert [it["code"] for it in events.named("errand.failed")] == ["log.unavailable"]
        assert events.named("errand.fault") == [{"queue": QUEUE, "type": "RuntimeError"}]

    cook(story)


def test_what_another_server_has_by_now_is_left_alone() -> None:
    async def story(kitchen: Kitchen) -> None:
        kitchen.errors = [FencedError("gone")]
        await kitchen.offer("dish/1")
        await asyncio.sleep(COUNT_EVERY_S / 2)  # before it looks whether that is true
        assert len(kitchen.washed) == 1
        assert kitchen.stage.a.events.named("errand.failed") == []

    cook(story)


def test_a_server_that_drains_begins_nothing_more() -> None:
    async def story(kitchen: Kitchen) -> None:
        kitchen.stage.a.runner.drain()
        await kitchen.offer("dish/1")
        await asyncio.sleep(5)
        assert kitchen.washed == []

    cook(story)


def test_work_whose_claim_was_answered_to_nobody_is_found() -> None:
    async def story(kitchen: Kitchen) -> None:
        claim, lost = kitchen.stage.log.claim, [QUEUE]

        async def losing(queue: str, runner: str, *, limit: int) -> list[Claim]:
            claims = await claim(queue, runner, limit=limit)
            if claims and queue in lost:
                lost.remove(queue)
                raise LogUnavailableError("the answer was lost")
            return claims

        kitchen.stage.log.claim = losing  # type: ignore[method-assign]
        await kitchen.offer("dish/1")
        await asyncio.sleep(COUNT_EVERY_S + 2 * POLL_S + 1)
        assert [stream for stream, _ in kitchen.washed] == ["dish/1"]
        assert await all_of(kitchen.stage.log.work("a", QUEUE)) == []

    cook(story)


def test_what_is_under_way_is_not_begun_again() -> None:
    async def story(kitchen: Kitchen) -> None:
        kitchen.hold = asyncio.Event()
        await kitchen.offer("dish/1")
        await asyncio.sleep(3 * COUNT_EVERY_S)
        assert len(kitchen.washed) == 1
        kitchen.hold.set()
        await asyncio.sleep(2 * COUNT_EVERY_S)
        assert len(kitchen.washed) == 1

    cook(story)


def test_an_outage_of_the_log_is_outlasted() -> None:
    async def story(kitchen: Kitchen) -> None:
        claim, down = kitchen.stage.log.claim, [LogUnavailableError("full")] * 3

        async def flaky(queue: str, runner: str, *, limit: int) -> list[Claim]:
            if queue == QUEUE and down:
                raise down.pop()
            return await claim(queue, runner, limit=limit)

        kitchen.stage.log.claim = flaky  # type: ignore[method-assign]
        await kitchen.offer("dish/1")
        await asyncio.sleep(10)
        assert len(kitchen.washed) == 1

    cook(story)


def test_a_fault_that_nobody_foresaw_ends_no_queue() -> None:
    async def story(kitchen: Kitchen) -> None:
        claim, faults = kitchen.stage.log.claim, [ZeroDivisionError()]

        async def faulty(queue: str, runner: str, *, limit: int) -> list[Claim]:
            if queue == QUEUE and faults:
                raise faults.pop()
            return await claim(queue, runner, limit=limit)

        kitchen.stage.log.claim = faulty  # type: ignore[method-assign]
        await kitchen.offer("dish/1")
        await asyncio.sleep(3 * POLL_S)
        assert [stream for stream, _ in kitchen.washed] == ["dish/1"]
        [fault] = kitchen.stage.a.events.named("errand.fault")
        assert fault["type"] == "ZeroDivisionError"

    cook(story)
