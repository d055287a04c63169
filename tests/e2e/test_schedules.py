"""A schedule fires in real servers: one run for each of its times, however many servers look."""

import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.running import Running, running
from tests.e2e.test_crashes import ended, until

CONFIG = """
[knowledge]

[server]
workers = 3

[models.echo]
engine = "scripted"
rules = "{rules}"

[schedules.minutely]
cron = "* * * * *"
model = "echo"
message = "hi"
session = "diary"
"""


@pytest.fixture
def service(tmp_path: Path) -> Generator[Running]:
    rules, config = tmp_path / "rules.toml", tmp_path / "murmurate.toml"
    rules.write_text('[[rules]]\nmatch = "hi"\ntext = "hello"\n')
    config.write_text(CONFIG.format(rules=rules))
    with running(tmp_path / "state", "--config", str(config)) as service:
        until(lambda: len(service.workers("server")) == 3)
        yield service


def listed(service: Running) -> Any:
    status, _, answer = service.request("/api/schedules")
    assert status == 200
    [schedule] = answer["schedules"]
    return schedule


def test_a_minute_begins_one_run(service: Running) -> None:
    until(lambda: listed(service)["next_ms"] is not None)
    due_ms = listed(service)["next_ms"]
    assert due_ms % 60_000 == 0
    assert 0 < due_ms - time.time() * 1000 <= 60_000
    until(lambda: listed(service)["last_ms"] == due_ms, within_s=75, look_s=0.1)
    late_s = time.time() - due_ms / 1000
    assert 0 <= late_s < 10, "it fires within about a second of its time"
    schedule = listed(service)
    assert schedule["next_ms"] == due_ms + 60_000
    _, _, answer = service.request("/api/runs")
    assert [run["id"] for run in answer["runs"]] == [schedule["last_run"]]
    assert ended(service, schedule["last_run"])["status"] == "finished"
    _, _, session = service.request("/api/sessions/diary")
    assert [message["parts"][0]["text"] for message in session["messages"]] == ["hi", "hello"]
