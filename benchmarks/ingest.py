"""Does reading documents cost more than embedding them, and does memory stay within bounds?

10,000 Markdown pages of two paragraphs each, written by a seeded word model, in ten collections of
1,000. Each collection is read through the whole pipeline (folder, log on disk, library process:
parsing, chunks, keywords, vectors), and the same chunks are then embedded by the embedder alone,
in turns, so that whatever else the machine does hits both.

- `speed_ratio`: time of the embedder alone by time of the pipeline; the median of the turns.
- `cpu_ratio`: the same in processor time of the library process, which other work changes little.
- `rss_mb`, `rss_first_mb`: peak memory of the library, after the last and the first collection.
- `reingest_ratio`: time to read everything again unchanged, by the time of the first reading.

    python benchmarks/ingest.py [--quick]
"""

import argparse
import asyncio
import contextlib
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import msgspec
import report
from untraced import Untraced

from murmurate.adapters.chunks import embedded_texts
from murmurate.adapters.library import LibraryClient
from murmurate.adapters.minilm import MiniLM
from murmurate.adapters.sqlite.log import SqliteLog
from murmurate.core.clock import SystemClock
from murmurate.knowledge.chunk import chunk
from murmurate.knowledge.service import Collections, Source
from murmurate.workers.boot import LibraryBoot
from murmurate.workers.embedder import Local

DOCS = Path(__file__).parents[1] / "docs"
TENANT = "default"
SEED = 20261121
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Scale:
    collections: int
    pages: int


FULL, QUICK = Scale(10, 1000), Scale(3, 100)


@dataclass(frozen=True)
class Turn:
    """One collection, read by the pipeline and embedded alone: wall and processor seconds."""

    chunks: int
    pipeline_s: float
    pipeline_cpu_s: float
    alone_s: float
    alone_cpu_s: float
    rss_mb: float


class Writer:
    """Writes pages: each word follows one that it follows in our own documentation."""

    def __init__(self) -> None:
        self._chance = random.Random(SEED)
        self._after: dict[str, list[str]] = {}
        for path in sorted(DOCS.rglob("*.md")):
            words = re.findall(r"[a-z]{2,}", path.read_text(encoding="utf-8").lower())
            for word, following in pairwise(words):
                self._after.setdefault(word, []).append(following)
        self._words = sorted(self._after)

    def page(self, number: int) -> str:
        paragraphs = [" ".join(self._sentence() for _ in range(4)) for _ in range(2)]
        return f"# Page {number}: {self._sentence()}\n\n{paragraphs[0]}\n\n{paragraphs[1]}\n"

    def _sentence(self) -> str:
        word = self._chance.choice(self._words)
        words = [word]
        while len(words) < 12:
            word = self._chance.choice(self._after.get(word) or self._words)
            words.append(word)
        return f"{' '.join(words).capitalize()}."


