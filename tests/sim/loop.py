"""An event loop whose time is a number: it jumps to the next timer when nothing else is ready.

Sleeping and time-outs cost nothing, and a run is the same each time, for nothing outside the
process takes part. The loop also keeps what an ordinary one would only log: failed callbacks, and
generators that were left for the garbage collector to close.
"""

import asyncio
import random
from asyncio import base_events
from collections.abc import AsyncGenerator
from typing import Any

UNIX_MS_AT_0 = 1_700_000_000_000
DAY_S = 86_400.0
STEADY_SHARE = 0.5
STEP_SHARE = 0.005
STEPS_MS = (-31_536_000_000, -3_600_000, -700, 0, 700, 3_600_000, 31_536_000_000)
"""How far a wall clock that somebody has set is off: a year, an hour, less than a second."""


class DeadlockError(Exception):
    """Everybody waits, and nothing will ever happen."""


class _Jump:
    """Stands where the selector would wait: time passes here, and nowhere else."""

    def __init__(self, loop: "VirtualLoop") -> None:
        self._loop = loop

    def select(self, timeout_s: float | None) -> list[Any]:
        if timeout_s is None:
            waiting = [str(task.get_coro()) for task in asyncio.all_tasks(self._loop)]
            raise DeadlockError(f"nothing will ever wake: {sorted(waiting)}")
        if timeout_s > 0:
            self._loop.now_s += timeout_s
            if self._loop.now_s > DAY_S:
                raise DeadlockError("the run has lasted for a day")
        return []


class VirtualLoop(base_events.BaseEventLoop):
    """asyncio's own loop without threads, files and sockets, over virtual time."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.abandoned: list[str] = []
        self.faults: list[str] = []
        self._selector = _Jump(self)
        self._clock_resolution = 1e-9
        self.set_exception_handler(_note_fault)

    def time(self) -> float:
        """Return the virtual time, from 0."""
        return self.now_s

    def pending_timers(self) -> list[asyncio.TimerHandle]:
        """Return the timers that are still to fire."""
        timers: list[asyncio.TimerHandle] = vars(self)["_scheduled"]
        return [timer for timer in timers if not timer.cancelled()]

    def abandon(self) -> None:
        """End all tasks, wherever they are."""
        tasks = asyncio.all_tasks(self)
        for task in tasks:
            task.cancel()
        if tasks:
            self.run_until_complete(asyncio.wait(tasks, timeout=60))

    def _process_events(self, event_list: list[Any]) -> None:
        del event_list

    def _write_to_self(self) -> None:
        raise AssertionError("another thread calls in: the simulation has only one")

    def _asyncgen_finalizer_hook(self, agen: AsyncGenerator[Any, Any]) -> None:
        # Who consumes a generator closes it; one that ends up here worked on for nobody.
        self.abandoned.append(str(agen))
        self.create_task(agen.aclose())


def _note_fault(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    assert isinstance(loop, VirtualLoop)
    loop.faults.append(f"{context.get('message')}: {context.get('exception')!r}")


class VirtualClock:
    """The `Clock` of a virtual loop; in half of the runs somebody sets its wall clock at times."""

    def __init__(self, loop: VirtualLoop, chance: random.Random) -> None:
        self._loop = loop
        self._chance = chance
        self._set_by_ms = 0
        self.is_steady = chance.random() < STEADY_SHARE
        self.now_s = loop.time

    def unix_ms(self) -> int:
        """Return milliseconds since 1970; the run begins on a day in 2023."""
        if not self.is_steady and self._chance.random() < STEP_SHARE:
            self._set_by_ms = self._chance.choice(STEPS_MS)
        return UNIX_MS_AT_0 + self._set_by_ms + int(self._loop.now_s * 1000)

    async def sleep(self, seconds: float) -> None:
        """Let virtual time pass."""
        await asyncio.sleep(seconds)
