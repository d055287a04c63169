"""What the commands say when the other side is not what they hoped for: one line, exit code 1."""

import json
import os
import re
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from murmurate.cli import main

# A command ends after its request, and its socket with it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

OK = b"HTTP/1.1 200 OK\r\n"
EVENTS = OK + b"Content-Type: text/event-stream\r\n"
CHUNKED = EVENTS + b"Transfer-Encoding: chunked\r\n\r\n"
HTML = OK + b"Content-Type: text/html\r\nContent-Length: 15\r\n\r\n<html>hi</html>"
EVENT = b'data: {"choices": [{"delta": {"content": "half an ans"}}]}\n\n'

CUT = "the server went away in the middle of the answer"
STRANGE = "not in the form that murmurate speaks"
NO_HTTP = "does not speak HTTP"


@contextmanager
def answering(*replies: bytes) -> Generator[tuple[str, list[bytes]]]:
    """Serve each reply to one connection, then hang up; yield the URL and what was asked."""
    asked: list[bytes] = []

    def serve() -> None:
        for reply in replies:
            connection, _ = listening.accept()
            with connection:
                asked.append(request_of(connection))
                connection.sendall(reply)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10)
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", asked
        thread.join(10)


def request_of(connection: socket.socket) -> bytes:
    """Return a request with the body that its head announces."""
    request = connection.recv(65536)
    announced = re.search(rb"\r\nContent-Length: (\d+)\r\n", request)
    head_bytes = request.find(b"\r\n\r\n") + 4
    while announced and len(request) < head_bytes + int(announced[1]):
        request += connection.recv(65536)
    return request


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def assert_one_line(result: Result, detail: str) -> None:
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1), result.output
    assert result.stderr.startswith("murmurate: ")
    assert detail in result.stderr


@pytest.mark.parametrize(
    ("reply", "detail"),
    [
        pytest.param(CHUNKED + b"ff\r\n" + EVENT, CUT, id="cut inside a chunk"),
        pytest.param(CHUNKED + b"%x\r\n%b\r\n" % (len(EVENT), EVENT), CUT, id="cut between chunks"),
        pytest.param(EVENTS + b"Content-Length: 999\r\n\r\n" + EVENT, CUT, id="too short"),
        pytest.param(EVENTS + b"\r\n" + EVENT, CUT, id="no end mark"),
        pytest.param(EVENTS + b"\r\ndata: <html>\n\n", STRANGE, id="an event that is no JSON"),
        pytest.param(EVENTS + b"\r\ndata: []\n\n", STRANGE, id="an event that is no object"),
        pytest.param(HTML, STRANGE, id="HTML"),
        pytest.param(b"220 mail.example ESMTP\r\n", NO_HTTP, id="a mail server"),
        pytest.param(b"SSH-2.0-OpenSSH\r\n", NO_HTTP, id="an SSH server"),
        pytest.param(b"", "hung up without an answer", id="nothing"),
        pytest.param(b"HTTP/1.1 502 Bad\r\n\r\n<html>", "answered 502", id="a broken proxy"),
    ],
)
def test_ask_says_in_one_line_what_is_wrong_with_an_answer(reply: bytes, detail: str) -> None:
    with answering(reply) as (url, _):
        assert_one_line(run("ask", "--url", url, "--key", "k", "hi"), detail)


@pytest.mark.parametrize(
    "reply",
    [HTML, OK + b"\r\n[]", OK + b"\r\n{}", OK + b'\r\n{"spans": 7}', OK + b'\r\n{"spans": [1]}'],
)
def test_trace_says_in_one_line_that_an_answer_is_strange(reply: bytes) -> None:
    with answering(reply) as (url, _):
        assert_one_line(run("trace", "--url", url, "--key", "k", "0" * 32), STRANGE)


@pytest.mark.parametrize(
    "words",
    [("list",), ("list", "--tenant", "a"), ("create", "x"), ("rotate", "k"), ("revoke", "k")],
)
@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"keys": [1]}', b'{"keys": [{}], "secret": 1}'])
def test_keys_say_in_one_line_that_an_answer_is_strange(
    words: tuple[str, ...], body: bytes
) -> None:
    with answering(OK + b"\r\n" + body) as (url, _):
        result = run("keys", *words, "--url", url, "--key", "k")
    if words == ("list", "--tenant", "a") and b"[{}]" in body:
        assert result.exit_code == 0, "none of them is the tenant's"
        return
    assert_one_line(result, STRANGE)


def test_a_key_is_revoked_by_the_method_that_deletes() -> None:
    with answering(b"HTTP/1.1 404 Not Found\r\n\r\n") as (url, asked):
        assert_one_line(run("keys", "revoke", "a/b", "--url", url, "--key", "k"), "404")
    assert asked[0].startswith(b"DELETE /api/keys/a%2Fb HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("kept", "sent"),
    [("mur_rotated\n", b"mur_rotated"), (None, b"mur_at_start"), ("\u00e9\n", b"mur_at_start")],
)
def test_the_key_file_stands_before_the_key_of_the_start(
    kept: str | None, sent: bytes, tmp_path: Path
) -> None:
    if kept is not None:
        (tmp_path / "key").write_text(kept, encoding="utf-8")
    with answering(b"HTTP/1.1 404 Not Found\r\n\r\n") as (url, asked):
        ready = {"url": url, "key": "mur_at_start", "pid": os.getpid()}
        (tmp_path / "ready.json").write_text(json.dumps(ready))
        run("keys", "list", "--state", str(tmp_path))
    assert b"Authorization: Bearer " + sent + b"\r\n" in asked[0]


