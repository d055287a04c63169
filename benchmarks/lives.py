"""What runs cost beside their steps: being taken over, waiting, being many. For `durable.py`."""

import asyncio
import random
import resource
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from statistics import median

import msgspec
import uvloop
from untraced import Untraced

from murmurate.adapters.logs import JsonLog
from murmurate.adapters.sqlite.log import SqliteLog
from murmurate.core.clock import SystemClock
from murmurate.core.ids import Ids
from murmurate.core.ports import NEVER_MS, Entry, Offer
from murmurate.core.types import Delta, Finished, FinishReason, Request, Text
from murmurate.jobs.entries import QUEUE, Begun, Kind, stream_of
from murmurate.jobs.journal import OpenJournals
from murmurate.jobs.runner import Runner

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the crash matrix is a test, too

from tests.crashes.matrix import POINTS, TENANT, Outcome, crossed, request_of, working  # noqa: E402
from tests.crashes.receiver import receiving  # noqa: E402

HUNG = (("before", 2), ("after", 4), ("before", 6), ("after", 8), ("after", 10))
BATCH = 500


def lives(scratch: Path, *, waiting: int, jobs: int, quick: bool) -> dict[str, list[float]]:
    """Return the samples of all three."""
    points = POINTS[::7] if quick else POINTS
    killed = uvloop.run(matrix(scratch / "killed", "die", points))
    hung = uvloop.run(matrix(scratch / "hung", "hang", HUNG[:1] if quick else HUNG))
    every = [*killed, *hung]
    assert all(outcome.whole for outcome in every), [it.point for it in every if not it.whole]
    return {
        "resume_s": [it.resumed_s for it in killed],
        "hung_resume_s": [it.resumed_s for it in hung],
        "reexecuted": [float(it.reexecuted) for it in every],
        "duplicates": [float(it.duplicates) for it in every],
        "waiting_mb": [uvloop.run(waiting_mb(scratch / "waiting", waiting))],
        "jobs_s": [uvloop.run(jobs_s(scratch / "jobs", jobs))],
    }


def keys_of(samples: dict[str, list[float]]) -> dict[str, float]:
    """Return what is kept of the samples: the worst of each, and the median resumption."""
    worst = ("resume_s", "hung_resume_s", "waiting_mb")
    return {
        **{key: max(samples[key]) for key in worst},
        "resume_p50_s": median(samples["resume_s"]),
        "reexecuted": sum(samples["reexecuted"]),
        "duplicates": sum(samples["duplicates"]),
        "jobs_s": median(samples["jobs_s"]),
    }


async def matrix(folder: Path, what: str, points: tuple[tuple[str, int], ...]) -> list[Outcome]:
    """End a worker at each point of a run of ten steps."""
    folder.mkdir()
    clock = SystemClock()
    log = SqliteLog(folder / "truth.db", clock=clock)
    ids = Ids(clock, random.Random())
    with receiving() as receiver, working(str(folder / "truth.db"), folder, receiver) as workers:
        outcomes = await crossed(log, ids, workers, what=what, points=points)
    await log.close()
    return outcomes


class Trivial:
    """Answers at once: what is measured is the queue."""

    def __init__(self) -> None:
        self.answered = 0

    async def answer(self, request: Request) -> AsyncGenerator[Delta]:
        del request
        self.answered += 1
        yield Text("done")
        yield Finished(FinishReason.STOP)


class Server:
    """A runner on a log of its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        clock = SystemClock()
        self.log = SqliteLog(folder / "truth.db", clock=clock)
        self.agent = Trivial()
        events = JsonLog(folder / "events.log", clock=clock)
        outside = {"log": self.log, "clock": clock, "events": events, "tracer": Untraced()}
        self.runner = Runner(self.agent, OpenJournals(self.log), name="bench", **outside)

    async def begin(self, runs: int, *, due_ms: int = 0) -> None:
        """Submit so many runs."""
        ids = Ids(SystemClock(), random.Random())
        for first in range(0, runs, BATCH):
            entries: list[Entry] = []
            offers: list[Offer] = []
            for _ in range(min(BATCH, runs - first)):
                place = (TENANT, stream_of(ids.new("run")))
                body = msgspec.json.encode(Begun(request_of(ids, "do it"), background=True))
                entries.append(Entry(*place, Kind.BEGUN.value, body))
                offers.append(Offer(*place, QUEUE, due_ms=due_ms))
            await self.log.append(entries, work=offers)


async def waiting_mb(folder: Path, runs: int) -> float:
    """Return the memory of a process with a runner at work and so many runs waiting for news."""
    server = Server(folder)
    await server.runner.enlist()
    life = asyncio.create_task(server.runner.run())
    await server.begin(runs, due_ms=NEVER_MS)
    await asyncio.sleep(3.0)
    found = rss_mb()
    await ended(life, server)
    return found


async def jobs_s(folder: Path, runs: int) -> float:
    """Return how many runs a second one server ends, each claimed, read, answered and written."""
    server = Server(folder)
    await server.runner.enlist()
    await server.begin(runs)
    began_s = time.perf_counter()
    life = asyncio.create_task(server.runner.run())
    while server.agent.answered < runs or server.runner.working:
        await asyncio.sleep(0.02)
    took_s = time.perf_counter() - began_s
    await ended(life, server)
    return runs / took_s


async def ended(life: asyncio.Task[None], server: Server) -> None:
    """Stop a server."""
    life.cancel()
    await asyncio.gather(life, return_exceptions=True)
    await server.log.close()


def rss_mb() -> float:
    """Return the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1e6
