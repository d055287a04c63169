"""Starts the real service for a benchmark, and says where its processes and its engines are.

    python benchmarks/service.py CONFIG.toml FACTS.json

runs the same supervisor as `murmurate up` and, once it serves, writes to FACTS.json what `up`
keeps to itself: the engines' sockets and keys, so that a benchmark can ask the same engine with and
without everything that stands in front of it.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from streams import Target

from murmurate.config import load
from murmurate.core.clock import SystemClock
from murmurate.workers.boot import EngineBoot
from murmurate.workers.supervisor import Ready, Supervisor

START_S = 90.0
STOP_S = 30.0
IDLE_S = 0.03
"""CPU time in half a second that is as good as none."""


@dataclass(frozen=True, slots=True)
class Service:
    """A service that runs."""

    gateway: Target
    engines: dict[str, Target]
    pids: dict[str, int]


@contextlib.contextmanager
def running(config: str) -> Iterator[Service]:
    """Run a service with this configuration (TOML) on a fresh state folder and a free port."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        settings, facts = folder / "murmurate.toml", folder / "facts.json"
        server = f'[server]\nlisten = "127.0.0.1:0"\nstate = "{folder / "state"}"\n'
        settings.write_text(server + config, encoding="utf-8")
        command = [sys.executable, __file__, str(settings), str(facts)]
        process = subprocess.Popen(command, env=environment())
        try:
            found = _service(process, facts)
            settle(process.pid)
            yield found
        finally:
            stop(process)


def environment() -> dict[str, str]:
    """Return our environment without settings of murmurate: a benchmark says all it measures."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MURMURATE_")}


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a service as Ctrl-C would."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _service(process: subprocess.Popen[bytes], facts: Path) -> Service:
    deadline_s = time.perf_counter() + START_S
    while not facts.exists():
        if process.poll() is not None or time.perf_counter() > deadline_s:
            raise RuntimeError("the service did not start; its last words stand above")
        time.sleep(0.02)
    found = json.loads(facts.read_text(encoding="utf-8"))
    engines = {name: Target(*target) for name, target in found["engines"].items()}
    return Service(Target(*found["gateway"]), engines, found["pids"])


def settle(pid: int, most_s: float = START_S) -> None:
    """Wait until a service has nothing more to do for itself, as a first start has."""
    deadline_s = time.perf_counter() + most_s
    used_s, before_s = tree_cpu_s(pid), -1.0
    while used_s - before_s > IDLE_S and time.perf_counter() < deadline_s:
        time.sleep(0.5)
        before_s, used_s = used_s, tree_cpu_s(pid)


def tree_cpu_s(pid: int) -> float:
    """Return the CPU time of a process and of all below it that still run."""
    used_s = 0.0
    for each in tree(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended in between
            used_s += cpu_s(each)
    return used_s


def tree(pid: int) -> list[int]:
    """Return a process and all below it."""
    parents, found = _parents(), [pid]
    for each in found:  # it grows meanwhile
        found += [child for child, parent in parents.items() if parent == each]
    return found


def _parents() -> dict[int, int]:
    """Return the parent of every process."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            stat = (path / "stat").read_text()
            parents[int(path.name)] = int(stat.rpartition(")")[2].split()[1])
    return parents


def children(pid: int) -> dict[str, int]:
    """Return the worker processes of a supervisor: what each one is, and its id."""
    found: dict[str, int] = {}
    for child, parent in _parents().items():
        if parent == pid:
            words = Path(f"/proc/{child}/cmdline").read_bytes().decode().split("\0")
            found[words[2].removeprefix("murmurate.workers.")] = child
    return found


def rss_mb(pid: int) -> float:
    """Return the resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} is gone")


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process in all its threads, to the nanosecond."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def serve(settings: Path, facts: Path) -> int:
    """Run the supervisor in this process until told to stop."""

    def note(ready: Ready) -> None:
        running = [c for c in supervisor._children if c.process is not None]  # noqa: SLF001
        boots = [child.boot for child in running if isinstance(child.boot, EngineBoot)]
        found = {
            "gateway": [ready.url.removeprefix("http://"), ready.key],
            "engines": {boot.name: [boot.socket, boot.key] for boot in boots},
            "pids": {child.name: child.process.pid for child in running if child.process},
        }
        whole = facts.with_suffix(".part")
        whole.write_text(json.dumps(found), encoding="utf-8")
        whole.rename(facts)

    clock = SystemClock()
    supervisor = Supervisor(load(settings), clock=clock, ready_file=None, on_ready=note)
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(serve(Path(sys.argv[1]), Path(sys.argv[2])))
