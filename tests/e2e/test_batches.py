"""Files and batches as the unmodified OpenAI client meets them, over real processes."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from openai.types import Batch
from openai.types.chat import ChatCompletion

from tests.e2e.running import Running, running, until

ASK, EMBED = "/v1/chat/completions", "/v1/embeddings"
FILE_BYTES_MAX = 3_000_000
OVER = {"completed", "failed", "expired", "cancelled"}
RULES = """
[[rules]]
match = 'weather in (\\w+)'
tools = true
call = "get_weather"
arguments = '{"city": "{1}"}'

[[rules]]
match = 'say (\\w+)'
text = "said {1}"
"""
SLOW = """
tokens_per_s = 1.0

[[rules]]
match = ".*"
text = "one two three four five six seven eight nine ten"
"""
CONFIG = f"""
[knowledge]
[agents]

[server]
workers = 2

[files]
file_bytes_max = {FILE_BYTES_MAX}

[limits.default]
requests_per_minute = 100000
burst = 10000

[models.plain]
engine = "scripted"
rules = "plain.toml"
slots = 16

[models.slow]
engine = "scripted"
rules = "slow.toml"
slots = 2
"""
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object"}},
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two servers side by side, a fast model and a slow one."""
    folder = tmp_path_factory.mktemp("batches")
    (folder / "plain.toml").write_text(RULES)
    (folder / "slow.toml").write_text(SLOW)
    (folder / "batches.toml").write_text(CONFIG)
    with running(folder / "state", "--config", str(folder / "batches.toml")) as it:
        yield it


def line(name: str, text: str, *, model: str = "plain", **fields: Any) -> dict[str, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
    return {"custom_id": name, "method": "POST", "url": ASK, "body": body}


def begun(client: openai.OpenAI, *lines: Any, endpoint: Any = ASK, **terms: Any) -> Batch:
    raw = b"".join(json.dumps(it).encode() + b"\n" for it in lines)
    file = client.files.create(file=("in.jsonl", raw), purpose="batch")
    window: Any = terms.pop("window", "24h")
    return client.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window=window, **terms
    )


def done(client: openai.OpenAI, batch: Batch) -> Batch:
    """Wait for the end of a batch."""
    found = [batch]

    def is_over() -> bool:
        found[0] = client.batches.retrieve(batch.id)
        return found[0].status in OVER

    until(is_over)
    return found[0]


def lines_of(client: openai.OpenAI, file_id: str | None) -> dict[str, Any]:
    """Return the lines of a file of results by custom id; each is there once."""
    if file_id is None:
        return {}
    found = [json.loads(it) for it in client.files.content(file_id).text.splitlines()]
    by_id = {it["custom_id"]: it for it in found}
    assert len(by_id) == len(found), "a line is answered twice"
    return by_id


def test_a_file_of_requests_is_answered(service: Running) -> None:
    client = service.client()
    batch = begun(
        client,
        *(line(f"c{number}", f"say w{number}") for number in range(100)),
        line("tools", "the weather in Bonn", tools=[WEATHER]),
        line("wrong", "say it", temperature=9),
        line("unknown", "say it", model="nobodys"),
        metadata={"job": "night"},
    )
    assert (batch.status, batch.metadata) == ("validating", {"job": "night"})
    over = done(client, batch)
    assert over.status == "completed"
    assert over.request_counts is not None
    counts = over.request_counts
    assert (counts.total, counts.completed, counts.failed) == (103, 101, 2)
    answers = lines_of(client, over.output_file_id)
    for number in range(100):
        response = answers[f"c{number}"]["response"]
        completion = ChatCompletion.model_validate(response["body"])
        assert response["status_code"] == 200
        assert completion.choices[0].message.content == f"said w{number}"
    [call] = answers["tools"]["response"]["body"]["choices"][0]["message"]["tool_calls"]
    assert call["function"] == {"name": "get_weather", "arguments": '{"city": "Bonn"}'}
    errors = lines_of(client, over.error_file_id)
    shown = {
        name: (it["response"]["status_code"], it["response"]["body"]["error"]["code"])
        for name, it in errors.items()
    }
    assert shown == {"wrong": (400, "request.invalid"), "unknown": (404, "model_not_found")}
    info = client.files.retrieve(over.output_file_id or "")
    assert (info.purpose, info.filename) == ("batch_output", f"{batch.id}_output.jsonl")
    assert batch.id in [it.id for it in client.batches.list(limit=1)]
    _, _, runs = service.request("/api/runs")
    assert runs["runs"] == []
    _, _, runs = service.request(f"/api/runs?batch={batch.id}")
    assert len(runs["runs"]) == 50


