"""Claim: with everything on, a request costs the gateway <= 120 us of CPU time, a chunk <= 60 us.

One server process of ours, with keys, limits, accounting, metrics, traces and request lines, stands
between a client and an upstream that cost next to nothing (`wire/`), in turns with nginx, which
passes the same on unread, and, unless `--quick`, with TensorZero and LiteLLM. The gateway has the
first core, client and upstream the second. Each round starts each of them anew.

    cpu_us_request          CPU time of all processes of the gateway for a plain request, 32 at once
    cpu_us_chunk            and for a chunk of 1,000 streams of 10 chunks a second, their beginnings
                            and ends included
    ..._ratio               ours, over that of nginx, TensorZero and LiteLLM of the same run
    added_p50_ms            what it adds to the median time of a request, at 100 a second
    lost_chunks_1000        chunks of those 1,000 streams that did not come, or not in time
    mb_per_1000_streams     memory (PSS) with them open, less that before
    abort_close_ms          from a client's leaving to the end of its connection upstream: the worst

CPU times are the least of all rounds, as other work can only add to them; the rest are medians,
`abort_close_ms` and `lost_chunks_1000` the worst. Beside other work, run it under `chrt -r 5`: then
times mean something, too. A plain request is answered at once and whole; since we always ask the
upstream for a stream, that is one text in one piece for us, and one JSON object for the others.

`--soak SECONDS` measures something else: whether our memory grows under steady load.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import gateways
import report
import service
from gateways import Running, Target

WIRE = Path(__file__).parent / "wire"
BUILD = Path(__file__).parents[1] / "build" / "wire"
ON_SECOND_CORE = ("taskset", "-c", "1")

AT_ONCE = 32
WARM_UP_S = 1.0
PER_S = 100
STREAMS_FEW, STREAMS_MANY = 100, 1000
CHUNK_US = 100_000
RAMP_MS = 1000
LATE_S = 5.0
"""A chunk that comes so long after the last one was due counts as lost."""

PLAIN = "m"
PACED_PER_S = {"litellm": 10}
"""Others take 100 a second on one core; it can't."""

TARGETS = {
    "cpu_us_request": "<= 120",
    "cpu_us_chunk": "<= 60",
    "nginx_request_ratio": "<= 9",
    "nginx_chunk_ratio": "<= 3.5",
    "tensorzero_request_ratio": "<= 1",
    "tensorzero_chunk_ratio": "<= 1",
    "litellm_request_ratio": "<= 0.0133",
    "litellm_chunk_ratio": "<= 0.083",
    "added_p50_ms": "<= 0.8",
    "lost_chunks_1000": "0",
    "mb_per_1000_streams": "<= 25",
    "abort_close_ms": "<= 100",
}
LEAST = ("cpu_us_request", "cpu_us_chunk", "cpu_us_chunk_100")
WORST = ("lost_chunks_1000", "abort_close_ms", "abort_unnoticed")

