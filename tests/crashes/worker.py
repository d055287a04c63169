"""A server without its gateway: a real runner on a real log, with an agent that can be made to die.

    python -m tests.crashes.worker LOG NAME FOLDER RECEIVER     (LOG: a path, or SCHEMA@URL)

The agent does ten steps; each has an effect at the receiver and is journaled after it. A run
whose message is `die before 3` or `hang after 7` ends or stops its worker there, the first time.
Lines on stdin are names of runners that are dead, as a supervisor tells them; its end is ours.
"""

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncGenerator
from http.client import HTTPConnection
from pathlib import Path

import uvloop

from murmurate.adapters.logs import JsonLog
from murmurate.adapters.postgres.database import Database
from murmurate.adapters.postgres.log import PostgresLog
from murmurate.adapters.sqlite.log import SqliteLog
from murmurate.core.clock import SystemClock
from murmurate.core.journal import StepKind
from murmurate.core.ports import Log
from murmurate.core.types import Delta, Finished, FinishReason, Request
from murmurate.jobs.journal import OpenJournals
from murmurate.jobs.runner import Runner
from tests.fakes import RecordingTracer

STEPS = 10
SIGNALS = {"die": signal.SIGKILL, "hang": signal.SIGSTOP}


async def opened(where: str) -> Log:
    """Open the log at a path, or in a PostgreSQL: `SCHEMA@URL`."""
    clock = SystemClock()
    schema, at, url = where.partition("@")
    if not at:
        return SqliteLog(Path(where), clock=clock)
    return await PostgresLog.open(Database(url, schema=schema), clock=clock)


class Agent:
    """Does its steps one after the other; dies where its request says so."""

    def __init__(self, journals: OpenJournals, folder: Path, receiver: str) -> None:
        self._journals = journals
        self._folder = folder
        self._receiver = receiver

    async def answer(self, request: Request) -> AsyncGenerator[Delta]:
        """Go through all steps; what was journaled is not done again."""
        journal = self._journals.of(request)
        what, when, where = request.messages[-1].text.split()
        for number in range(1, STEPS + 1):
            step = journal.step(StepKind.TOOL, f"effect {number}")
            if step.outcome is not None:
                continue
            if where == str(number) and when == "before":
                self._end(what, step.key)
            await asyncio.to_thread(self._effect, step.key)
            if where == str(number) and when == "after":
                self._end(what, step.key)
            await step.done(b'"done"')
        yield Finished(FinishReason.STOP)

    def _effect(self, key: str) -> None:
        """Change something outside, under the step's key."""
        connection = HTTPConnection(self._receiver, timeout=10)
        connection.request("POST", f"/{key}")
        assert connection.getresponse().status == 200
        connection.close()

    def _end(self, what: str, key: str) -> None:
        """Leave the time of death behind, then die or stop; only once for each run."""
        mark = self._folder / key.partition(":")[0]
        if not mark.exists():
            mark.with_suffix(".new").write_text(f"{time.monotonic()} {os.getpid()}")
            mark.with_suffix(".new").rename(mark)
            os.kill(os.getpid(), SIGNALS[what])


async def main(where: str, name: str, folder: Path, receiver: str) -> None:
    """Work until stdin ends."""
    clock = SystemClock()
    log = await opened(where)
    journals = OpenJournals(log)
    agent = Agent(journals, folder, receiver)
    events = JsonLog(folder / f"{name}.log", clock=clock)
    tracer = RecordingTracer()
    runner = Runner(agent, journals, name=name, log=log, clock=clock, tracer=tracer, events=events)
    await runner.enlist()
    loop = asyncio.get_running_loop()

    def hear() -> None:
        for line in sys.stdin:
            asyncio.run_coroutine_threadsafe(runner.take_over(line.strip()), loop)
        os._exit(0)

    threading.Thread(target=hear, daemon=True).start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await runner.run()


if __name__ == "__main__":
    log_at, own_name, own_folder, receiver_at = sys.argv[1:]
    uvloop.run(main(log_at, own_name, Path(own_folder), receiver_at))
