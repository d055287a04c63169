"""What does a durable step cost, beside LangGraph and DBOS, and what survives of runs?

A step is an append of 500 bytes to the stream of a run, under the fence of who claimed the run. It
counts once it is on disk (SQLite, fsync on). That is the journal alone: no model, no agent. What
comes after it (`lives.py`) is the whole runner, in processes that are really killed.

Rounds of: steps of one run, each followed by 500 bytes appended to a file beside it with an fsync;
50 runs of 10 steps at once; the same in the peers' programmes (`peers/`), each in a process and an
environment of its own, made on demand, with their stores on the same disk. So whatever else the
machine does hits all of them.

    step_p50_ms      a step of one run at a time, from the call until it is on disk; fsync_p50_ms:
    fsync_ratio      the file beside it; and the one by the other
    steps_s_50       steps a second with 50 runs at once; median of the rounds
    cpu_us_per_step  processor time of a step then, all threads, the caller's part included
    bytes_growth     stored bytes a step after 1,000 steps a run, by those after 10
    bytes_per_step   the latter
    langgraph_ratio  steps a second by those of LangGraph with its SQLite checkpointer, in the
                     faster of its ways: as a rule its default, which may run finished steps again
                     after a crash; langgraph_sync_ratio: in the one that saves before going on
    saver_ratio      by its checkpointer alone, without a graph: the like of what is measured of us
    dbos_ratio       by DBOS on SQLite
    …_pg_ratio       the same peers on PostgreSQL, where a server is installed (not in quick runs)

    resume_s         from the kill of a worker to the first new step in another one, told by its
                     supervisor: the worst of 20 points, before and after each of ten effects;
    resume_p50_s     the median; hung_resume_s: the worst of stopped workers, which nobody tells of
    reexecuted       effects of journaled steps that came again, of all points
    duplicates       effects that a receiver made twice that knows keys
    waiting_mb       memory of a process with a runner and 10,000 runs that wait for news
    jobs_s           runs a second that one process claims, reads, answers and ends, of 100,000

Ratios are medians over the rounds.

    python benchmarks/durable.py [--quick]
"""

import argparse
import asyncio
import contextlib
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import lives
import peer
import postgres
import report
import uvloop

from murmurate.adapters.sqlite.log import SqliteLog
from murmurate.core.clock import SystemClock
from murmurate.core.ports import Claim, Entry, Offer

TENANT, QUEUE, RUNNER = "default", "runs", "bench"
BODY = os.urandom(500)
AT_ONCE = 50
STEPS = 10
PEERS = ("langgraph", "dbos")
FIRST, LAST = 10, 1000
"""Between them the stored bytes of a step are compared."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything a run does."""

    rounds: int
    single_runs: int
    runs: int
    growing_runs: int
    waiting: int
    jobs: int


QUICK = Plan(rounds=1, single_runs=20, runs=200, growing_runs=5, waiting=1000, jobs=2000)
FULL = Plan(rounds=5, single_runs=40, runs=1000, growing_runs=100, waiting=10_000, jobs=100_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small round; nothing is kept")
    quick = parser.parse_args().quick
    plan = QUICK if quick else FULL
    samples: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        server = None if quick else postgres.programs()
        database = stack.enter_context(postgres.running(server)) if server else None
        for _ in range(plan.rounds):
            found = {**own(plan, scratch), **peers(scratch, database)}
            for key, values in found.items():
                samples.setdefault(key, []).extend(values)
        growth = uvloop.run(stored_bytes(scratch / "growth.db", plan.growing_runs))
        samples |= lives.lives(scratch, waiting=plan.waiting, jobs=plan.jobs, quick=quick)
    keys = {**summary(samples), **growth, **lives.keys_of(samples)}
    show(samples)
    report.finish("durable", keys, samples, quick=quick)


def own(plan: Plan, scratch: Path) -> dict[str, list[float]]:
    """Measure the log in a new file: one run at a time, then many at once."""
    folder = scratch / "own"
    folder.mkdir()
    found = uvloop.run(steps_of_log(folder, plan))
    shutil.rmtree(folder)
    return found


async def steps_of_log(folder: Path, plan: Plan) -> dict[str, list[float]]:
    log = SqliteLog(folder / "truth.db", clock=SystemClock())
    single = await claimed(log, [f"single{number}" for number in range(plan.single_runs)])
    with (folder / "beside").open("wb", buffering=0) as beside:
        step_ms, fsync_ms = await one_at_a_time(log, single, beside.fileno())
    many = await claimed(log, [f"many{number}" for number in range(plan.runs)])
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    await at_once(log, many, STEPS)
    took_s, took_cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    await log.close()
    steps = plan.runs * STEPS
    return {
        "step_ms": step_ms,
        "fsync_ms": fsync_ms,
        "steps_s": [steps / took_s],
        "cpu_us_per_step": [took_cpu_s / steps * 1e6],
    }


async def claimed(log: SqliteLog, names: Sequence[str]) -> list[Claim]:
    """Offer runs and claim them."""
    await log.renew(RUNNER)
    await log.append([], work=[Offer(TENANT, f"run/{name}", QUEUE) for name in names])
    claims = await log.claim(QUEUE, RUNNER, limit=len(names))
    assert len(claims) == len(names)
    return claims


async def one_at_a_time(
    log: SqliteLog, claims: Sequence[Claim], beside: int
) -> tuple[list[float], list[float]]:
    """Return how long each step took, and each fsync between two of them."""
    step_ms: list[float] = []
    fsync_ms: list[float] = []
    for claim in claims:
        for _ in range(STEPS):
            began_s = time.perf_counter()
            await step(log, claim)
            between_s = time.perf_counter()
            os.write(beside, BODY)
            os.fsync(beside)
            step_ms.append((between_s - began_s) * 1000)
            fsync_ms.append((time.perf_counter() - between_s) * 1000)
    return step_ms, fsync_ms


async def at_once(log: SqliteLog, claims: Sequence[Claim], steps: int) -> None:
    """Let so many runs make their steps, `AT_ONCE` of them at a time."""
    waiting = iter(claims)

    async def work() -> None:
        for claim in waiting:
            for _ in range(steps):
                await step(log, claim)

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))


