"""The pool's shell with real tasks and fake upstreams; real servers stand in tests/upstreams."""

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import pytest

from murmurate.core.errors import (
    BadRequestError,
    EngineFailedError,
    EngineUnreachableError,
    MurmurateError,
    OverloadedError,
)
from murmurate.core.types import Delta, Finished, FinishReason, Request, Text, Usage
from murmurate.router.pooled import HEDGES_MOST, RETRIES_MOST, Pooled, Terms
from tests.engines.fakes import FakeClock, FakeTracer, ask

DONE = Finished(FinishReason.STOP)
ANSWER: tuple[Delta, ...] = (Text("hi"), Usage(3, 1), DONE)
FAILED = EngineFailedError("500")

Part = Delta | MurmurateError | asyncio.Event


class FakeUpstream:
    """Answers each request with the next script, with the last one from then on.

    An event in a script is waited for.
    """

    def __init__(self, *scripts: Sequence[Part]) -> None:
        self.scripts = list(scripts)
        self.asked: list[Request] = []
        self.within_s: list[float] = []
        self.inside = 0
        self.is_well = True

    def says(self, *scripts: Sequence[Part]) -> None:
        self.scripts = list(scripts)

    async def answer(self, request: Request, *, within_s: float) -> AsyncGenerator[Delta]:
        self.asked.append(request)
        self.within_s.append(within_s)
        self.inside += 1
        try:
            for part in self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]:
                if isinstance(part, MurmurateError):
                    raise part
                if isinstance(part, asyncio.Event):
                    await part.wait()
                else:
                    yield part
        finally:
            self.inside -= 1

    async def health(self) -> bool:
        return self.is_well

    async def close(self) -> None:
        self.is_well = False


class Story:
    def __init__(self, *upstreams: FakeUpstream, **terms: float) -> None:
        self.clock = FakeClock()
        self.tracer = FakeTracer()
        self.upstreams = upstreams
        self.pooled = Pooled(
            "big",
            [(f"up{number}", 1.0, upstream) for number, upstream in enumerate(upstreams)],
            terms=Terms(**{"retries": 2, "total_s": 60, **terms}),  # pyright: ignore[reportArgumentType]
            clock=self.clock,
            tracer=self.tracer,
            chance=random.Random(1),
        )

    async def told(self) -> list[Delta] | MurmurateError:
        """Ask once; whatever happens, nothing is left under way."""
        answer: list[Delta] = []
        try:
            async with aclosing(self.pooled.answer(ask())) as deltas:
                async for delta in deltas:
                    answer.append(delta)
        except MurmurateError as error:
            return error
        finally:
            self.check_idle()
        return answer

    def check_idle(self) -> None:
        assert [it.outstanding for it in self.pooled.standings()] == [0] * len(self.upstreams)
        assert [it.inside for it in self.upstreams] == [0] * len(self.upstreams)
        left = [it for it in asyncio.all_tasks() if "Pooled" in repr(it.get_coro())]
        assert not left

    @property
    def asked(self) -> list[int]:
        return [len(upstream.asked) for upstream in self.upstreams]


def test_an_answer_passes_through_and_leaves_nothing_behind() -> None:
    async def run() -> None:
        story = Story(FakeUpstream(ANSWER))
        assert await story.told() == list(ANSWER)
        assert not story.tracer.spans, "no span where nothing went wrong"

    asyncio.run(run())


def test_a_failure_is_tried_at_once_at_another_upstream() -> None:
    async def run() -> None:
        for error in (FAILED, OverloadedError("429", retry_s=9), EngineUnreachableError("down")):
            story = Story(FakeUpstream([error]), FakeUpstream([error]), FakeUpstream(ANSWER))
            assert await story.told() == list(ANSWER)
            assert max(story.asked) == 1
            assert set(story.clock.slept_s) <= {0.0}

    asyncio.run(run())


def test_a_lone_upstream_is_asked_again_after_a_pause() -> None:
    async def run() -> None:
        story = Story(FakeUpstream([FAILED], [OverloadedError("429", retry_s=3)], ANSWER))
        assert await story.told() == list(ANSWER)
        first_s, second_s = story.clock.slept_s
        assert 0 <= first_s <= 0.25
        assert 3 <= second_s <= 3.5
        assert story.tracer.facts == [
            {"cause": "engine.failed", "wait_ms": round(first_s * 1000)},
            {"cause": "router.overloaded", "wait_ms": round(second_s * 1000)},
        ]
        assert story.pooled.counts.retries == 2

    asyncio.run(run())


def test_what_can_t_help_is_not_tried_again() -> None:
    async def run() -> None:
        for error in (
            BadRequestError("bad"),
            EngineUnreachableError("its key is refused"),
            OverloadedError("429", retry_s=60),
        ):
            story = Story(FakeUpstream([error]))
            assert await story.told() is error
            assert story.asked == [1]

    asyncio.run(run())


def test_retries_are_bounded_by_request_and_by_the_budget() -> None:
    async def run() -> None:
        story = Story(FakeUpstream([FAILED]), FakeUpstream([FAILED]))
        assert await story.told() is FAILED
        assert sum(story.asked) == 3
        other = Story(FakeUpstream([OverloadedError("429", retry_s=0)]))
        for _ in range(20):
            await other.told()
        assert other.pooled.counts.retries <= RETRIES_MOST + 0.2 * 20 + other.clock.now_s()
        assert other.pooled.counts.retries_refused > 0

    asyncio.run(run())


