"""What `murmurate runs` says when the other side is not what it hoped for."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from murmurate.cli.runs import CUTS_MAX
from tests.cli.test_client import (
    CHUNKED,
    CUT,
    EVENTS,
    HTML,
    OK,
    STRANGE,
    answering,
    assert_one_line,
    run,
)

# A command ends after its request, and its socket with it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

ACCEPTED = b"HTTP/1.1 202 Accepted\r\n\r\n"
REQUEST: dict[str, Any] = {
    "id": "req_1",
    "tenant": "a",
    "model": "tiny",
    "messages": [],
    "trace": {"trace_id": "0"},
}
BEGUN: dict[str, Any] = {"request": REQUEST}
VIEW: dict[str, Any] = {
    "id": "run_1",
    "model": "tiny",
    "status": "failed",
    "began_ms": 1,
    "messages": [],
    "error": {"code": "engine.failed", "detail": "it hung up"},
}
VERBS: Sequence[tuple[str, ...]] = (
    ("start", "tiny", "hi"),
    ("list",),
    ("show", "run_1"),
    ("follow", "run_1"),
    ("cancel", "run_1"),
    ("resume", "run_1"),
)


def runs(url: str, *words: str) -> Any:
    return run("runs", *words, "--url", url, "--key", "k")


def event(seq: int, kind: str, body: Any = None) -> bytes:
    news = {"kind": kind, "seq": seq, "at_ms": 1, "body": body or {}}
    return f"event: {kind}\ndata: {json.dumps(news)}\n\n".encode()


def stream(*events: bytes) -> bytes:
    return EVENTS + b"\r\n" + b"".join(events)


FIRST = event(1, "run.begun", BEGUN)
LAST = event(2, "run.finished", {"text": "It is 3.", "reason": "stop"})


@pytest.mark.parametrize("words", VERBS, ids=lambda words: words[0])
def test_a_strange_answer_is_told_in_one_line(words: tuple[str, ...]) -> None:
    with answering(HTML) as (url, _):
        assert_one_line(runs(url, *words), STRANGE)


@pytest.mark.parametrize("words", VERBS, ids=lambda words: words[0])
def test_the_servers_own_words_are_passed_on(words: tuple[str, ...]) -> None:
    error = b'{"error": {"message": "there is no run"}}'
    with answering(b"HTTP/1.1 404 Not Found\r\n\r\n" + error) as (url, _):
        assert_one_line(runs(url, *words), "there is no run")


@pytest.mark.parametrize(
    ("words", "body"),
    [
        (("start", "tiny", "hi"), b"{}"),
        (("list",), b"{}"),
        (("list",), b'{"runs": [{}]}'),
        (("show", "run_1"), b"{}"),
        (("show", "run_1", "--json"), b"{}"),
    ],
)
def test_an_answer_without_what_it_should_have_is_strange(
    words: tuple[str, ...], body: bytes
) -> None:
    with answering(OK + b"\r\n" + body) as (url, _):
        assert_one_line(runs(url, *words), STRANGE)


def test_a_run_that_failed_is_shown_and_no_failure_of_the_command() -> None:
    with answering(OK + b"\r\n" + json.dumps(VIEW).encode()) as (url, _):
        result = runs(url, "show", "run_1")
    assert result.exit_code == 0, result.output
    assert "failed: engine.failed: it hung up\n" in result.stdout


def test_a_list_says_why_runs_failed_and_until_when_they_wait() -> None:
    listed = {"id": "run_1", "model": "tiny", "began_ms": 1, "steps": 2}
    rows = [
        {**listed, "status": "failed", "error": "engine.failed", "ended_ms": 1001},
        {**listed, "status": "waiting", "due_ms": 1},
    ]
    with answering(OK + b"\r\n" + json.dumps({"runs": rows}).encode()) as (url, _):
        _, failed, waiting = runs(url, "list").stdout.splitlines()
    assert "failed (engine.failed)" in failed
    assert failed.split()[-2:] == ["1.0", "s"]
    assert "waiting until 19" in waiting
    assert waiting.split()[-1] == "–"


def test_an_id_is_quoted_in_the_path_and_changes_are_posts() -> None:
    for verb, path in (("cancel", b"POST /api/runs/..%2Fkeys/cancel"), ("show", b"GET /api/runs/")):
        with answering(ACCEPTED + b"{}") as (url, asked):
            runs(url, verb, "../keys")
        assert asked[0].startswith(path)


def test_a_run_is_begun_with_what_was_asked_for() -> None:
    reply = ACCEPTED.removesuffix(b"\r\n") + b"x-murmurate-session: sess_1\r\n\r\n"
    with answering(reply + b'{"id": "run_1", "status": "queued"}') as (url, asked):
        words = ("--priority", "-3", "--session", "new", "--json")
        result = runs(url, "start", "tiny", "hi", *words)
    assert json.loads(result.stdout) == {"id": "run_1", "status": "queued", "session": "sess_1"}
    assert b"x-murmurate-session: new\r\n" in asked[0]
    message = {"role": "user", "content": "hi"}
    sent = json.loads(asked[0].partition(b"\r\n\r\n")[2])
    assert sent == {"model": "tiny", "messages": [message], "priority": -3}


def test_a_run_is_followed_from_one_connection_to_the_next_and_nothing_told_twice() -> None:
    cut = CHUNKED + b"%x\r\n%b\r\n" % (len(FIRST), FIRST)
    with answering(cut, stream(FIRST), b"", stream(FIRST, LAST)) as (url, asked):
        result = runs(url, "follow", "run_1")
    assert result.exit_code == 0, result.output
    assert [line.partition("  ")[2] for line in result.stdout.splitlines()] == [
        "began: tiny, asked ''",
        "finished",
        "",
        "",
    ]
    assert result.stdout.endswith("\n\nIt is 3.\n")
    assert len(asked) == 4


def test_a_server_that_never_comes_back_is_given_up() -> None:
    with answering(*[stream(FIRST)] * (1 + CUTS_MAX)) as (url, asked):
        result = runs(url, "follow", "run_1", "--json")
    assert (result.exit_code, result.stdout.count("\n")) == (1, 1)
    assert "the server went away before the run's end" in result.stderr
    assert len(asked) == 1 + CUTS_MAX


def test_a_stream_that_breaks_off_at_its_begin_is_told() -> None:
    with answering(CHUNKED + b"ff\r\n") as (url, _):
        assert_one_line(runs(url, "follow", "run_1"), CUT)


@pytest.mark.parametrize("end", ["run.failed", "run.cancelled"])
def test_the_exit_code_says_whether_the_run_finished(end: str) -> None:
    body = {"code": "engine.failed", "detail": "it hung up"}
    with answering(stream(FIRST, event(2, end, body))) as (url, _):
        result = runs(url, "follow", "run_1")
    assert (result.exit_code, result.stderr) == (1, "")


def test_a_run_that_was_resumed_is_followed_to_its_last_end() -> None:
    body = {"code": "e", "detail": "d"}
    told = (FIRST, event(2, "run.failed", body), event(3, "run.resumed"))
    done = event(4, "run.finished", {"text": "It is 3.", "reason": "stop"})
    with answering(stream(*told, done)) as (url, _):
        assert runs(url, "follow", "run_1").exit_code == 0


def test_an_error_in_the_stream_is_told() -> None:
    error = b'data: {"error": {"message": "the disk is full"}}\n\n'
    with answering(stream(FIRST, error)) as (url, _):
        result = runs(url, "follow", "run_1")
    assert (result.exit_code, result.stderr) == (1, "murmurate: the disk is full\n")
