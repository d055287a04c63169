"""The sandbox worker's messages, and the client that speaks them."""

from typing import Any, ClassVar

import msgspec

from murmurate.adapters.wire import Caller, Message
from murmurate.core.clock import Clock


class Outcome(msgspec.Struct, frozen=True):
    """What a snippet came to: `value` as JSON text, or the error it ended with."""

    value: str | None
    error: str | None


class Run(Message[Outcome], frozen=True, tag=True):
    """Run a Python snippet; its last expression is its value."""

    code: str
    time_s_max: float
    memory_bytes_max: int

    reply: ClassVar[Any] = Outcome


class SandboxClient:
    """Runs snippets in the sandbox worker: no files, no network, bounded time and memory."""

    def __init__(self, path: str, *, clock: Clock, time_s_max: float = 1.0) -> None:
        self._caller = Caller(path, clock=clock)
        self._time_s_max = time_s_max

    async def run(self, code: str) -> Outcome:
        """Return the snippet's value or its error; raises only when the worker is not there."""
        message = Run(code, time_s_max=self._time_s_max, memory_bytes_max=64 * 1024 * 1024)
        # The worker ends a snippet by itself; the margin covers waiting for a free interpreter.
        return await self._caller.call(message, timeout_s=self._time_s_max + 5.0)

    async def close(self) -> None:
        """Hang up."""
        await self._caller.close()
