"""The sandbox worker: runs snippets in pydantic-monty interpreters, one process each."""

import asyncio
import math
import os
import signal
from contextlib import AsyncExitStack

import msgspec
import pydantic_monty as monty

from murmurate.adapters.sandbox import Outcome, Run
from murmurate.adapters.wire import serve
from murmurate.workers.boot import SandboxBoot
from murmurate.workers.lifeline import beating, boot, say_ready

INTERPRETERS_MAX = 4
ERROR_CHARS_MAX = 300
RESULT_BYTES_MAX = 64 * 1024
NO_SLEEP = monty.OSPolicy(sleep="zero")
"""A sleep returns at once: sleeping does not count as running, so no limit would end it."""


class Sandbox:
    """A pool of interpreters that know no files, no network and no environment of the host."""

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
            async with self._pool.checkout(limits=limits, os_policy=NO_SLEEP) as session:
                value = await session.feed_run(message.code, print_callback=_drop)
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


def _drop(stream: str, text: str) -> None:
    """Throw printed text away: standard output is the supervisor's, and soon full."""
    del stream, text


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
        heart = asyncio.create_task(beating())
        await stop.wait()
        heart.cancel()


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # everything is closed; monty's threads abort about every third usual exit
