import asyncio

import pytest

from murmurate.core.waiting import Patience, within


async def at_once() -> str:
    return "done"


def test_what_is_done_at_once_is_not_timed() -> None:
    async def scenario() -> tuple[str, int]:
        loop = asyncio.get_running_loop()
        timers: list[object] = []
        call_at = loop.call_at
        loop.call_at = lambda *args, **kwargs: (timers.append(args), call_at(*args, **kwargs))[1]  # type: ignore[method-assign,assignment]
        return await within(1, at_once()), len(timers)

    assert asyncio.run(scenario()) == ("done", 0)


def test_what_waits_goes_on_where_it_was() -> None:
    async def work() -> list[int]:
        seen = [1]
        await asyncio.sleep(0)
        seen.append(2)
        await asyncio.sleep(0.001)
        return [*seen, 3]

    assert asyncio.run(within(5, work())) == [1, 2, 3]


def test_what_takes_too_long_is_cancelled_and_cleans_up() -> None:
    cleaned: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append("yes")

    with pytest.raises(TimeoutError):
        asyncio.run(within(0.01, work()))
    assert cleaned == ["yes"]


@pytest.mark.parametrize("first_waits", [False, True])
def test_an_error_of_the_work_comes_through(first_waits: bool) -> None:
    async def work() -> None:
        if first_waits:
            await asyncio.sleep(0)
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        asyncio.run(within(5, work()))


def test_an_error_that_it_waits_for_is_thrown_into_the_work() -> None:
    async def work(waits_for: asyncio.Future[None]) -> str:
        try:
            await waits_for
        except LookupError:
            return "handled"
        return "missed"

    async def scenario() -> str:
        waits_for = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(waits_for.set_exception, LookupError())
        return await within(5, work(waits_for))

    assert asyncio.run(scenario()) == "handled"


def test_a_cancelled_caller_cancels_the_work() -> None:
    seen: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def scenario() -> None:
        task = asyncio.ensure_future(within(5, work()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    assert seen == ["cancelled"]


def test_patience_rings_once_a_wait_has_lasted_to_its_deadline() -> None:
    async def scenario() -> float:
        loop = asyncio.get_running_loop()
        late: asyncio.Future[None] = loop.create_future()
        patience = Patience(lambda: late.set_result(None))
        began_s = loop.time()
        patience.starts(began_s + 0.03)
        patience.stops()
        patience.starts(began_s + 0.06)  # the timer of the first wait rings in the middle of this
        await asyncio.wait_for(late, 5)
        return loop.time() - began_s

    assert asyncio.run(scenario()) >= 0.055


def test_patience_rings_earlier_for_an_earlier_deadline() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        late: asyncio.Future[None] = loop.create_future()
        patience = Patience(lambda: late.set_result(None))
        patience.starts(loop.time() + 600)
        patience.stops()
        patience.starts(loop.time() + 0.01)
        await asyncio.wait_for(late, 5)

    asyncio.run(scenario())


@pytest.mark.parametrize("ending", ["stops", "end"])
def test_patience_without_a_wait_rings_for_nobody(ending: str) -> None:
    async def scenario() -> list[str]:
        rang: list[str] = []
        patience = Patience(lambda: rang.append("late"))
        patience.starts(asyncio.get_running_loop().time() + 0.01)
        getattr(patience, ending)()
        await asyncio.sleep(0.05)
        return rang

    assert asyncio.run(scenario()) == []


def test_a_wait_that_begins_behind_its_deadline_is_late() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        late: asyncio.Future[None] = loop.create_future()
        patience = Patience(lambda: late.set_result(None))
        patience.starts(loop.time() - 1)
        await asyncio.wait_for(late, 5)

    asyncio.run(scenario())
