"""The crash matrix: ten steps, the worker killed or stopped before and after each effect."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from murmurate.core.ids import Ids
from murmurate.core.ports import Entry, Log, Offer
from murmurate.core.types import (
    Message,
    Origin,
    OriginKind,
    Request,
    Role,
    TextPart,
    TraceRef,
)
from murmurate.jobs.entries import QUEUE, Begun, Kind, RunState, RunStatus, folded, stream_of
from murmurate.testing.stories import all_of
from tests.crashes.receiver import Receiver, number
from tests.crashes.worker import STEPS

ROOT = Path(__file__).parents[2]
TENANT = "default"
POINTS = tuple((when, where) for where in range(1, STEPS + 1) for when in ("before", "after"))
LOOK_S = 0.002
PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run whose worker ended at one point."""

    point: str
    resumed_s: float
    """From the end of its worker to the first effect in another one."""
    reexecuted: int
    """Effects of steps that had been journaled and came again."""
    duplicates: int
    """Effects that the receiver made more than once."""
    whole: bool
    """Whether all steps are journaled once, in order, and the run has finished."""


@dataclass(slots=True)
class Workers:
    """Two workers at any time, and whoever looks after them."""

    where: str
    folder: Path
    receiver: Receiver
    module: str = "tests.crashes.worker"
    living: dict[str, subprocess.Popen[str]] = field(
        default_factory=dict[str, "subprocess.Popen[str]"]
    )
    born: int = 0

    def start(self) -> None:
        """Start one more, and wait until it works."""
        self.born += 1
        name = f"worker{self.born}"
        module = [sys.executable, "-m", self.module]
        arguments = [self.where, name, str(self.folder), self.receiver.address]
        process = subprocess.Popen(
            [*module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        self.living[name] = process

    def bury(self, pid: int) -> None:
        """Tell the others who is dead, as the supervisor does when a child exits."""
        name = next(name for name, process in self.living.items() if process.pid == pid)
        process = self.living.pop(name)
        process.wait(PATIENCE_S)
        for other in self.living.values():
            assert other.stdin is not None
            other.stdin.write(f"{name}\n")
            other.stdin.flush()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()

    def stop(self) -> None:
        """End all that are left."""
        for process in self.living.values():
            os.kill(process.pid, signal.SIGCONT)
            process.kill()
            process.communicate()


@contextmanager
def working(
    where: str, folder: Path, receiver: Receiver, *, module: str = "tests.crashes.worker"
) -> Generator[Workers]:
    """Have two workers on the log at `where`."""
    workers = Workers(where, folder, receiver, module)
    try:
        for _ in "12":
            workers.start()
        yield workers
    finally:
        workers.stop()


async def crossed(
    log: Log, ids: Ids, workers: Workers, *, what: str, points: tuple[tuple[str, int], ...] = POINTS
) -> list[Outcome]:
    """Go through the points; `what` is `die` or `hang`."""
    return [await _one(log, ids, workers, f"{what} {when} {where}") for when, where in points]


async def _one(log: Log, ids: Ids, workers: Workers, point: str) -> Outcome:
    run_id = await submitted(log, ids, point)
    mark = workers.folder / run_id
    await _until(mark.exists)
    end_s, pid = mark.read_text().split()
    ended_s = float(end_s)
    before = await _steps(log, run_id)
    if point.startswith("die"):
        await asyncio.to_thread(workers.bury, int(pid))
    receiver = workers.receiver
    await _until(lambda: receiver.first_after(run_id, ended_s) is not None)
    resumed_s = receiver.first_after(run_id, ended_s)
    assert resumed_s is not None
    if point.startswith("die"):
        await asyncio.to_thread(workers.start)
    state = await _ended(log, run_id)
    if point.startswith("hang"):
        os.kill(int(pid), signal.SIGCONT)
        await asyncio.sleep(1.0)  # it writes late, if it can
        state = await _ended(log, run_id)
    numbers = [step.number for step in state.steps]
    repeated = {number(key) for key in receiver.repeated(run_id)}
    return Outcome(
        point=point,
        resumed_s=resumed_s - ended_s,
        reexecuted=len(repeated.intersection(before)),
        duplicates=len(receiver.effects(run_id)) - STEPS,
        whole=numbers == list(range(1, STEPS + 1)) and state.status is RunStatus.FINISHED,
    )


async def submitted(log: Log, ids: Ids, text: str) -> str:
    """Begin a run in the background, as a server does."""
    run_id = ids.new("run")
    place = (TENANT, stream_of(run_id))
    body = msgspec.json.encode(Begun(request_of(ids, text), background=True))
    await log.append([Entry(*place, Kind.BEGUN.value, body)], work=[Offer(*place, QUEUE)])
    return run_id


def request_of(ids: Ids, text: str) -> Request:
    """Return a request with that message."""
    message = Message(Role.USER, (TextPart(text, Origin(OriginKind.USER)),))
    trace = TraceRef(ids.trace_id())
    return Request(id=ids.new("req"), tenant=TENANT, model="ten", messages=(message,), trace=trace)


async def _steps(log: Log, run_id: str) -> set[int]:
    """Return the steps that are journaled now."""
    state = folded(run_id, await all_of(log.read(TENANT, stream_of(run_id))))
    return {step.number for step in state.steps}


async def _ended(log: Log, run_id: str) -> RunState:
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        state = folded(run_id, await all_of(log.read(TENANT, stream_of(run_id))))
        if state.status is not RunStatus.UNDER_WAY:
            return state
        assert time.monotonic() < deadline_s, f"{run_id} does not end"
        await asyncio.sleep(LOOK_S)


async def _until(true: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline_s, "it did not come"
        await asyncio.sleep(LOOK_S)
