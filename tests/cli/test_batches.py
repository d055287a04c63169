"""What `murmurate batches` does with a server's answers."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_client import HTML, OK, STRANGE, answering, assert_one_line, run

# A command ends after its request, and its socket with it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

BATCH: dict[str, Any] = {
    "id": "batch_1",
    "endpoint": "/v1/chat/completions",
    "errors": None,
    "input_file_id": "file-1",
    "completion_window": "24h",
    "status": "validating",
    "output_file_id": None,
    "error_file_id": None,
    "created_at": 1,
    "in_progress_at": None,
    "expires_at": 2,
    "finalizing_at": None,
    "completed_at": None,
    "failed_at": None,
    "expired_at": None,
    "cancelling_at": None,
    "cancelled_at": None,
    "request_counts": {"total": 2, "completed": 0, "failed": 0},
    "metadata": None,
}
DONE = {
    **BATCH,
    "status": "completed",
    "output_file_id": "file-2",
    "request_counts": {"total": 2, "completed": 2, "failed": 0},
}
HALF = {
    **DONE,
    "error_file_id": "file-3",
    "request_counts": {"total": 2, "completed": 1, "failed": 1},
}


def batches(url: str, *words: str) -> Any:
    return run("batches", *words, "--url", url, "--key", "k")


def reply(body: Any) -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return OK + b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(raw), raw)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("{}\n{}\n")
    return path


def test_a_file_is_answered_and_the_answers_are_written(file: Path) -> None:
    replies = map(reply, ({"id": "file-1"}, BATCH, DONE, b"one\ntwo\n"))
    with answering(*replies) as (url, asked):
        result = batches(url, "run", str(file))
    assert result.exit_code == 0, result.output
    assert (file.parent / "in.output.jsonl").read_text() == "one\ntwo\n"
    assert "2 of 2 lines answered, 0 failed" in result.stdout
    assert asked[0].startswith(b"POST /v1/files ")
    assert b'name="file"; filename="in.jsonl"' in asked[0]
    assert b"{}\n{}\n" in asked[0]
    assert json.loads(asked[1].partition(b"\r\n\r\n")[2]) == {
        "input_file_id": "file-1",
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    assert asked[3].startswith(b"GET /v1/files/file-2/content ")
    assert sorted(it.name for it in file.parent.iterdir()) == ["in.jsonl", "in.output.jsonl"]


def test_lines_that_failed_are_written_beside_and_told_by_the_exit_code(file: Path) -> None:
    replies = map(reply, ({"id": "file-1"}, BATCH, HALF, b"one\n", b"bad\n"))
    output = file.parent / "out"
    words = ("--output", str(output), "--endpoint", "/v1/embeddings", "--window", "1h", "--json")
    with answering(*replies) as (url, asked):
        result = batches(url, "run", str(file), *words)
    assert result.exit_code == 1
    assert json.loads(result.stdout) == HALF
    assert output.read_text() == "one\n"
    assert output.with_name("out.errors").read_text() == "bad\n"
    body = json.loads(asked[1].partition(b"\r\n\r\n")[2])
    assert (body["endpoint"], body["completion_window"]) == ("/v1/embeddings", "1h")


def test_what_is_wrong_with_the_input_is_shown_with_its_lines() -> None:
    problems = [
        {"code": "x", "message": f"It is {n}.", "line": n, "param": None} for n in range(1, 31)
    ]
    failed = {**BATCH, "status": "failed", "errors": {"object": "list", "data": problems}}
    with answering(reply(failed)) as (url, _):
        result = batches(url, "show", "batch_1")
    assert "  line 3: It is 3.\n" in result.stdout
    assert "  and 10 more: see --json\n" in result.stdout


def test_a_batch_is_shown_with_its_answers_listed_and_cancelled(tmp_path: Path) -> None:
    with answering(reply(DONE), reply(b"one\n")) as (url, _):
        result = batches(url, "show", "batch_1", "--output", str(tmp_path / "out"))
    assert (result.exit_code, (tmp_path / "out").read_text()) == (0, "one\n")
    with answering(reply({"data": [DONE, BATCH]})) as (url, _):
        head, first, _ = batches(url, "list").stdout.splitlines()
    assert head.split()[0] == "id"
    assert first.split()[:6] == ["batch_1", "/v1/chat/completions", "completed", "2", "2", "0"]
    with answering(reply({"data": []})) as (url, _):
        assert json.loads(batches(url, "list", "--json").stdout) == {"data": []}
    with answering(reply(BATCH)) as (url, asked):
        assert "batch_1 stops" in batches(url, "cancel", "batch_1").stdout
    assert asked[0].startswith(b"POST /v1/batches/batch_1/cancel ")


@pytest.mark.parametrize(
    "words", [("list",), ("show", "b"), ("cancel", "b")], ids=lambda words: words[0]
)
def test_a_strange_answer_is_told_in_one_line(words: tuple[str, ...]) -> None:
    with answering(HTML) as (url, _):
        assert_one_line(batches(url, *words), STRANGE)


def test_a_batch_of_another_form_is_strange(file: Path) -> None:
    with answering(reply({"id": "file-1"}), reply({"id": "batch_1"})) as (url, _):
        assert_one_line(batches(url, "run", str(file)), STRANGE)
