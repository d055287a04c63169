"""The failure table of docs/guarantees.md: real processes, really killed."""

import http.client
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.running import Running, running

RULES = """
tokens_per_s = 10

[[rules]]
match = "slow"
text = "one two three four five six seven eight nine ten eleven twelve"

[[rules]]
match = ".*"
text = "I hear you"
"""

CONFIG = """
[knowledge]

[models.slow]
engine = "scripted"
rules = "{rules}"

[agents.friend]
model = "slow"
"""


@pytest.fixture
def scripted(tmp_path: Path) -> Any:
    """A service whose engine answers slowly by rules."""
    (tmp_path / "rules.toml").write_text(RULES)
    config = tmp_path / "murmurate.toml"
    config.write_text(CONFIG.format(rules=tmp_path / "rules.toml"))
    with running(tmp_path / "state", "--config", str(config)) as service:
        yield service


def ask(service: Running, text: str, model: str = "slow", **headers: str) -> str:
    """Return the plain answer."""
    answer = service.client().chat.completions.create(
        model=model, messages=[{"role": "user", "content": text}], extra_headers=headers
    )
    return answer.choices[0].message.content or ""


def test_an_engine_killed_mid_stream_gives_an_error_event_and_the_next_request_works(
    scripted: Running,
) -> None:
    stream = scripted.client().chat.completions.create(
        model="slow", messages=[{"role": "user", "content": "slow"}], stream=True
    )
    seen = [next(stream), next(stream), next(stream)]
    os.kill(scripted.worker("engine"), signal.SIGKILL)
    with pytest.raises(openai.APIError) as error:
        seen += list(stream)
    assert error.value.code == "engine.failed"
    assert ask(scripted, "still there?") == "I hear you"


def test_an_engine_killed_mid_answer_gives_a_plain_request_status_502(scripted: Running) -> None:
    killer = threading.Timer(0.4, lambda: os.kill(scripted.worker("engine"), signal.SIGKILL))
    killer.start()
    with pytest.raises(openai.InternalServerError) as error:
        ask(scripted, "slow")
    killer.join()
    assert error.value.status_code == 502
    assert ask(scripted, "still there?") == "I hear you"


def test_an_engine_killed_while_idle_is_not_noticed(scripted: Running) -> None:
    for number in range(3):
        os.kill(scripted.worker("engine"), signal.SIGKILL)
        assert ask(scripted, f"are you there? {number}") == "I hear you"


def test_a_killed_server_loses_no_acknowledged_turn(scripted: Running) -> None:
    session = "new"
    for number in range(5):
        status, headers, body = scripted.request(
            "/v1/chat/completions",
            {"model": "friend", "messages": [{"role": "user", "content": f"message {number}"}]},
            {"x-murmurate-session": session},
        )
        assert status == 200
        assert body["choices"][0]["finish_reason"] == "stop"
        session = headers["x-murmurate-session"]
        scripted.kill("server")  # the next turn waits in the socket's queue until it is back
    _, _, kept = scripted.request(f"/api/sessions/{session}")
    texts = [message["parts"][0]["text"] for message in kept["messages"]]
    assert texts == [t for n in range(5) for t in (f"message {n}", "I hear you")]


def test_a_server_killed_mid_answer_stores_nothing_of_it(scripted: Running) -> None:
    _, headers, _ = scripted.request(
        "/v1/chat/completions",
        {"model": "friend", "messages": [{"role": "user", "content": "hello"}]},
        {"x-murmurate-session": "new"},
    )
    session = headers["x-murmurate-session"]
    stream = scripted.client().chat.completions.create(
        model="friend",
        messages=[{"role": "user", "content": "slow"}],
        stream=True,
        extra_headers={"x-murmurate-session": session},
    )
    next(stream)
    scripted.kill("server")
    with pytest.raises(Exception):  # noqa: B017, PT011 - the connection breaks, in whatever way
        list(stream)
    _, _, kept = scripted.request(f"/api/sessions/{session}")
    assert len(kept["messages"]) == 2


def test_a_client_that_leaves_stops_the_engine(scripted: Running) -> None:
    connection = http.client.HTTPConnection(scripted.url.removeprefix("http://"), timeout=10)
    body = {"model": "slow", "stream": True, "messages": [{"role": "user", "content": "slow"}]}
    connection.request(
        "POST",
        "/v1/chat/completions",
        json.dumps(body),
        {"Authorization": f"Bearer {scripted.key}"},
    )
    response = connection.getresponse()
    trace = response.headers["x-murmurate-trace"]
    response.readline()
    left_ms = time.time() * 1000
    response.close()
    connection.close()
    spans: list[dict[str, Any]] = []
    deadline_s = time.monotonic() + 5
    while not spans and time.monotonic() < deadline_s:
        status, _, found = scripted.request(f"/api/traces/{trace}")
        spans = (
            [s for s in found.get("spans", []) if s["name"] == "engine"] if status == 200 else []
        )
    assert spans[0]["error"] == "cancelled"
    ended_ms = (spans[0]["start_unix_ns"] + spans[0]["duration_ns"]) / 1e6
    assert ended_ms - left_ms < 500  # 12 words at 10 a second would have taken 1,200 ms


def test_a_killed_library_comes_back_with_its_index(service: Running) -> None:
    question = "Which process owns the listening socket?"
    before = ask(service, question, model="assistant")
    assert "quoted from" in before
    service.kill("library")
    other = ask(service, "Which process writes the log?", model="assistant")
    assert "quoted from" in other


def test_a_killed_sandbox_comes_back(service: Running) -> None:
    service.kill("sandbox")
    assert "1035" in ask(service, "What is 23 * 45?", model="assistant")
