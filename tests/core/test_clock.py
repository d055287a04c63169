"""The machine's own clock."""

import asyncio

from murmurate.core.clock import SystemClock


def test_monotonic_seconds_never_go_backwards() -> None:
    clock = SystemClock()
    times = [clock.now_s() for _ in range(100)]
    assert times == sorted(times)


def test_the_wall_clock_counts_milliseconds_since_1970() -> None:
    year_ms = 365 * 24 * 3600 * 1000
    assert 50 * year_ms < SystemClock().unix_ms() < 500 * year_ms


def test_sleeping_leaves_the_loop_to_the_others() -> None:
    async def story() -> list[str]:
        order: list[str] = []

        async def sleeper() -> None:
            await SystemClock().sleep(0.002)
            order.append("sleeper")

        async def other() -> None:
            order.append("other")

        await asyncio.gather(sleeper(), other())
        return order

    assert asyncio.run(story()) == ["other", "sleeper"]
