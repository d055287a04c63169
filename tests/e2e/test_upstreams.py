"""A service before servers that misbehave: what clients, the trace, the metrics and doctor say."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.e2e.running import Running, running
from tests.upstreams import bad_server as bad
from tests.upstreams.bad_server import BadServer, Behaviour, bad_server

CONFIG = """
[models.big]
fallbacks = ["other"]
temperature = 0
[[models.big.upstreams]]
url = "{ill}"
weight = 1e6
[[models.big.upstreams]]
url = "{well}"

[models.lost]
url = "{ill}"
retries = 0
fallbacks = ["other"]
fallback_on = ["failed"]

[models.other]
engine = "scripted"
rules = "rules.toml"
"""
RULES = '[[rules]]\nmatch = "."\ntext = "I am the other one."\n'
QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]


@contextmanager
def serving(*behaviours: Behaviour) -> Generator[BadServer]:
    """Run a server that misbehaves beside the test."""
    loop = asyncio.new_event_loop()
    started: list[BadServer] = []
    ready, over = threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with bad_server(*behaviours) as it:
            started.append(it)
            ready.set()
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(5)
        yield started[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(10)
        loop.close()


@pytest.fixture(scope="module")
def ill() -> Generator[BadServer]:
    with serving(bad.status(500)) as it:
        yield it


@pytest.fixture(scope="module")
def well() -> Generator[BadServer]:
    with serving() as it:
        yield it


@pytest.fixture(scope="module")
def service(
    ill: BadServer, well: BadServer, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Running]:
    folder = tmp_path_factory.mktemp("upstreams")
    (folder / "rules.toml").write_text(RULES)
    (folder / "m.toml").write_text(CONFIG.format(ill=ill.url, well=well.url))
    with running(folder / "state", "--config", str(folder / "m.toml")) as it:
        yield it


def metric(service: Running, line: str) -> float:
    connection = service.connection()
    connection.request("GET", "/metrics", headers={"authorization": f"Bearer {service.key}"})
    text = connection.getresponse().read().decode()
    connection.close()
    [found] = [it for it in text.splitlines() if it.startswith(line + " ")]
    return float(found.rpartition(" ")[2])


def test_the_well_server_answers_and_the_ill_one_is_counted(
    service: Running, ill: BadServer, well: BadServer
) -> None:
    with service.client() as client:
        answer = client.chat.completions.create(model="big", messages=QUESTION)
    assert answer.choices[0].message.content == "hi"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 1)
    sick = f'{{model="big",upstream="{ill.url.removeprefix("http://")}"}}'
    fine = f'{{model="big",upstream="{well.url.removeprefix("http://")}"}}'
    assert metric(service, f"murmurate_upstream_failures{sick}") >= 1
    assert metric(service, f"murmurate_upstream_requests{fine}") >= 1
    assert metric(service, f"murmurate_upstream_outstanding{fine}") == 0
    assert metric(service, 'murmurate_upstream_retries{model="big"}') >= 1
    assert metric(service, 'murmurate_tokens_total{kind="in",model="big"}') == 3, "counted once"


def test_another_model_answers_says_so_and_is_not_cached(service: Running) -> None:
    for times in (1, 2):
        status, headers, body = service.request(
            "/v1/chat/completions", {"model": "lost", "messages": QUESTION, "temperature": 0}
        )
        assert status == 200
        assert headers["x-murmurate-model"] == "other"
        assert body["choices"][0]["message"]["content"] == "I am the other one."
        assert metric(service, 'murmurate_fallbacks{model="lost"}') == times
    status, _, spans = service.request(f"/api/traces/{headers['x-murmurate-trace']}")
    assert status == 200
    text = json.dumps(spans)
    assert '"fallback"' in text
    assert '"instead_of": "lost"' in text
    with service.client().chat.completions.with_streaming_response.create(
        model="lost",
        messages=QUESTION,
        stream=True,
    ) as stream:
        assert stream.headers["x-murmurate-model"] == "other"


def test_left_alone_after_failures_a_server_costs_no_time_and_its_client_hears_for_how_long(
    service: Running, ill: BadServer
) -> None:
    sick = f'{{model="lost",upstream="{ill.url.removeprefix("http://")}"}}'
    with service.client() as client:
        while metric(service, f"murmurate_upstream_breaker{sick}") == 0:
            client.chat.completions.create(model="lost", messages=QUESTION)
        assert metric(service, f"murmurate_upstream_failures{sick}") == 5
        asked = ill.asked
        with pytest.raises(openai.InternalServerError) as refused:
            client.chat.completions.create(model="lost", messages=QUESTION)
    assert refused.value.code == "engine.unreachable"
    assert 1 <= int(refused.value.response.headers["retry-after"]) <= 5
    assert ill.asked == asked


def test_doctor_asks_each_of_them(service: Running, ill: BadServer, well: BadServer) -> None:
    config = service.state.parent / "m.toml"
    done = subprocess.run(
        [sys.executable, "-m", "murmurate", "doctor", "--config", str(config)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(service.state.parent),
    )
    said = done.stdout + done.stderr
    assert f"model big at {ill.url.removeprefix('http://')}" in said
    assert f"model big at {well.url.removeprefix('http://')}" in said
