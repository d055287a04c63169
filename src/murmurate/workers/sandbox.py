"""The sandbox worker: runs snippets in pydantic-monty interpreters, one process each."""

import asyncio
import math
import signal
from contextlib import AsyncExitStack

import msgspec
import pydantic_monty as monty

from murmurate.adapters.sandbox import Outcome, Run
from murmurate.adapters.wire import serve
from murmurate.workers.boot import SandboxBoot
from murmurate.workers.lifeline import boot, say_ready

INTERPRETERS_MAX = 4
ERROR_CHARS_MAX = 300
RESULT_BYTES_MAX = 64 * 1024


class Sandbox:
    """A pool of interpreters that know no files, no network and no clock of the host."""

    def __init__(self, pool: monty.AsyncMonty) -> None:
        self._pool = pool

    async def run(self, message: Run) -> Outcome:
        """Run the snippet in a fresh session; a crash or an exceeded limit is an outcome too."""
        limits = monty.ResourceLimits(
            max_feed_duration_secs=message.time_s_max,
            max_memory=message.memory_bytes_max,
            max_recursion_depth=200,
        )
        try:
            async with self._pool.checkout(limits=limits) as session:
                value = await session.feed_run(message.code)
        except monty.MontyError as error:
            return Outcome(None, str(error)[:ERROR_CHARS_MAX])
        return outcome_of(value)


def outcome_of(value: object) -> Outcome:
    """Return the value as JSON, or say why it can't leave the sandbox."""
    if isinstance(value, float) and not math.isfinite(value):
        return Outcome(None, f"OverflowError: the result is {value}")
    try:
        text = msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError) as error:
        return Outcome(None, f"{type(error).__name__}: the result has no JSON form")
    if len(text) > RESULT_BYTES_MAX:
        return Outcome(None, f"ValueError: the result is over {RESULT_BYTES_MAX} bytes")
    return Outcome(text.decode(), None)


async def main() -> None:
    """Serve until SIGTERM."""
    boot_message = boot(SandboxBoot)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's to handle
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(
            monty.AsyncMonty(min_processes=1, max_processes=INTERPRETERS_MAX, checkout_timeout=4.0)
        )
        server = await serve(boot_message.socket, Run, Sandbox(pool).run)
        stack.callback(server.close)
        say_ready()
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(main())
