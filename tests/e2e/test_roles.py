"""One host serves clients, others work on their runs: what they share is the log in PostgreSQL."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.running import START_S, Running, output_of, running, stop, up
from tests.servers.postgres import PostgresServer

RULES = """
first_token_s = 2.0

[[rules]]
match = "count"
call = "calculate"
arguments = '{"expression": "1+1"}'
"""
CONFIG = """
[knowledge]

[log]
url = "file:{url}"
schema = "{schema}"

[models.counter]
engine = "scripted"
rules = "{rules}"

[agents.clerk]
model = "counter"
tools = ["calculate"]
steps_max = 6
"""


@pytest.fixture
def options(tmp_path: Path, postgres: PostgresServer) -> tuple[str, str]:
    (tmp_path / "rules.toml").write_text(RULES)
    (tmp_path / "url").write_text(postgres.url)
    words = {"url": tmp_path / "url", "schema": postgres.new_schema()}
    file = tmp_path / "murmurate.toml"
    file.write_text(CONFIG.format(rules=tmp_path / "rules.toml", **words))
    return "--config", str(file)


@contextmanager
def host(tmp_path: Path, name: str, role: str, *options: str) -> Generator[Running]:
    """A host: a state folder of its own, and a service."""
    with running(tmp_path / name, "--role", role, *options) as service:
        yield service


def submitted(gateway: Running) -> str:
    body = {"model": "clerk", "messages": [{"role": "user", "content": "count"}]}
    status, _, answer = gateway.request("/api/runs", body)
    assert status == 202, answer
    return answer["id"]


def shown(gateway: Running, run_id: str) -> Any:
    status, _, answer = gateway.request(f"/api/runs/{run_id}")
    assert status == 200, answer
    return answer


def status_of(service: Running, path: str, key: str) -> int:
    connection = service.connection()
    try:
        connection.request("GET", path, headers={"authorization": f"Bearer {key}"})
        return connection.getresponse().status
    finally:
        connection.close()


def end(service: Running) -> None:
    """End a host at once, with all that runs on it."""
    os.kill(service.pid, signal.SIGKILL)
    service.process.wait(30)


def doctor(service: Running, *options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "murmurate", "doctor", "--json"]
    done = subprocess.run(
        [*command, "--state", service.state, *options], capture_output=True, check=False, timeout=60
    )
    return {found["about"]: found for found in json.loads(done.stdout)}


def awaited(gateway: Running, run_id: str, true: Callable[[Any], bool]) -> Any:
    """Return the run as soon as this is true of it."""
    until_s = time.monotonic() + START_S
    while not true(found := shown(gateway, run_id)):
        assert time.monotonic() < until_s, found
        time.sleep(0.2)  # a key may ask ten times a second
    return found


def test_runs_wait_for_a_worker_and_go_on_in_a_second_one_when_the_first_is_lost(
    tmp_path: Path, options: tuple[str, str]
) -> None:
    with host(tmp_path, "a", "gateway", *options) as gateway:
        run_id = submitted(gateway)
        time.sleep(2.0)
        assert shown(gateway, run_id)["status"] == "queued"
        with host(tmp_path, "b", "worker", *options) as first:
            awaited(gateway, run_id, lambda run: len(run.get("steps", ())) >= 1)
            with host(tmp_path, "c", "worker", *options):
                before = shown(gateway, run_id)
                assert before["status"] == "running"
                end(first)
                killed_s = time.monotonic()
                more = len(before["steps"]) + 2  # one may have been written just before
                awaited(gateway, run_id, lambda run: len(run["steps"]) >= more)
                assert time.monotonic() - killed_s < 12  # 1.5 s without a beat, and two steps
                found = awaited(gateway, run_id, lambda run: run["status"] != "running")
        numbers = [step["number"] for step in found["steps"]]
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) >= 6


def test_a_worker_says_how_it_is_and_nothing_else(tmp_path: Path, options: tuple[str, str]) -> None:
    with (
        host(tmp_path, "a", "gateway", *options) as gateway,
        host(tmp_path, "b", "worker", *options) as worker,
    ):
        for path, expected in (("/healthz", 200), ("/readyz", 200), ("/metrics", 200)):
            assert status_of(worker, path, gateway.key) == expected, path
        for path in ("/api/runs", "/v1/models", "/api/keys"):
            assert status_of(worker, path, gateway.key) == 404, path
        assert worker.key == ""
        assert not (worker.state / "key").exists()
        assert status_of(gateway, "/v1/models", gateway.key) == 200
        file = Path(options[1])
        file.write_text(f'{file.read_text()}\n[server]\nrole = "worker"\n')
        found = doctor(worker, *options)
        assert "2 servers work on it" in found["log"]["detail"]
        assert found["server"]["detail"] == f"{worker.url}, role worker"
        assert found["server"]["verdict"] == "ok"


def test_a_worker_without_a_shared_log_is_refused(tmp_path: Path) -> None:
    process = up(tmp_path / "state", "--role", "worker")
    assert process.wait(30) == 1
    assert "server.role = 'worker' needs log.url" in output_of(tmp_path / "state")
    stop(process)
