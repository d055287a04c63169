"""Waits with a bound that cost nothing where nobody has to wait.

`asyncio.timeout` costs 5 µs, also around what is done at once; most of what a server waits for is
there already when it asks (benchmarks/gateway.py).
"""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from types import coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


async def within(seconds: float, work: Coroutine[Any, Any, _T]) -> _T:
    """Do the work; `TimeoutError` when it waits, and is not done after `seconds`."""
    try:
        waits_for = work.send(None)
    except StopIteration as end:
        return end.value
    async with asyncio.timeout(seconds):
        return await _rest(work, waits_for)


@coroutine
def _rest(work: Coroutine[Any, Any, _T], waits_for: object) -> Generator[Any, Any, _T]:
    """Go on with work that has been begun by hand: hand up whatever it waits for."""
    while True:
        try:
            sent = yield waits_for
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the work's to handle
            go_on = partial(work.throw, error)
        else:
            go_on = partial(work.send, sent)
        try:
            waits_for = go_on()
        except StopIteration as end:
            return end.value


class Patience:
    """How long each of many waits may take: one timer for all of them, as it hardly ever rings.

    `on_late` is called once a wait has lasted to its deadline; it must end that wait.
    """

    __slots__ = ("_loop", "_on_late", "_rings_s", "_timer", "_until_s")

    def __init__(self, on_late: Callable[[], None]) -> None:
        self._on_late = on_late
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._rings_s = 0.0
        self._until_s: float | None = None

    def starts(self, deadline_s: float) -> None:
        """Begin a wait that may last until then, by the loop's time."""
        self._until_s = deadline_s
        if self._timer is None or deadline_s < self._rings_s:
            self._set(deadline_s)

    def stops(self) -> None:
        """Note that the wait is over."""
        self._until_s = None

    def end(self) -> None:
        """Stop the timer: there will be no further wait."""
        self._until_s = None
        if self._timer is not None:
            self._timer.cancel()

    def _set(self, at_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._rings_s = self._loop.call_at(at_s, self._ring), at_s

    def _ring(self) -> None:
        """Call the wait late, or look again at its deadline: it may be another one by now."""
        self._timer = None
        if self._until_s is None:
            return
        if self._loop.time() >= self._until_s:
            self._on_late()
        else:
            self._set(self._until_s)
