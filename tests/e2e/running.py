"""A real service with its real processes, for the tests that need one."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai

START_S = 60.0


@dataclass(frozen=True, slots=True)
class Running:
    """A service under test."""

    url: str
    key: str
    pid: int
    state: Path
    process: subprocess.Popen[bytes]
    clients: list[openai.OpenAI] = field(default_factory=list[openai.OpenAI])
    """Closed with the service: one that is left to the collector is blamed on another test."""

    def client(self, key: str | None = None) -> openai.OpenAI:
        """Return the unmodified OpenAI client, without its own retries."""
        made = openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=key or self.key, max_retries=0, timeout=30
        )
        self.clients.append(made)
        return made

    def connection(self) -> http.client.HTTPConnection:
        """Return a connection without headers of its own."""
        return http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=30)

    def request(
        self, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], Any]:
        """Send a raw request; return status, headers and decoded JSON."""
        connection = self.connection()
        own = {name.lower(): value for name, value in (headers or {}).items()}
        every = {"authorization": f"Bearer {self.key}", **own}
        sent = body if isinstance(body, bytes) or body is None else json.dumps(body)
        try:
            connection.request("GET" if sent is None else "POST", path, sent, every)
            response = connection.getresponse()
            return response.status, dict(response.headers), json.loads(response.read() or b"null")
        finally:
            connection.close()

    def workers(self, name: str) -> list[int]:
        """Return the pids of the children of that kind, such as `engine`."""
        wanted = f"murmurate.workers.{name}"
        return [pid for pid in children_of(self.pid) if wanted in command_of(pid)]

    def worker(self, name: str) -> int:
        """Return the pid of a child, such as `server` or `engine`; waits until it is there."""
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s:
            if found := self.workers(name):
                return found[0]
            time.sleep(0.01)
        raise AssertionError(f"no {name} process")

    def kill(self, name: str) -> None:
        """Kill -9 a child, and wait until the supervisor has a new one."""
        old = self.worker(name)
        os.kill(old, signal.SIGKILL)
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s:
            if self.worker(name) != old:
                return
            time.sleep(0.01)
        raise AssertionError(f"{name} did not come back")


@contextmanager
def running(
    state: Path,
    *options: str,
    environment: dict[str, str] | None = None,
    welcome: tuple[str, ...] = ("--quiet",),
) -> Generator[Running]:
    """Start `murmurate up` on a free port, wait until it is ready, and stop it by SIGTERM."""
    ready_file = state.parent / f"{state.name}.ready"
    options = ("--ready-file", str(ready_file), *options)
    process = up(state, *options, environment=environment, welcome=welcome)
    try:
        ready = wait_for(ready_file, process)
        service = Running(ready["url"], ready["key"], ready["pid"], state, process)
        try:
            yield service
        finally:
            for client in service.clients:
                client.close()
    finally:
        stop(process)


def up(
    state: Path,
    *options: str,
    environment: dict[str, str] | None = None,
    listen: str | None = None,
    welcome: tuple[str, ...] = ("--quiet",),
) -> subprocess.Popen[bytes]:
    """Start `murmurate up` and return at once; its output goes to `STATE.output`."""
    command = [sys.executable, "-m", "murmurate", "up", *welcome, "--state", str(state)]
    command += ["--listen", listen or "127.0.0.1:0", *options]
    with state.with_name(f"{state.name}.output").open("ab") as output:
        return subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            cwd=state.parent,
        )


def until(true: Callable[[], bool]) -> None:
    """Wait until something outside has become true."""
    deadline_s = time.monotonic() + START_S
    while not true():
        assert time.monotonic() < deadline_s, "it did not become true in time"
        time.sleep(0.02)


def output_of(state: Path) -> str:
    """Return what the service has printed."""
    return state.with_name(f"{state.name}.output").read_text()


def wait_for_output(state: Path, text: str) -> str:
    """Return what the service has printed as soon as `text` is in it."""
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s:
        if text in output_of(state):
            return output_of(state)
        time.sleep(0.02)
    raise AssertionError(f"{text!r} is not in {output_of(state)!r}")


def wait_for(ready_file: Path, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Return the ready file's content as soon as it is there."""
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s:
        if ready_file.exists():
            return json.loads(ready_file.read_text())
        assert process.poll() is None, f"the service ended with {process.returncode}"
        time.sleep(0.02)
    raise AssertionError("the service was not ready in time")


def stop(process: subprocess.Popen[bytes]) -> int:
    """Stop it by SIGTERM; return the exit code."""
    if process.poll() is None:
        process.terminate()
    return process.wait(30)


def children_of(pid: int) -> list[int]:
    """Return the pids of a process's children."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in text.split()]


def command_of(pid: int) -> str:
    """Return a process's command line, empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def is_alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
