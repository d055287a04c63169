"""Appends a second of the log, in SQLite and in PostgreSQL, by one writer and by fifty.

Both are on the same disk with fsync on; PostgreSQL is a private server on loopback TCP, started by
this script from the system's package. Each writer appends an entry of 308 bytes to a stream of its
own as soon as the one before is durable. The four arms take turns, so that whatever else the
machine does hits all of them. There is no target: who has one server should keep the file.

    sqlite_1, sqlite_50, postgres_1, postgres_50    appends a second, median of the rounds
    …_p50_ms, …_p99_ms                              how long one append took, median of the rounds
"""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import report

from murmurate.adapters.postgres.database import Database
from murmurate.adapters.postgres.log import PostgresLog
from murmurate.adapters.sqlite.log import SqliteLog
from murmurate.core.clock import SystemClock
from murmurate.core.ports import Entry, Log

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.servers.postgres import PostgresServer

BODY = b"x" * 308
WRITERS = (1, 50)


async def measure(log: Log, writers: int, seconds: float) -> tuple[float, list[float]]:
    """Return appends a second, and how long each took in milliseconds."""
    took_ms: list[float] = []
    began_s = time.perf_counter()
    until_s = began_s + seconds

    async def write(number: int) -> None:
        while (start_s := time.perf_counter()) < until_s:
            await log.append([Entry("default", f"session/{number}", "note", BODY)])
            took_ms.append((time.perf_counter() - start_s) * 1000)

    await asyncio.gather(*(write(number) for number in range(writers)))
    return len(took_ms) / (time.perf_counter() - began_s), took_ms


async def rounds(
    server: PostgresServer, folder: Path, count: int, seconds: float
) -> dict[str, list[float]]:
    clock = SystemClock()
    logs: dict[str, Any] = {
        "sqlite": SqliteLog(folder / "truth.db", clock=clock),
        "postgres": await PostgresLog.open(Database(server.url), clock=clock),
    }
    samples: dict[str, list[float]] = {}
    for _ in range(count):
        for writers in WRITERS:
            for name, log in logs.items():
                rate, took_ms = await measure(log, writers, seconds)
                cuts = quantiles(took_ms, n=100)
                figures = {"": rate, "_p50_ms": cuts[49], "_p99_ms": cuts[98]}
                for ending, value in figures.items():
                    samples.setdefault(f"{name}_{writers}{ending}", []).append(value)
    for log in logs.values():
        await log.close()
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two short rounds; nothing is kept")
    quick = parser.parse_args().quick
    server = PostgresServer()
    try:
        server.start()
        with tempfile.TemporaryDirectory() as folder:
            count, seconds = (2, 1.0) if quick else (7, 4.0)
            found = asyncio.run(rounds(server, Path(folder), count, seconds))
    finally:
        server.close()
    keys = {key: median(values) for key, values in found.items()}
    report.table(("appends", "median"), list(keys.items()))
    report.finish("log", keys, found, quick=quick)


if __name__ == "__main__":
    main()
