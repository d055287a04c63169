"""What runs beside the requests of a server; the rest of it is tested with real processes."""

import asyncio

from murmurate.workers.server import FAULT_PAUSE_S, lasting
from tests.fakes import FakeClock, RecordingLog


def test_work_that_meets_a_fault_is_begun_again_and_the_fault_is_seen() -> None:
    async def story() -> None:
        clock, events = FakeClock(), RecordingLog()
        faults: list[Exception] = [ZeroDivisionError("by nought"), KeyError("k" * 10_000)]

        async def work() -> None:
            if faults:
                raise faults.pop(0)

        await lasting(work, events, clock)
        assert clock.slept_s == [FAULT_PAUSE_S] * 2
        first, second = events.named("server.fault")
        assert first["fault"] == "ZeroDivisionError: by nought"
        assert len(second["fault"]) == 500

    asyncio.run(story())


def test_work_that_is_cancelled_ends() -> None:
    async def story() -> None:
        began = asyncio.Event()

        async def work() -> None:
            began.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(lasting(work, RecordingLog(), FakeClock()))
        await began.wait()
        task.cancel()
        [end] = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(end, asyncio.CancelledError)

    asyncio.run(story())