Sample = dict[str, float]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything a run does."""

    rounds: int
    requests_s: float
    paced_s: float
    chunks: int
    aborts: int

    @property
    def streamed(self) -> str:
        """The model whose streams are measured."""
        return f"m-{self.chunks}-{CHUNK_US}"

    @property
    def models(self) -> tuple[str, ...]:
        return (PLAIN, self.streamed)


QUICK = Plan(rounds=2, requests_s=3, paced_s=3, chunks=50, aborts=10)
FULL = Plan(rounds=3, requests_s=4, paced_s=5, chunks=80, aborts=20)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # what was started ends on the way
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="nginx and ours only; nothing is kept")
    parser.add_argument("--soak", type=float, metavar="SECONDS", help="does our memory grow?")
    parser.add_argument("--only", metavar="NAME,...", help="these gateways; nothing is kept")
    options = parser.parse_args()
    plan = QUICK if options.quick else FULL
    with upstream() as port:
        if options.soak:
            soaked(port, options.soak)
            return
        default = "nginx,murmurate" if options.quick else ",".join(gateways.ALL)
        seen = compared(plan, port, (options.only or default).split(","))
    keys = summary(seen)
    show(seen, keys)
    samples = {
        f"{name}.{key}": values for name, all_ in seen.items() for key, values in all_.items()
    }
    report.finish("gateway", keys, samples, quick=options.quick or bool(options.only))


def compared(plan: Plan, port: int, names: Iterable[str]) -> dict[str, dict[str, list[float]]]:
    """Return the samples of each gateway by key, a value a round."""
    seen: dict[str, dict[str, list[float]]] = {}
    for _ in range(plan.rounds):
        direct_us = load("requests", Target(port), PLAIN, AT_ONCE, plan.paced_s, PER_S)["p50_us"]
        for name in names:
            with tempfile.TemporaryDirectory(prefix="bench-") as folder:
                gateway = gateways.ALL[name]
                with gateways.running(gateway, port, plan.models, Path(folder)) as found:
                    sample = measured(found, plan, port, PACED_PER_S.get(name, PER_S))
            sample["added_p50_ms"] = sample["p50_ms"] - direct_us / 1000
            print(name, json.dumps({k: round(v, 3) for k, v in sample.items()}), file=sys.stderr)
            for key, value in sample.items():
                seen.setdefault(name, {}).setdefault(key, []).append(value)
    return seen


def measured(found: Running, plan: Plan, upstream_port: int, per_s: int) -> Sample:
    """Return everything about one gateway."""
    load("requests", found.target, PLAIN, AT_ONCE, WARM_UP_S, 0)
    idle_mb = pss_mb(found.pid)
    sample = {"start_s": found.start_s, "idle_mb": idle_mb}
    used_s = service.tree_cpu_s(found.pid)
    plain = load("requests", found.target, PLAIN, AT_ONCE, plan.requests_s, 0)
    sample["cpu_us_request"] = (service.tree_cpu_s(found.pid) - used_s) / plain["good"] * 1e6
    sample["requests_s"] = plain["good"] / plain["seconds"]
    paced = load("requests", found.target, PLAIN, AT_ONCE, plan.paced_s, per_s)
    sample |= {"p50_ms": paced["p50_us"] / 1000, "p99_ms": paced["p99_us"] / 1000}
    sample["failed"] = sum(seen["refused"] + seen["broken"] for seen in (plain, paced))
    few, few_us, _ = streamed(found, plan, STREAMS_FEW)
    sample |= {"cpu_us_chunk_100": few_us, "first_p50_ms": few["first_p50_us"] / 1000 - 100}
    sample |= {"lost_chunks_100": few["lost"], "lag_p50_ms_100": few["lag_p50_us"] / 1000}
    many, many_us, open_mb = streamed(found, plan, STREAMS_MANY)
    sample |= {"cpu_us_chunk": many_us, "lost_chunks_1000": many["lost"]}
    sample |= {"mb_per_1000_streams": open_mb - idle_mb, "disordered": many["disordered"]}
    sample |= {"lag_p50_ms": many["lag_p50_us"] / 1000, "lag_p99_ms": many["lag_p99_us"] / 1000}
    aborted = load("aborts", found.target, plan.streamed, plan.aborts, upstream_port)
    return sample | {"abort_close_ms": aborted["max_ms"], "abort_unnoticed": aborted["unnoticed"]}


def streamed(found: Running, plan: Plan, count: int) -> tuple[dict[str, Any], float, float]:
    """Return what `count` streams came to, the CPU time of a chunk, and the memory meanwhile."""
    used_s = service.tree_cpu_s(found.pid)
    seconds_max = RAMP_MS / 1000 + plan.chunks * CHUNK_US / 1e6 + LATE_S
    command = commanded(
        "streams", found.target, plan.streamed, count, RAMP_MS, seconds_max, plan.chunks
    )
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as loading:
        time.sleep(RAMP_MS / 1000 + 1)
        open_mb = pss_mb(found.pid)
        said, _ = loading.communicate(timeout=seconds_max + 30)
    seen = json.loads(said)
    cpu_s = service.tree_cpu_s(found.pid) - used_s
    return seen, cpu_s / max(seen["chunks"], 1) * 1e6, open_mb


def soaked(port: int, seconds: float) -> None:
    """Print how our memory went under steady load; the first tenth of the time is not counted."""
    names = ("MB at the start", "MB at the end")
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        gateways.running(gateways.ours, port, FULL.models, Path(folder)) as found,
    ):
        load("requests", found.target, PLAIN, AT_ONCE, seconds / 10, 0)
        before_mb = pss_mb(found.pid, "Pss_Anon")
        seen = load("requests", found.target, PLAIN, AT_ONCE, seconds * 0.9, 0)
        after_mb = pss_mb(found.pid, "Pss_Anon")
    report.table((*names, "requests"), [(before_mb, after_mb, str(int(seen["good"])))])
    drift = after_mb / before_mb - 1
    keys = {"rss_drift_ratio": drift, "requests": seen["good"], "failed": seen["broken"]}
    print(json.dumps({key: round(value, 4) for key, value in keys.items()}), flush=True)


def summary(seen: Mapping[str, Mapping[str, list[float]]]) -> dict[str, float]:
    """Return the keys: our own figures, and them over the others'."""
    best = {
        name: {key: _chosen(key, values) for key, values in all_.items()}
        for name, all_ in seen.items()
    }
    ours = best.get("murmurate", {})
    keys = {key: ours[key] for key in (*LEAST, *TARGETS) if key in ours}
    for name in set(best) - {"murmurate"} if ours else ():
        for kind in ("request", "chunk"):
            keys[f"{name}_{kind}_ratio"] = ours[f"cpu_us_{kind}"] / best[name][f"cpu_us_{kind}"]
    return keys


