"""How long does an append wait while several processes write to one SQLite log?

Each process keeps eight appends of 500 bytes under way, each to a stream of its own, for as long as
the measurement takes. Beside them one process appends ten times a second, as a server does that has
little to do: its waits are those of a beat or of a claim.

    commits_s       entries a second, of all processes
    p50_ms …        the wait of an append of the busy processes, from the call until it is on disk
    light_p50_ms …  the same of the process with little to do

    python benchmarks/writers.py [--processes 4] [--seconds 10]
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from murmurate.adapters.sqlite.log import SqliteLog
from murmurate.core.clock import SystemClock
from murmurate.core.errors import LogUnavailableError
from murmurate.core.ports import Entry

AT_ONCE = 8
BODY = b"x" * 500
LIGHT_PAUSE_S = 0.1


async def write(path: Path, name: str, *, seconds: float, at_once: int, pause_s: float) -> None:
    """Append until the time is over, then print all waits."""
    log = SqliteLog(path, clock=SystemClock())
    waits_ms: list[float] = []
    refused = 0
    end_s = time.monotonic() + seconds

    async def one(number: int) -> None:
        nonlocal refused
        while time.monotonic() < end_s:
            begun_s = time.monotonic()
            try:
                await log.append([Entry("default", f"{name}/{number}", "step", BODY)])
            except LogUnavailableError:
                refused += 1
            waits_ms.append((time.monotonic() - begun_s) * 1000)
            await asyncio.sleep(pause_s)

    await asyncio.gather(*(one(number) for number in range(at_once)))
    await log.close()
    json.dump({"waits_ms": waits_ms, "refused": refused}, sys.stdout)


def spread(waits_ms: list[float], name: str = "") -> dict[str, float]:
    """Return what is told of them."""
    cuts = statistics.quantiles(waits_ms, n=100)
    found = {"p50_ms": cuts[49], "p99_ms": cuts[98], "max_ms": max(waits_ms)}
    return {f"{name}{key}": round(value, 2) for key, value in found.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--write", nargs=4, metavar=("PATH", "NAME", "AT_ONCE", "PAUSE_S"))
    words = parser.parse_args()
    if words.write:
        path, name, at_once, pause_s = words.write
        each = {"at_once": int(at_once), "pause_s": float(pause_s)}
        asyncio.run(write(Path(path), name, seconds=words.seconds, **each))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/truth.db"
        kinds = [(str(AT_ONCE), "0")] * words.processes + [("1", str(LIGHT_PAUSE_S))]
        words_of_all = [sys.executable, __file__, "--seconds", str(words.seconds), "--write", path]
        running = [
            subprocess.Popen([*words_of_all, f"p{number}", *kind], stdout=subprocess.PIPE)
            for number, kind in enumerate(kinds)
        ]
        *busy, light = [json.loads(each.communicate()[0]) for each in running]
    waits_ms = [wait for each in busy for wait in each["waits_ms"]]
    found = {"commits_s": round(len(waits_ms) / words.seconds), **spread(waits_ms)}
    found |= {**spread(light["waits_ms"], "light_")}
    found["refused"] = sum(each["refused"] for each in (*busy, light))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