def test_ingest_that_breaks_off_is_no_success() -> None:
    step = b'{"step": "read", "collection": "docs", "done": 1, "total": 2, "path": "a.md"}\n'
    for options in ([], ["--json"]):
        with answering(OK + b"\r\n" + step) as (url, _):
            result = run("ingest", "--url", url, "--key", "k", *options)
            assert result.exit_code == 1
            assert CUT in result.stderr


def test_doctor_reports_a_strange_server_as_a_finding() -> None:
    for replies in ([HTML], [OK + b"\r\n{}", OK + b"\r\n[]"], [OK + b"\r\n{}", OK + b"\r\n{}"]):
        with answering(*replies) as (url, _):
            result = run("doctor", "--json", "--url", url, "--key", "k")
            (found,) = [f for f in json.loads(result.stdout) if f["about"] == "server"]
            assert found["verdict"] == "warn"
            assert STRANGE in found["detail"]


@pytest.mark.parametrize(
    ("trace_id", "path"),
    [("a b", b"/api/traces/a%20b"), ("é", b"/api/traces/%C3%A9"), ("../x", b"/api/traces/..%2Fx")],
)
def test_a_trace_id_is_quoted_in_the_path(trace_id: str, path: bytes) -> None:
    with answering(b"HTTP/1.1 404 Not Found\r\n\r\n") as (url, asked):
        assert_one_line(run("trace", "--url", url, "--key", "k", trace_id), "404")
    assert asked[0].startswith(b"GET " + path + b" HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:port",
        "http://127.0.0.1:99999",
        "http://[::1",
        "localhost:80",
        "",
        "http://",
    ],
)
def test_a_url_that_is_none_is_said_with_what_was_expected(url: str) -> None:
    assert_one_line(run("ask", "--url", url, "--key", "k", "hi"), "expected http://HOST:PORT")


@pytest.mark.parametrize("key", ["mur_secret\n", "mur\r\nsecret", "mur_sécret"])
def test_a_key_that_no_header_can_carry_is_refused_without_being_printed(key: str) -> None:
    result = run("ask", "--url", "http://127.0.0.1:1", "--key", key, "hi")
    assert_one_line(result, "--key: expected one line")
    assert "cret" not in result.stderr


def test_a_session_that_no_header_can_carry_is_refused() -> None:
    arguments = ["chat", "--url", "http://127.0.0.1:1", "--key", "k", "--session", "a\nb"]
    result = CliRunner().invoke(main, arguments, input="hi\n")
    assert "can't be sent" in result.stderr
    assert result.exit_code == 0


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "7",
        "",
        "{}",
        "\0",
        '"x"',
        '{"pid": "x"}',
        '{"url": "u", "key": "k", "pid": "x"}',
        '{"url": "u", "key": "k", "pid": 99999999999999999999}',
    ],
)
def test_a_ready_file_that_is_none_counts_as_no_server(content: str, tmp_path: Path) -> None:
    (tmp_path / "ready.json").write_text(content)
    assert_one_line(run("ask", "--state", str(tmp_path), "hi"), "start one with `murmurate up`")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, with nothing set in the environment."""
    for name in [name for name in os.environ if name.startswith("MURMURATE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_state_folder_is_that_of_the_configuration(folder: Path) -> None:
    (folder / "murmurate.toml").write_text('[server]\nstate = "elsewhere"')
    assert_one_line(run("ask", "hi"), "no server runs on elsewhere:")
    assert_one_line(run("ask", "--state", "named", "hi"), "no server runs on named:")


def test_the_environment_stands_over_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "murmurate.toml").write_text('[server]\nstate = "elsewhere"')
    monkeypatch.setenv("MURMURATE_SERVER__STATE", "from-environment")
    assert_one_line(run("ask", "hi"), "no server runs on from-environment:")


@pytest.mark.parametrize("text", [None, "[server", "[server]\nstate = 7", "[nonsense]"])
def test_without_a_usable_configuration_the_state_folder_is_the_default(
    folder: Path, text: str | None
) -> None:
    if text is not None:
        (folder / "murmurate.toml").write_text(text)
    assert_one_line(run("ask", "hi"), "no server runs on state:")


def test_doctor_looks_at_the_state_folder_of_the_file_that_it_is_given(folder: Path) -> None:
    (folder / "other.toml").write_text('[server]\nstate = "other-state"')
    for arguments in (["--config", "other.toml", "--json"], ["--json", "--config", "other.toml"]):
        findings = json.loads(run("doctor", *arguments).stdout)
        (server,) = [finding for finding in findings if finding["about"] == "server"]
        assert "no server runs on other-state:" in server["detail"]


@pytest.mark.parametrize(("size", "row"), [(b"1500000", "1.5 MB, all"), (b"null", None)])
def test_the_size_of_the_index_is_shown_where_the_server_tells_it(
    size: bytes, row: str | None
) -> None:
    state = (
        b'{"collections": [{"collection": "docs", "state": "ready", "documents": 1, "chunks": 2,'
        b' "chunks_pending": 0, "search": "words only: none", "fault": null, "problems": [],'
        b' "watched": true, "synced_ms": null, "index_bytes": ' + size + b"}]}"
    )
    with answering(OK + b"\r\n" + state) as (url, _):
        result = run("knowledge", "status", "--url", url, "--key", "k")
    assert result.exit_code == 0, result.output
    assert (row or "ready") in result.stdout
    assert ("index" in result.stdout) == (row is not None)