def _chosen(key: str, values: list[float]) -> float:
    return min(values) if key in LEAST else max(values) if key in WORST else median(values)


def show(seen: Mapping[str, Mapping[str, list[float]]], keys: Mapping[str, float]) -> None:
    names = list(seen)
    first = next(iter(seen.values()))
    rows = [(key, *(_chosen(key, seen[name][key]) for name in names)) for key in first]
    report.table(("", *names), rows)
    print()
    report.table(
        ("key", "result", "target"),
        [(key, value, TARGETS.get(key, "")) for key, value in keys.items()],
    )


@contextmanager
def upstream() -> Iterator[int]:
    """Run the upstream on the second core; yields its port."""
    port = gateways.free_port()
    with subprocess.Popen([*ON_SECOND_CORE, str(built("upstream")), str(port)]) as process:
        try:
            time.sleep(0.2)
            yield port
        finally:
            process.terminate()


def load(kind: str, target: Target, model: str, *numbers: float) -> dict[str, Any]:
    """Run a client on the second core; return what it saw."""
    done = subprocess.run(
        commanded(kind, target, model, *numbers), stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


def commanded(kind: str, target: Target, model: str, *numbers: float) -> list[str]:
    return [*ON_SECOND_CORE, str(built("load")), kind, *target.words(model), *map(str, numbers)]


def built(name: str) -> Path:
    """Return a program of `wire/`, compiled when its source is newer."""
    source, program = WIRE / f"{name}.c", BUILD / name
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        BUILD.mkdir(parents=True, exist_ok=True)
        subprocess.run(["gcc", "-O2", "-Wall", "-o", str(program), str(source)], check=True)
    return program


def pss_mb(pid: int, kind: str = "Pss") -> float:
    """Return the memory of a process and of all below it, with shared pages counted once.

    What is shared with others counts for more once they end; `Pss_Anon` is what is all its own.
    """
    found = 0.0
    for each in service.tree(pid):
        try:
            lines = Path(f"/proc/{each}/smaps_rollup").read_text(encoding="ascii").splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
        found += sum(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:")) / 1024
    return found


if __name__ == "__main__":
    main()
