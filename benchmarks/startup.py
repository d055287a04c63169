"""Claim: the server takes requests 0.7 s after its start, and the first token comes within 3 s.

Starts `python -m murmurate up` on a free port again and again, on a state folder that was used
before, and once on an empty one. A client knocks from the first moment; the supervisor's socket
takes it in early, so what is counted is the answer, not the connection.

    accept_s       from the start of the process to the answer 200 of /healthz
    first_token_s  from the start of the process to the first word of the built-in model, asked for
                   as soon as /healthz was answered
    rss_mb         memory of the server process (no engine, no library in it) after that request
    import_ms      `import murmurate` over a bare interpreter: median of interleaved pairs

For information: accept_cpu_s is the CPU time that the supervisor and the server used until then,
which they do one after the other, so it hardly depends on what else the machine does; ready_s is
the time until /readyz, when the documents have been read too; fresh_… is on the empty folder.
"""

import argparse
import http.client
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import report
import service
import streams

STARTS_QUICK, STARTS_FULL = 5, 10
PAIRS_QUICK, PAIRS_FULL = 15, 41
KNOCK_S = 0.002
READY_S = 60.0
QUESTION = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "hello"}],
    "max_tokens": 8,
}

TARGETS = {"accept_s": 0.7, "first_token_s": 3, "rss_mb": 120, "import_ms": 60}
KEYS = (*TARGETS, "accept_cpu_s", "ready_s", "fresh_accept_s", "fresh_first_token_s")

Sample = dict[str, float]


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # the service is ended on the way
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer samples; nothing is kept")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        state = Path(folder) / "state"
        fresh = start(state)
        warm = [start(state) for _ in range(STARTS_QUICK if quick else STARTS_FULL)]
    samples = {name: [sample[name] for sample in warm] for name in fresh}
    samples["import_ms"] = imports_ms("import murmurate", PAIRS_QUICK if quick else PAIRS_FULL)
    samples |= {f"fresh_{name}": [value] for name, value in fresh.items()}
    keys = {name: median(samples[name]) for name in KEYS}
    show(samples)
    report.finish("startup", keys, samples, quick=quick)


def start(state: Path) -> Sample:
    """Start a service, ask it once, stop it; return the times and the memory of its processes."""
    port = free_port()
    command = [sys.executable, "-m", "murmurate", "up", "--quiet"]
    command += ["--listen", f"127.0.0.1:{port}", "--state", str(state)]
    began_s = time.perf_counter()
    process = subprocess.Popen(command)
    try:
        knock(port, process)
        accept_s = time.perf_counter() - began_s
        pids = service.children(process.pid)
        accept_cpu_s = service.cpu_s(process.pid) + service.cpu_s(pids["server"])
        target = streams.Target(f"127.0.0.1:{port}", (state / "key").read_text().strip())
        asked_s = time.perf_counter() - began_s
        answer = streams.run(streams.ask(target, QUESTION))
        memory = {f"rss_{name}_mb": service.rss_mb(pid) for name, pid in pids.items()}
        rss_supervisor_mb = service.rss_mb(process.pid)
        while get(port, "/readyz") != 200:
            time.sleep(0.01)
        ready_s = time.perf_counter() - began_s
    finally:
        service.stop(process)
    return {
        "accept_s": accept_s,
        "accept_cpu_s": accept_cpu_s,
        "first_token_s": asked_s + answer.first_s,
        "ready_s": ready_s,
        "rss_mb": memory.pop("rss_server_mb"),
        "rss_supervisor_mb": rss_supervisor_mb,
        **memory,
    }


def knock(port: int, process: subprocess.Popen[bytes]) -> None:
    """Ask /healthz until it is answered with 200."""
    while get(port, "/healthz") != 200:
        if process.poll() is not None:
            raise RuntimeError("the service did not start; its last words stand above")
        time.sleep(KNOCK_S)


def get(port: int, path: str) -> int | None:
    """Return the status of a page, or None where nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=READY_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except ConnectionRefusedError:
        return None
    finally:
        connection.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def imports_ms(statement: str, pairs: int) -> list[float]:
    """Return how much longer an interpreter takes that also imports, pair by pair."""
    differences: list[float] = []
    for _ in range(pairs):
        bare_s, loaded_s = (_run_s(code) for code in ("pass", statement))
        differences.append((loaded_s - bare_s) * 1000)
    return differences


def _run_s(code: str) -> float:
    began_s = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - began_s


def show(samples: dict[str, list[float]]) -> None:
    rows: list[list[Any]] = []
    for name, values in samples.items():
        if not name.startswith("fresh_"):
            fresh = samples.get(f"fresh_{name}", [""])[0]
            target = f"<= {TARGETS[name]}" if name in TARGETS else ""
            rows.append([name, median(values), min(values), max(values), fresh, target])
    report.table(("", "median", "least", "most", "empty folder", "target"), rows)


if __name__ == "__main__":
    main()
