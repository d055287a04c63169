"""Time as an input, so that five minutes pass in a test without waiting."""

import time
from typing import Protocol


class Clock(Protocol):
    """The two times of a machine, and waiting."""

    def now_s(self) -> float:
        """Return seconds that never go backwards: for durations and deadlines."""
        ...

    def unix_ms(self) -> int:
        """Return the wall clock, in milliseconds since 1970: for what is stored and shown."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait without blocking anybody else."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now_s(self) -> float:
        """Return monotonic seconds."""
        return time.monotonic()

    def unix_ms(self) -> int:
        """Return the wall clock in milliseconds."""
        return time.time_ns() // 1_000_000

    async def sleep(self, seconds: float) -> None:
        """Wait on the running event loop."""
        import asyncio  # noqa: PLC0415 - the supervisor reads clocks too, and has no event loop

        await asyncio.sleep(seconds)