def test_a_file_of_texts_is_embedded(service: Running) -> None:
    client = service.client()
    texts = [f"text number {number}" for number in range(5)]
    lines = [
        {
            "custom_id": f"t{number}",
            "method": "POST",
            "url": EMBED,
            "body": {"model": "minilm", "input": text},
        }
        for number, text in enumerate(texts)
    ]
    over = done(client, begun(client, *lines, endpoint=EMBED))
    assert over.status == "completed"
    found = lines_of(client, over.output_file_id)
    alone = client.embeddings.create(model="minilm", input=texts[3], encoding_format="float")
    vector = found["t3"]["response"]["body"]["data"][0]["embedding"]
    assert vector == pytest.approx(alone.data[0].embedding, abs=1e-4)


def test_a_batch_can_be_cancelled(service: Running) -> None:
    client = service.client()
    lines = [line(f"c{number}", "hm", model="slow") for number in range(30)]
    batch = begun(client, *lines)
    until(lambda: client.batches.retrieve(batch.id).status == "in_progress")
    assert client.batches.cancel(batch.id).status == "cancelling"
    over = done(client, batch)
    assert over.status == "cancelled"
    rest = lines_of(client, over.error_file_id)
    assert len(rest) + len(lines_of(client, over.output_file_id)) == 30
    assert {it["error"]["code"] for it in rest.values()} == {"batch_cancelled"}
    with pytest.raises(openai.ConflictError, match="cancelled"):
        client.batches.cancel(batch.id)


def test_what_is_not_answered_in_time_expires(service: Running) -> None:
    client = service.client()
    batch = begun(client, *(line(f"c{n}", "hm", model="slow") for n in range(20)), window="2s")
    over = done(client, batch)
    assert over.status == "expired"
    rest = lines_of(client, over.error_file_id)
    assert len(rest) == 20
    assert {(it["response"], it["error"]["code"]) for it in rest.values()} == {
        (None, "batch_expired")
    }


def test_bad_lines_fail_the_batch_with_their_numbers(service: Running) -> None:
    client = service.client()
    twice = line("same", "say a")
    over = done(client, begun(client, line("c", "say a"), twice, twice, {"custom_id": "x"}))
    assert over.status == "failed"
    assert over.errors is not None
    assert over.errors.data is not None
    assert [(it.code, it.line) for it in over.errors.data] == [
        ("duplicate_custom_id", 3),
        ("invalid_request", 4),
    ]


def test_what_is_another_tenants_is_not_there(service: Running) -> None:
    body = {"label": "b", "tenant": "birch", "scopes": ["*"]}
    _, _, made = service.request("/api/keys", body)
    its_key = {"authorization": f"Bearer {made['secret']}"}

    def is_known() -> bool:
        """Tell whether both servers have heard of the key."""
        return all(service.request("/v1/models", None, its_key)[0] == 200 for _ in range(16))

    until(is_known)
    client, other = service.client(), service.client(made["secret"])
    batch = done(client, begun(client, line("c", "say a")))
    assert batch.output_file_id is not None
    assert list(other.files.list()) == []
    assert list(other.batches.list()) == []
    for ask in (
        lambda: other.files.retrieve(batch.input_file_id),
        lambda: other.files.content(batch.output_file_id or ""),
        lambda: other.files.delete(batch.input_file_id),
        lambda: other.batches.retrieve(batch.id),
        lambda: other.batches.cancel(batch.id),
        lambda: other.batches.create(
            input_file_id=batch.input_file_id, endpoint=ASK, completion_window="24h"
        ),
    ):
        with pytest.raises(openai.NotFoundError):
            ask()
    assert client.files.retrieve(batch.input_file_id).status == "processed"


