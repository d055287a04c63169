"""A worker like `worker.py`, with a real agent whose one tool asks before it is called.

    python -m tests.crashes.asking LOG NAME FOLDER RECEIVER     (LOG: a path, or SCHEMA@URL)

A run for which `FOLDER/RUN.point` says `before asked` or `after tool` ends its worker there, the
first time: around the append that asks, that decides, that keeps what the tool came to, or around
the tool's effect. Lines on stdin are `decide RUN`, or names of runners that are dead; its end is
ours.
"""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from murmurate.adapters.logs import JsonLog
from murmurate.agents.ports import Effect, ToolContext, ToolResult
from murmurate.agents.service import Agents
from murmurate.config import AgentConfig
from murmurate.core.clock import SystemClock
from murmurate.core.errors import ApprovalDecidedError
from murmurate.core.journal import StepKind
from murmurate.core.ports import Entry, Log
from murmurate.core.types import (
    Caller,
    Delta,
    Finished,
    FinishReason,
    Origin,
    OriginKind,
    Request,
    ResultPart,
    Text,
    Tool,
    ToolCall,
)
from murmurate.jobs.approvals import Approvals
from murmurate.jobs.entries import ASKING, Kind, StepDone, id_of
from murmurate.jobs.errands import Errands
from murmurate.jobs.journal import OpenJournals
from murmurate.jobs.runner import Runner
from tests.crashes.worker import opened
from tests.fakes import RecordingTracer

BY = Caller("key_boss", "default")
LATE_S = 0.5
"""The patience of the agent `late`, whose calls nobody decides."""


class Deadly:
    """Ends this process at the point that a run's message names, only once for each run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def at(self, run_id: str, point: str) -> None:
        mark, wanted = self._folder / run_id, self._folder / f"{run_id}.point"
        if wanted.exists() and wanted.read_text() == point and not mark.exists():
            mark.with_suffix(".new").write_text(str(os.getpid()))
            mark.with_suffix(".new").rename(mark)
            os.kill(os.getpid(), signal.SIGKILL)


class DeadlyLog:
    """A log around whose appends one can die."""

    def __init__(self, log: Log, deadly: Deadly) -> None:
        self._log = log
        self._deadly = deadly

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def append(self, entries: Sequence[Entry], **options: Any) -> list[int]:
        points = [(id_of(it.stream), what_of(it)) for it in entries]
        for run_id, what in points:
            self._deadly.at(run_id, f"before {what}")
        seqs = await self._log.append(entries, **options)
        for run_id, what in points:
            self._deadly.at(run_id, f"after {what}")
        return seqs


def what_of(entry: Entry) -> str:
    if entry.kind != Kind.STEP:
        return {Kind.ASKED.value: "asked"}.get(entry.kind, "")
    kind = msgspec.json.decode(entry.body, type=StepDone).kind
    return {StepKind.APPROVAL: "decided", StepKind.TOOL: "tool"}.get(kind, "")


class Clerk:
    """Calls the tool, then says what it heard."""

    async def answer(self, request: Request) -> AsyncGenerator[Delta]:
        parts = [part for message in request.messages for part in message.parts]
        heard = [part.text for part in parts if isinstance(part, ResultPart)]
        if heard:
            yield Text(" ".join(heard))
            yield Finished(FinishReason.STOP)
            return
        yield ToolCall("call_1", "sell", "{}")
        yield Finished(FinishReason.TOOL_CALLS)


class Sell:
    """Has its effect at the receiver, under the key of its step."""

    spec = Tool("sell", "", "{}")
    effect = Effect.WRITE

    def __init__(self, receiver: str, deadly: Deadly) -> None:
        self._receiver = receiver
        self._deadly = deadly

    async def call(self, arguments: str, context: ToolContext) -> ToolResult:
        run_id = context.key.partition(":")[0]
        self._deadly.at(run_id, "before effect")
        await asyncio.to_thread(self._sell, context.key)
        self._deadly.at(run_id, "after effect")
        return ToolResult('"sold"', Origin(OriginKind.TOOL, "sell"))

    def _sell(self, key: str) -> None:
        connection = HTTPConnection(self._receiver, timeout=10)
        connection.request("POST", f"/{key}")
        assert connection.getresponse().status == 200
        connection.close()


class Worker:
    """A runner, its errands, and the place to decide."""

    def __init__(self, log: Log, name: str, folder: Path, receiver: str) -> None:
        clock = SystemClock()
        deadly = Deadly(folder)
        kept: Any = DeadlyLog(log, deadly)
        journals = OpenJournals(kept)
        agents = Agents(
            Clerk(),
            agents={
                "clerk": AgentConfig(model="tiny", tools=("sell",)),
                "late": AgentConfig(model="tiny", tools=("sell",), approval_s=LATE_S),
            },
            tools={"sell": Sell(receiver, deadly)},
            quoter=lambda question, passages: None,
            journals=journals,
            tracer=RecordingTracer(),
        )
        events = JsonLog(folder / f"{name}.log", clock=clock)
        shared: dict[str, Any] = {"log": kept, "clock": clock, "events": events}
        self.runner = Runner(agents, journals, name=name, tracer=RecordingTracer(), **shared)
        self.approvals = Approvals(self.runner, own=False, tenants=lambda: {BY.tenant}, **shared)
        self.errands = Errands(self.runner, self.approvals.settle, queue=ASKING, **shared)

    async def hear(self, line: str) -> None:
        """Approve what a run asks, if nobody has, or take over from the dead."""
        what, _, run_id = line.strip().partition(" ")
        if what != "decide":
            await self.runner.take_over(what)
            return
        with suppress(ApprovalDecidedError):
            await self.approvals.decide(BY, run_id, approved=True)


async def main(where: str, name: str, folder: Path, receiver: str) -> None:
    """Work until stdin ends."""
    worker = Worker(await opened(where), name, folder, receiver)
    await worker.runner.enlist()
    loop = asyncio.get_running_loop()

    def hear() -> None:
        for line in sys.stdin:
            asyncio.run_coroutine_threadsafe(worker.hear(line), loop)
        os._exit(0)

    threading.Thread(target=hear, daemon=True).start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(worker.runner.run())
        tasks.create_task(worker.errands.run())


if __name__ == "__main__":
    log_at, own_name, own_folder, receiver_at = sys.argv[1:]
    uvloop.run(main(log_at, own_name, Path(own_folder), receiver_at))