@asynccontextmanager
async def library(index: Path) -> AsyncGenerator[tuple[LibraryClient, int]]:
    """Run the library process; yield a client of it, and its pid."""
    boot = LibraryBoot(str(index.parent / "library.sock"), str(index))
    process = subprocess.Popen(
        [sys.executable, "-m", "murmurate.workers.library"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(msgspec.json.encode(boot) + b"\n")
    process.stdin.flush()
    process.stdout.readline()
    client = LibraryClient(boot.socket, clock=SystemClock())
    try:
        yield client, process.pid
    finally:
        await client.close()
        process.terminate()
        process.wait(30)


async def ingest(collections: Collections, name: str) -> float:
    """Return how long it took until every chunk had its vectors."""
    began_s = time.perf_counter()
    async with contextlib.aclosing(collections.sync(TENANT, name)) as steps:
        async for _ in steps:
            pass
    return time.perf_counter() - began_s


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used, all threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def rss_mb(pid: int) -> float:
    """Return the most memory that a process ever had."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found.group(1)) / 1024


def alone(model: MiniLM, folder: Path) -> tuple[int, float, float]:
    """Embed a folder's chunks as the pipeline does, and do nothing else."""
    texts: list[tuple[str, ...]] = []
    for path in sorted(folder.iterdir()):
        text = path.read_text(encoding="utf-8")
        title = text.partition("\n")[0].removeprefix("# ")
        texts += [embedded_texts(title, piece.context, piece.text) for piece in chunk(text)]
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    for first in range(0, len(texts), Local.pending_batch):
        batch = texts[first : first + Local.pending_batch]
        model.embed_with_states([text for chunk_ in batch for text in chunk_])
    return len(texts), time.perf_counter() - began_s, time.process_time() - began_cpu_s


async def turns(scale: Scale, scratch: Path) -> tuple[list[Turn], float]:
    """Return the turns, and how long reading everything again took."""
    writer = Writer()
    names = [f"pages{number}" for number in range(scale.collections)]
    for number, name in enumerate(names):
        (scratch / name).mkdir()
        for page in range(scale.pages):
            text = writer.page(number * scale.pages + page)
            (scratch / name / f"{page:04}.md").write_text(text, encoding="utf-8")
    model = MiniLM(scratch)
    index = scratch / "index"
    index.mkdir()
    [graph] = scratch.glob("minilm-*.onnx")
    (index / graph.name).hardlink_to(graph)
    clock = SystemClock()
    log = SqliteLog(scratch / "truth.db", clock=clock)
    found: list[Turn] = []
    async with library(index) as (client, pid):
        await client.embed(["ready?"])
        collections = Collections(
            client,
            log=log,
            clock=clock,
            tracer=Untraced(),
            sources={name: Source(str(scratch / name)) for name in names},
        )
        for name in names:
            began_cpu_s = cpu_s(pid)
            pipeline_s = await ingest(collections, name)
            pipeline_cpu_s = cpu_s(pid) - began_cpu_s
            chunks, *alone_s = await asyncio.to_thread(alone, model, scratch / name)
            state = await client.state(TENANT, name, wait_s=0)
            assert (state.chunks, state.chunks_pending) == (chunks, 0), state
            found.append(Turn(chunks, pipeline_s, pipeline_cpu_s, *alone_s, rss_mb(pid)))
            print(f"{name}: {chunks / pipeline_s:.0f} chunks/s", file=sys.stderr)
        again_s = sum([await ingest(collections, name) for name in names])
    await log.close()
    return found, again_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="300 pages; nothing is kept")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        found, again_s = asyncio.run(turns(QUICK if quick else FULL, Path(scratch)))
    first_s = sum(turn.pipeline_s for turn in found)
    samples = {
        "speed_ratio": [turn.alone_s / turn.pipeline_s for turn in found],
        "cpu_ratio": [turn.alone_cpu_s / turn.pipeline_cpu_s for turn in found],
        "chunks_per_s": [turn.chunks / turn.pipeline_s for turn in found],
        "rss_mb": [turn.rss_mb for turn in found],
    }
    keys = {
        "speed_ratio": statistics.median(samples["speed_ratio"]),
        "cpu_ratio": statistics.median(samples["cpu_ratio"]),
        "chunks_per_s": statistics.median(samples["chunks_per_s"]),
        "reingest_ratio": again_s / first_s,
        "rss_mb": found[-1].rss_mb,
        "rss_first_mb": found[0].rss_mb,
        "chunks": sum(turn.chunks for turn in found),
    }
    report.table(
        ["collection", "chunks/s", "alone/s", "speed", "cpu", "rss MB"],
        [
            [
                f"{number}",
                turn.chunks / turn.pipeline_s,
                turn.chunks / turn.alone_s,
                turn.alone_s / turn.pipeline_s,
                turn.alone_cpu_s / turn.pipeline_cpu_s,
                turn.rss_mb,
            ]
            for number, turn in enumerate(found)
        ],
    )
    report.finish("ingest", keys, samples, quick=quick)


if __name__ == "__main__":
    main()
