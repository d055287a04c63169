"""Runs of agents survive the death of their server: two real servers, really killed."""

import os
import signal
import sqlite3
import time
from collections.abc import Generator
from contextlib import closing, suppress
from http.client import HTTPException
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.e2e.running import Running, running

ROUNDS = 6
RULES = """
first_token_s = 0.3

[[rules]]
match = "count"
call = "calculate"
arguments = '{"expression": "1+1"}'
"""
CONFIG = """
[knowledge]

[server]
workers = 2

[models.counter]
engine = "scripted"
rules = "{rules}"

[agents.clerk]
model = "counter"
tools = ["calculate"]
steps_max = {rounds}
"""


@pytest.fixture
def two(tmp_path: Path) -> Generator[Running]:
    """A service with two servers, whose agent calculates again and again until it has to stop."""
    (tmp_path / "rules.toml").write_text(RULES)
    config = tmp_path / "murmurate.toml"
    config.write_text(CONFIG.format(rules=tmp_path / "rules.toml", rounds=ROUNDS))
    with running(tmp_path / "state", "--config", str(config)) as service:
        until(lambda: len(service.workers("server")) == 2)
        until(lambda: len(rows(service, "SELECT name FROM runner")) == 2)
        yield service


def until(true: Any, *, within_s: float = 30.0, look_s: float = 0.005) -> None:
    deadline_s = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline_s, "it did not come"
        time.sleep(look_s)


def rows(service: Running, query: str) -> list[Any]:
    with closing(sqlite3.connect(service.state / "truth.db", timeout=10)) as db:
        return db.execute(query).fetchall()


def submitted(service: Running, text: str = "count") -> str:
    body = {"model": "clerk", "messages": [{"role": "user", "content": text}]}
    status, _, answer = service.request("/api/runs", body)
    assert status == 202, answer
    return answer["id"]


def ended(service: Running, run_id: str) -> Any:
    shown: Any = None

    def is_over() -> bool:
        nonlocal shown
        status, _, shown = service.request(f"/api/runs/{run_id}")
        assert status == 200, shown
        return shown["status"] in {"finished", "failed", "cancelled"}

    until(is_over, within_s=60, look_s=0.2)
    return shown


def steps(service: Running, run_id: str) -> int:
    query = f"SELECT count(*) FROM entry WHERE stream = 'run/{run_id}' AND kind = 'run.step'"
    return rows(service, query)[0][0]


def test_whichever_server_is_killed_the_other_one_goes_on(two: Running) -> None:
    run_id = submitted(two)
    until(lambda: steps(two, run_id) >= 2)
    first, second = two.workers("server")
    os.kill(first, signal.SIGKILL)
    until(lambda: len(two.workers("server")) == 2 and first not in two.workers("server"))
    until(lambda: steps(two, run_id) >= 6)
    os.kill(second, signal.SIGKILL)
    shown = ended(two, run_id)
    assert (shown["status"], shown["answer"]["reason"]) == ("finished", "length")
    assert [step["number"] for step in shown["steps"]] == list(range(1, 2 * ROUNDS + 1))


def test_a_server_that_hangs_loses_its_run_and_writes_nothing_when_it_wakes(two: Running) -> None:
    run_id = submitted(two)
    until(lambda: steps(two, run_id) >= 2)
    first, second = two.workers("server")
    os.kill(first, signal.SIGSTOP)
    seen = steps(two, run_id)
    until(lambda: steps(two, run_id) > seen + 2, within_s=10)
    os.kill(first, signal.SIGCONT)
    os.kill(second, signal.SIGSTOP)
    time.sleep(0.1)
    os.kill(second, signal.SIGCONT)
    shown = ended(two, run_id)
    assert shown["status"] == "finished"
    assert [step["number"] for step in shown["steps"]] == list(range(1, 2 * ROUNDS + 1))
    query = f"SELECT epoch FROM entry WHERE stream = 'run/{run_id}' AND epoch > 0 ORDER BY seq"
    epochs = [epoch for (epoch,) in rows(two, query)]
    assert epochs == sorted(epochs), "nobody wrote after the next holder"


def test_a_turn_whose_server_was_killed_is_finished_by_another_and_kept(two: Running) -> None:
    name = {"x-murmurate-session": "new"}
    asking = Thread(target=lambda: refused(two, name), daemon=True)
    asking.start()
    until(lambda: rows(two, "SELECT 1 FROM entry WHERE kind = 'run.step' LIMIT 1"))
    [(stream,)] = rows(two, "SELECT stream FROM head WHERE stream LIKE 'run/%'")
    [(holder,)] = rows(two, "SELECT runner FROM work")
    pids = two.workers("server")
    os.kill(pids[0], signal.SIGKILL)
    until(lambda: len(two.workers("server")) == 2 and pids[0] not in two.workers("server"))
    os.kill(pids[1], signal.SIGKILL)
    asking.join(30)
    assert not asking.is_alive(), "the client heard that its server is gone"
    shown = ended(two, stream.removeprefix("run/"))
    assert (shown["status"], shown["answer"]["reason"]) == ("finished", "length")
    status, _, session = two.request(f"/api/sessions/{shown['session']}")
    assert status == 200
    assert [message["role"] for message in session["messages"]] == ["user", "assistant"]
    assert holder.startswith("runner_")


def refused(service: Running, headers: dict[str, str]) -> None:
    """Ask, and expect that the answer never comes."""
    body = {"model": "clerk", "messages": [{"role": "user", "content": "count"}]}
    with suppress(OSError, HTTPException):
        service.request("/v1/chat/completions", body, headers)