async def step(log: SqliteLog, claim: Claim) -> None:
    await log.append([Entry(claim.tenant, claim.stream, "step", BODY)], fence=claim)


async def stored_bytes(path: Path, runs: int) -> dict[str, float]:
    """Return what a step adds to the file, over the first ten and over a thousand of each run."""
    log = SqliteLog(path, clock=SystemClock())
    claims = await claimed(log, [f"grow{number}" for number in range(runs)])
    await log.close()  # folds the WAL into the file
    sizes = [path.stat().st_size]
    for steps in (FIRST, LAST - FIRST):
        log = SqliteLog(path, clock=SystemClock())
        await at_once(log, claims, steps)
        await log.close()
        sizes.append(path.stat().st_size)
    first, last = ((sizes[1] - sizes[0]) / FIRST / runs, (sizes[2] - sizes[0]) / LAST / runs)
    return {"bytes_per_step": first, "bytes_growth": last / first}


def peers(scratch: Path, database: str | None) -> dict[str, list[float]]:
    """Measure what others write in the same time: LangGraph and DBOS, on SQLite and PostgreSQL."""
    found: dict[str, list[float]] = {}
    for name in PEERS:
        for suffix, server in (("", None), ("_pg", database)):
            if suffix and not server:
                continue
            store = server or str(scratch / f"{name}.db")
            given = (store, str(AT_ONCE), str(STEPS))
            rates = peer.measure(name, f"{name}_steps.py", *given)
            found |= {f"{name}{suffix}_{way}": [rate] for way, rate in rates.items()}
        for left in scratch.glob(f"{name}.db*"):
            left.unlink()
    return found


def summary(samples: dict[str, list[float]]) -> dict[str, float]:
    step_ms, fsync_ms = (statistics.median(samples[key]) for key in ("step_ms", "fsync_ms"))
    keys = {
        "step_p50_ms": step_ms,
        "fsync_p50_ms": fsync_ms,
        "fsync_ratio": step_ms / fsync_ms,
        "steps_s_50": statistics.median(samples["steps_s"]),
        "cpu_us_per_step": statistics.median(samples["cpu_us_per_step"]),
    }
    own = samples["steps_s"]
    for suffix in ("", "_pg"):
        if f"dbos{suffix}_workflow" in samples:
            sync, beside, saver = (
                samples[f"langgraph{suffix}_{way}"] for way in ("sync", "async", "saver")
            )
            fastest = [max(rates) for rates in zip(sync, beside, strict=True)]
            keys[f"langgraph{suffix}_ratio"] = ratio(own, fastest)
            keys[f"langgraph{suffix}_sync_ratio"] = ratio(own, sync)
            keys[f"saver{suffix}_ratio"] = ratio(own, saver)
            keys[f"dbos{suffix}_ratio"] = ratio(own, samples[f"dbos{suffix}_workflow"])
    return keys


def ratio(own: Sequence[float], others: Sequence[float]) -> float:
    """Return the median of the rounds' ratios."""
    return statistics.median(one / other for one, other in zip(own, others, strict=True))


def show(samples: dict[str, list[float]]) -> None:
    rows = [
        [name, statistics.median(values), min(values), max(values)]
        for name, values in samples.items()
    ]
    report.table(["samples", "median", "least", "most"], rows)


if __name__ == "__main__":
    main()