def test_files_expire_are_listed_and_deleted(service: Running) -> None:
    client = service.client()
    whole = os.urandom(2_500_000)
    file = client.files.create(
        file=("data.bin", whole),
        purpose="user_data",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert file.expires_at is not None
    assert file.expires_at - file.created_at == 3600
    assert client.files.content(file.id).read() == whole
    assert [it.id for it in client.files.list(purpose="user_data", limit=10)] == [file.id]
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.content(file.id)


def test_a_file_that_is_too_big_is_refused(service: Running) -> None:
    client = service.client()
    with pytest.raises(openai.APIStatusError) as found:
        client.files.create(file=("big.bin", bytes(FILE_BYTES_MAX + 1)), purpose="user_data")
    assert found.value.status_code == 413
    assert list(client.files.list(purpose="user_data")) == []


def test_an_upload_that_breaks_off_leaves_nothing(service: Running) -> None:
    before = len(list(service.client().files.list()))
    parts = urlsplit(service.url)
    assert parts.hostname is not None
    with socket.create_connection((parts.hostname, parts.port or 80)) as connection:
        head = (
            f"POST /v1/files HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {service.key}\r\n"
            "content-type: multipart/form-data; boundary=x\r\ncontent-length: 2500000\r\n\r\n"
            '--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
        )
        connection.sendall(head.encode() + bytes(2_000_000))
    events = service.state / "server.log"
    others = service.state / "server-1.log"

    def is_noted() -> bool:
        said = "".join(it.read_text() for it in (events, others) if it.exists())
        return '"route":"/v1/files","status":499' in said.replace(" ", "")

    until(is_noted)
    assert len(list(service.client().files.list())) == before


def test_ctrl_c_ends_the_waiting_and_not_the_batch(service: Running, tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text("".join(json.dumps(line(f"c{n}", "hm", model="slow")) + "\n" for n in "123"))
    command = [sys.executable, "-m", "murmurate", "batches", "run", str(file)]
    waiting = subprocess.Popen(
        [*command, "--url", service.url, "--key", service.key, "--state", "none"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    client = service.client()

    def is_begun() -> bool:
        newest = client.batches.list(limit=1).data
        return bool(newest) and newest[0].status == "in_progress"

    until(is_begun)
    waiting.send_signal(signal.SIGINT)
    _, said = waiting.communicate(timeout=30)
    [batch] = client.batches.list(limit=1).data
    assert waiting.returncode == 130
    assert f"{batch.id} goes on: murmurate batches show {batch.id}" in said
    assert client.batches.retrieve(batch.id).status == "in_progress"
    client.batches.cancel(batch.id)
    assert done(client, batch).status == "cancelled"


def test_a_killed_server_costs_no_line_and_doubles_none(service: Running) -> None:
    client = service.client()
    batch = begun(client, *(line(f"c{number}", f"say w{number}") for number in range(3000)))

    def completed() -> int:
        try:
            counts = client.batches.retrieve(batch.id).request_counts
        except openai.APIConnectionError:
            return 0
        return 0 if counts is None else counts.completed

    for share in (300, 1000):
        until(lambda share=share: completed() >= share)
        for pid in service.workers("server")[:1]:
            os.kill(pid, signal.SIGKILL)
        until(lambda: len(service.workers("server")) == 2)
    until(lambda: completed() == 3000)
    over = done(client, batch)
    assert (over.status, over.error_file_id) == ("completed", None)
    found = lines_of(client, over.output_file_id)
    assert {
        name: it["response"]["body"]["choices"][0]["message"]["content"]
        for name, it in found.items()
    } == {f"c{number}": f"said w{number}" for number in range(3000)}