def test_behind_the_first_delta_nothing_is_tried_again() -> None:
    async def run() -> None:
        story = Story(FakeUpstream([Text("be"), FAILED]), FakeUpstream([Text("be"), FAILED]))
        assert await story.told() is FAILED
        assert sum(story.asked) == 1
        assert sum(standing.failed for standing in story.pooled.standings()) == 1

    asyncio.run(run())


def test_while_all_are_at_rest_the_caller_hears_when_to_come_back() -> None:
    async def run() -> None:
        story = Story(FakeUpstream([FAILED]), retries=0)
        for _ in range(5):
            assert await story.told() is FAILED
        error = await story.told()
        assert isinstance(error, EngineUnreachableError)
        assert error.detail == "big failed too often and is left alone; retry after 5 s"
        assert error.retry_s == 5
        assert story.asked == [5]
        story.clock.time_s += 5
        story.upstreams[0].says(ANSWER)
        assert await story.told() == list(ANSWER)

    asyncio.run(run())


def test_each_attempt_has_the_time_that_the_others_left_it() -> None:
    async def run() -> None:
        busy = OverloadedError("429", retry_s=4)
        story = Story(FakeUpstream([busy], [busy], ANSWER), total_s=9)
        assert await story.told() == list(ANSWER)
        first_s, second_s = story.clock.slept_s
        expected_s = [9, 9 - first_s, 9 - first_s - second_s]
        assert story.upstreams[0].within_s == pytest.approx(expected_s)
        late = Story(FakeUpstream([busy]), total_s=4)
        assert await late.told() is busy
        assert not late.clock.slept_s, "it would be over before the pause was"

    asyncio.run(run())


def test_a_slow_upstream_is_hedged_and_the_slower_one_is_closed_at_once() -> None:
    async def run() -> None:
        silent = asyncio.Event()
        story = Story(FakeUpstream([silent]), FakeUpstream([silent]), hedge_s=0.001)
        slow = asyncio.ensure_future(story.told())
        while sum(story.asked) < 2:
            await asyncio.sleep(0)
        assert [it.inside for it in story.upstreams] == [1, 1]
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
        assert [it.inside for it in story.upstreams] == [0, 0], "a client that leaves ends both"

        story = Story(FakeUpstream([silent]), FakeUpstream(ANSWER), hedge_s=0.001)
        while story.pooled.counts.hedges == 0:
            assert await story.told() == list(ANSWER)
        counts = story.pooled.counts
        assert (counts.hedges, counts.hedges_won, counts.hedge_tokens) == (1, 1, 3)
        assert story.tracer.facts == [{"won": True}]

    asyncio.run(run())


def test_a_first_that_fails_behind_its_hedge_leaves_the_answer_to_the_hedge() -> None:
    async def run() -> None:
        late, later = asyncio.Event(), asyncio.Event()
        story = Story(FakeUpstream([late, FAILED], [later, *ANSWER]), hedge_s=0.001)
        told = asyncio.ensure_future(story.told())
        while story.asked != [2]:
            await asyncio.sleep(0)
        late.set()
        await asyncio.sleep(0.01)
        later.set()
        assert await told == list(ANSWER)
        assert story.pooled.counts.retries == 0
        assert story.pooled.counts.hedge_tokens == 0, "who failed read nothing to the end"

    asyncio.run(run())


def test_two_that_both_fail_are_tried_again_like_one() -> None:
    async def run() -> None:
        late = asyncio.Event()
        story = Story(FakeUpstream([late, FAILED], [FAILED], ANSWER), hedge_s=0.001)
        told = asyncio.ensure_future(story.told())
        while story.asked != [2]:
            await asyncio.sleep(0)
        late.set()
        assert await told == list(ANSWER)
        assert story.asked == [3]

    asyncio.run(run())


def test_hedges_have_a_budget_and_a_quantile_needs_enough_answers() -> None:
    async def run() -> None:
        story = Story(FakeUpstream(ANSWER), hedge_quantile=0.95)
        for _ in range(19):
            assert await story.told() == list(ANSWER)
        silent = asyncio.Event()
        story.upstreams[0].says([silent])
        told = asyncio.ensure_future(story.told())
        await asyncio.sleep(0.01)
        assert story.asked == [20], "too few answers for a guess"
        told.cancel()
        await asyncio.gather(told, return_exceptions=True)
        story.upstreams[0].says(ANSWER)
        assert await story.told() == list(ANSWER)
        for _ in range(20):
            story.upstreams[0].says([silent], ANSWER)
            told = asyncio.ensure_future(story.told())
            await asyncio.sleep(0.002)
            told.cancel()
            await asyncio.gather(told, return_exceptions=True)
        assert HEDGES_MOST <= story.pooled.counts.hedges <= HEDGES_MOST + 0.05 * 41

    asyncio.run(run())


def test_a_request_that_lost_counts_for_the_quantile_with_the_time_that_it_had() -> None:
    async def run() -> None:
        silent = asyncio.Event()
        story = Story(FakeUpstream([silent], ANSWER), hedge_s=0.001)
        told = asyncio.ensure_future(story.told())
        while not story.asked[0]:
            await asyncio.sleep(0)
        story.clock.time_s = 7
        assert await told == list(ANSWER)
        assert sorted(story.pooled._firsts_s) == [0, 7]

    asyncio.run(run())


def test_it_is_well_while_one_of_them_is_and_closes_all() -> None:
    async def run() -> None:
        story = Story(FakeUpstream(ANSWER), FakeUpstream(ANSWER))
        story.upstreams[0].is_well = False
        assert await story.pooled.health()
        await story.pooled.close()
        assert not await story.pooled.health()

    asyncio.run(run())
