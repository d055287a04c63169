"""The router: finds the backend of a request, waits for one of its slots, and meters the answer."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from itertools import count

import msgspec

from murmurate.core.clock import Clock
from murmurate.core.errors import ModelUnknownError, OverloadedError
from murmurate.core.ports import Model, Tracer
from murmurate.core.types import Delta, Lane, Request, Usage
from murmurate.router.lanes import Arrival, Lanes, Load, QueueLimits, retry_s

SERVICE_TIMES_KEPT = 32


@dataclass(frozen=True, slots=True)
class Backend:
    """A model, and how many requests it can work on at once."""

    model: Model
    slots: int


class Routed:
    """Sends each request to the backend of its `model`, never more at once than that has slots.

    `on_usage` is told of every usage exactly once: this is the only place where tokens are metered.
    """

    def __init__(
        self,
        backends: Mapping[str, Backend],
        *,
        queue: QueueLimits,
        clock: Clock,
        tracer: Tracer,
        on_usage: Callable[[Request, Usage], None],
    ) -> None:
        self._gates = {name: _Gate(name, it, queue, clock) for name, it in backends.items()}
        self._clock = clock
        self._tracer = tracer
        self._on_usage = on_usage

    async def answer(self, request: Request) -> AsyncGenerator[Delta]:
        """Wait in the request's lane, then pass the backend's answer on.

        `OverloadedError` at once when the lane is full; `ModelUnknownError` for a name not served.
        """
        gate = self._gates.get(request.model)
        if gate is None:
            known = ", ".join(self._gates) or "none"
            raise ModelUnknownError(f"no model {request.model!r}; served: {known}", param="model")
        facts = {"lane": request.lane.value, "model": request.model}
        with self._tracer.span(request.trace, "router", **facts) as span:
            arrived_s = self._clock.now_s()
            async with gate.slot(request.lane) as started_s:
                span.note(waited_ms=round((started_s - arrived_s) * 1000, 3))
                below = msgspec.structs.replace(request, trace=span.ref)
                async with aclosing(gate.model.answer(below)) as deltas:
                    async for delta in deltas:
                        if isinstance(delta, Usage):
                            self._on_usage(request, delta)
                        yield delta

    def loads(self) -> dict[str, Load]:
        """Return what each backend has to do right now, by model: for metrics and scaling."""
        return {name: gate.load() for name, gate in self._gates.items()}


class _Gate:
    """The lanes before one backend, and the futures of those who wait in them."""

    def __init__(self, name: str, backend: Backend, limits: QueueLimits, clock: Clock) -> None:
        self.model = backend.model
        self._name = name
        self._slots = backend.slots
        self._limits = limits
        self._clock = clock
        self._lanes = Lanes(backend.slots, limits)
        self._tickets = count()
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._service_s: deque[float] = deque(maxlen=SERVICE_TIMES_KEPT)

    def load(self) -> Load:
        return self._lanes.load()

    def slot(self, lane: Lane) -> "_Slot":
        """Return a slot to hold for the time of a block."""
        return _Slot(self, next(self._tickets), lane)

    async def enter(self, ticket: int, lane: Lane) -> float:
        """Return the time from which on the ticket runs."""
        await self._admit(ticket, lane)
        return self._clock.now_s()

    def leave(self, ticket: int, started_s: float | None) -> None:
        """Let go of a ticket, whether it ran (since then) or not; another runs in its place."""
        if started_s is not None:
            self._service_s.append(self._clock.now_s() - started_s)
        self._waiting.pop(ticket, None)
        # Also after a cancel that met the wake-up half way: the ticket runs then, in `_lanes`.
        self._wake(self._lanes.leave(ticket))

    async def _admit(self, ticket: int, lane: Lane) -> None:
        """Return when the ticket runs."""
        arrival = self._lanes.arrive(ticket, lane)
        if arrival is Arrival.REFUSED:
            depth_max = self._limits.of(lane)
            wait_s = retry_s(depth_max, self._slots, self._service_s)
            raise OverloadedError(
                f"lane {lane.value} of model {self._name} has {depth_max} of {depth_max} waiting; "
                f"retry after {wait_s:.0f} s",
                retry_s=wait_s,
            )
        if arrival is Arrival.WAITS:
            turn = self._waiting[ticket] = asyncio.get_running_loop().create_future()
            await turn

    def _wake(self, ticket: int | None) -> None:
        turn = None if ticket is None else self._waiting.get(ticket)
        if turn is not None and not turn.done():
            turn.set_result(None)


class _Slot:
    """Holds a slot for the time of a block; `async with` gives the time from which on it does."""

    __slots__ = ("_gate", "_lane", "_started_s", "_ticket")

    def __init__(self, gate: _Gate, ticket: int, lane: Lane) -> None:
        self._gate = gate
        self._ticket = ticket
        self._lane = lane
        self._started_s: float | None = None

    async def __aenter__(self) -> float:
        try:
            self._started_s = await self._gate.enter(self._ticket, self._lane)
        except BaseException:
            self._gate.leave(self._ticket, None)
            raise
        return self._started_s

    async def __aexit__(self, *_: object) -> None:
        self._gate.leave(self._ticket, self._started_s)
