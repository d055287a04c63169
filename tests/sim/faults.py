"""What goes wrong, as the seed says: engines, the library, the sandbox and the disk.

Each part draws from a chance of its own, so that a change in one does not move the others. A run of
bad luck is as long as it is: an engine that dies stays dead for a while, and so does the library.
"""

import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from enum import StrEnum

from murmurate.core.clock import Clock
from murmurate.core.errors import (
    EngineFailedError,
    EngineUnreachableError,
    MurmurateError,
    OverloadedError,
)
from murmurate.core.types import Delta, Finished, FinishReason, Request, Role, Text, Usage
from murmurate.engines.ports import Engine

ENGINE_FAULT_SHARE = 0.1
DEAD_S_MAX = 4.0
SLOW_S_MAX = 3.0


class Fault(StrEnum):
    """How one answer of an engine goes wrong."""

    SLOW = "slow"
    DEAD = "dead"
    MIDWAY = "midway"
    GARBAGE = "garbage"
    FULL = "full"
    HANG = "hang"


class Outages:
    """Says when a part is down: for a while, again and again."""

    def __init__(self, chance: random.Random, clock: Clock, *, share: float) -> None:
        self._chance = chance
        self._clock = clock
        self._share = share
        self._down_until_s = 0.0
        self.enabled = True

    def is_down(self) -> bool:
        """Draw: sometimes an outage begins with this very call."""
        if not self.enabled:
            return False
        now_s = self._clock.now_s()
        if now_s >= self._down_until_s and self._chance.random() < self._share:
            self._down_until_s = now_s + self._chance.uniform(0.0, DEAD_S_MAX)
        return now_s < self._down_until_s


class FaultyEngine:
    """An engine that fails now and then, and signs its answers.

    A real engine's answer looks the same for everybody; the signature shows whose it was, which run
    of the engine made it, and how much of the conversation it has heard, so that a cache that mixes
    up tenants or questions is found out, and a session that forgets.
    """

    def __init__(
        self,
        below: Engine,
        *,
        chance: random.Random,
        clock: Clock,
        first_token_s: float,
        saw: Callable[..., None],
    ) -> None:
        self._below = below
        self._chance = chance
        self._clock = clock
        self._first_token_s = first_token_s
        self._saw = saw
        self._dead_until_s = 0.0
        self._answers = 0
        self.running = 0
        self.running_max = 0
        self.usages = [0, 0]

    async def answer(self, request: Request) -> AsyncGenerator[Delta]:
        """Answer, unless the seed has it otherwise."""
        self.running += 1
        self.running_max = max(self.running_max, self.running)
        fault = self._draw()
        # The deltas before the failure: often none.
        after = self._chance.choice((0, 1, 2, 4)) if fault in (Fault.MIDWAY, Fault.GARBAGE) else 0
        self._saw("engine.begins", request.model, request.id, fault)
        try:
            await self._before(fault)
            async with aclosing(self._below.answer(request)) as deltas:
                emitted = 0
                async for delta in deltas:
                    if fault in (Fault.MIDWAY, Fault.GARBAGE) and emitted >= after:
                        raise EngineFailedError(f"{request.model}: {fault}")
                    if isinstance(delta, Usage):
                        self.usages[0] += delta.tokens_in
                        self.usages[1] += delta.tokens_out
                    if isinstance(delta, Finished) and delta.reason is FinishReason.STOP:
                        self._answers += 1
                        yield Text(self._signature(request))
                    yield delta
                    emitted += 1
        finally:
            self.running -= 1
            self._saw("engine.ends", request.model, request.id)

    async def health(self) -> bool:
        """Say whether it is alive."""
        return self._clock.now_s() >= self._dead_until_s

    async def close(self) -> None:
        """Do nothing."""

    def _signature(self, request: Request) -> str:
        heard = sum(message.role is Role.USER for message in request.messages)
        return f" [{request.tenant} {request.model}#{self._answers} heard {heard}]"

    async def _before(self, fault: Fault | None) -> None:
        error: MurmurateError | None = None
        match fault:
            case Fault.SLOW:
                await self._clock.sleep(self._chance.uniform(0.5, SLOW_S_MAX))
            case Fault.DEAD:
                error = EngineUnreachableError("the engine is gone", retry_s=1)
            case Fault.FULL:
                error = OverloadedError("the engine is full", retry_s=1)
            case Fault.HANG:
                await self._clock.sleep(self._first_token_s)
                error = EngineFailedError(f"silent for {self._first_token_s:g} s")
            case Fault.MIDWAY | Fault.GARBAGE | None:
                pass
        if error is not None:
            raise error

    def _draw(self) -> Fault | None:
        now_s = self._clock.now_s()
        if now_s < self._dead_until_s:
            return Fault.DEAD
        if self._chance.random() >= ENGINE_FAULT_SHARE:
            return None
        fault = self._chance.choice(tuple(Fault))
        if fault is Fault.DEAD:
            self._dead_until_s = now_s + self._chance.uniform(0.0, DEAD_S_MAX)
        return fault
