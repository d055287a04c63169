"""The router with real tasks and fake engines."""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from murmurate.core.errors import EngineFailedError, ModelUnknownError, OverloadedError
from murmurate.core.ports import Model
from murmurate.core.types import Delta, Finished, FinishReason, Lane, Request, Text, Usage
from murmurate.router.lanes import Load, QueueLimits
from murmurate.router.service import Backend, Routed
from tests.engines.fakes import FakeClock, FakeModel, FakeTracer, all_of, ask

DONE = Finished(FinishReason.STOP)
QUEUE = QueueLimits(urgent_queue_max=2, batch_queue_max=2)


class GatedModel:
    """Answers when `let_go` is set; knows how many are inside."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()
        self.inside = 0
        self.order: list[str] = []

    async def answer(self, request: Request) -> AsyncGenerator[Delta]:
        self.inside += 1
        self.order.append(request.id)
        try:
            yield Text("first")
            await self.let_go.wait()
            yield DONE
        finally:
            self.inside -= 1


def routed(
    model: Model, slots: int = 1, queue: QueueLimits = QUEUE, tracer: FakeTracer | None = None
) -> Routed:
    return Routed(
        {"tiny": Backend(model, slots)},
        queue=queue,
        clock=FakeClock(),
        tracer=tracer or FakeTracer(),
        on_usage=lambda *_: None,
    )


def idle(router: Routed) -> bool:
    load = router.loads()["tiny"]
    return load == Load(slots=load.slots, running=0, urgent_waiting=0, batch_waiting=0)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_an_answer_passes_through_and_its_usage_is_metered_once() -> None:
    model = FakeModel(Text("hi"), Usage(3, 1), DONE)
    metered: list[tuple[str, Usage]] = []
    tracer = FakeTracer()
    router = Routed(
        {"tiny": Backend(model, 1)},
        queue=QUEUE,
        clock=FakeClock(),
        tracer=tracer,
        on_usage=lambda request, usage: metered.append((request.id, usage)),
    )
    assert asyncio.run(all_of(router, ask())) == [Text("hi"), Usage(3, 1), DONE]
    assert metered == [("req", Usage(3, 1))]
    assert tracer.facts == [{"lane": "urgent", "model": "tiny", "waited_ms": 0.0}]
    assert model.asked[0].trace.span_id == "router"
    assert idle(router)


def test_an_unknown_model_is_refused_with_the_names_of_the_known_ones() -> None:
    with pytest.raises(ModelUnknownError, match="served: tiny"):
        asyncio.run(all_of(routed(FakeModel()), ask(model="big")))


def test_requests_over_the_slots_wait_and_run_in_turn() -> None:
    async def story() -> None:
        model = GatedModel()
        router = routed(model)
        tasks = [asyncio.create_task(all_of(router, ask(id=str(n)))) for n in range(3)]
        await settle()
        assert model.inside == 1
        assert router.loads()["tiny"].urgent_waiting == 2
        model.let_go.set()
        await asyncio.gather(*tasks)
        assert model.order == ["0", "1", "2"]
        assert idle(router)

    asyncio.run(story())


def test_a_full_lane_refuses_at_once_and_says_when_to_come_back() -> None:
    async def story() -> None:
        model = GatedModel()
        router = routed(model)
        tasks = [asyncio.create_task(all_of(router, ask())) for _ in range(3)]
        await settle()
        with pytest.raises(OverloadedError, match="lane urgent of model tiny has 2 of 2") as error:
            await all_of(router, ask())
        assert error.value.retry_s == 2.0
        batch = asyncio.create_task(all_of(router, ask(lane=Lane.BATCH)))
        await settle()
        assert router.loads()["tiny"].batch_waiting == 1
        model.let_go.set()
        await asyncio.gather(*tasks, batch)
        assert idle(router)

    asyncio.run(story())


def test_a_cancelled_request_leaves_the_queue() -> None:
    async def story() -> None:
        model = GatedModel()
        router = routed(model)
        running, waiting = (asyncio.create_task(all_of(router, ask())) for _ in range(2))
        await settle()
        waiting.cancel()
        await settle()
        assert router.loads()["tiny"].urgent_waiting == 0
        model.let_go.set()
        await running
        assert idle(router)

    asyncio.run(story())


def test_a_cancel_that_meets_the_wake_up_half_way_loses_no_slot() -> None:
    async def story() -> None:
        model = GatedModel()
        router = routed(model)
        first, second, third = (
            asyncio.create_task(all_of(router, ask(id=str(n)))) for n in range(3)
        )
        await settle()
        model.let_go.set()
        while router.loads()["tiny"].urgent_waiting == 2:
            await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(first, third)
        assert second.cancelled()
        assert model.order == ["0", "2"]
        assert idle(router)

    asyncio.run(story())


def test_a_wake_up_for_a_request_cancelled_in_the_same_turn_goes_to_the_next() -> None:
    async def story() -> None:
        model = GatedModel()
        router = routed(model)
        first, second, third = (
            asyncio.create_task(all_of(router, ask(id=str(n)))) for n in range(3)
        )
        await settle()
        second.cancel()
        first.cancel()
        model.let_go.set()
        await third
        await settle()
        assert model.order == ["0", "2"]
        assert idle(router)

    asyncio.run(story())


def test_a_failing_engine_gives_its_slot_back() -> None:
    router = routed(FakeModel(Text("a"), EngineFailedError("broke")))
    for _ in range(3):
        with pytest.raises(EngineFailedError):
            asyncio.run(all_of(router, ask()))
    assert idle(router)


def test_closing_an_answer_closes_the_engine_and_frees_the_slot() -> None:
    async def story() -> None:
        model = GatedModel()
        router = routed(model)
        async with aclosing(router.answer(ask())) as deltas:
            assert await anext(deltas) == Text("first")
            assert model.inside == 1
        assert model.inside == 0
        assert idle(router)

    asyncio.run(story())


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_cancelled_no_slot_is_lost(seed: int) -> None:
    async def story() -> None:
        chance = random.Random(seed)
        model = GatedModel()
        model.let_go.set()
        router = routed(model, 2, QueueLimits(urgent_queue_max=50, batch_queue_max=50))
        tasks: list[asyncio.Task[object]] = []
        for n in range(40):
            lane = chance.choice([Lane.URGENT, Lane.BATCH])
            tasks.append(asyncio.create_task(all_of(router, ask(id=str(n), lane=lane))))
            if chance.random() < 0.6:
                chance.choice(tasks).cancel()
            if chance.random() < 0.3:
                await asyncio.sleep(0)
            assert model.inside <= 2
        await asyncio.gather(*tasks, return_exceptions=True)
        assert idle(router)
        assert await all_of(router, ask()) == [Text("first"), DONE]

    asyncio.run(story())
