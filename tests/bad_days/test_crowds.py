"""Many clients who take their time, or send nonsense: the others are served as before."""

import json
import os
import resource
import socket
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.bad_days.conftest import configured
from tests.e2e.running import Running, running, until

SLOW_HEAD = b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nx: "
GET = b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
MIB = 1024 * 1024


@contextmanager
def crowd(service: Running, count: int, sent: bytes) -> Generator[list[socket.socket]]:
    """Hold connections on each of which the same was sent."""
    host, _, port = service.url.removeprefix("http://").rpartition(":")
    with ExitStack() as held:
        sockets: list[socket.socket] = []
        for _ in range(count):
            one = held.enter_context(socket.create_connection((host, int(port)), 30))
            one.sendall(sent)
            sockets.append(one)
        yield sockets


def rss_bytes(pid: int) -> int:
    """Return the memory that a process holds."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def chat(service: Running, text: str = "are you there?", **fields: object) -> bytes:
    """Return a whole request."""
    body = json.dumps(
        {"model": "slow", "messages": [{"role": "user", "content": text}], **fields}
    ).encode()
    return head(service, len(body)) + body


def head(service: Running, length: int) -> bytes:
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        b"content-type: application/json\r\nauthorization: Bearer %s\r\ncontent-length: %d\r\n\r\n"
    ) % (service.key.encode(), length)


def answer(client: socket.socket) -> bytes:
    """Return the next answer on a connection, with its body."""
    got = b""
    while b"\r\n\r\n" not in got:
        got += client.recv(1000)
    length = int(got.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
    while len(got.partition(b"\r\n\r\n")[2]) < length:
        got += client.recv(1000)
    return got


def is_served(service: Running) -> None:
    """Ask as an ordinary client does."""
    status, _, body = service.request(
        "/v1/chat/completions",
        {"model": "slow", "messages": [{"role": "user", "content": "are you there?"}]},
        {"content-type": "application/json"},
    )
    assert (status, body["choices"][0]["message"]["content"]) == (200, "I hear you")


def test_a_thousand_slow_heads_keep_nobody_waiting(hardy: Running) -> None:
    pid = hardy.worker("server")
    before = rss_bytes(pid)
    with crowd(hardy, 1000, SLOW_HEAD + b"a" * 4000) as clients:
        is_served(hardy)
        assert rss_bytes(pid) - before < 150 * MIB
        for client in clients:  # each gets its 408 once its time is up
            assert client.recv(100).startswith(b"HTTP/1.1 408 ")
    is_served(hardy)


def test_slow_bodies_and_clients_that_read_nothing_keep_nobody_waiting(hardy: Running) -> None:
    pid = hardy.worker("server")
    before = rss_bytes(pid)
    strangers = head(hardy, 1_000_000).replace(b"Bearer ", b"Bearer x")
    with (
        crowd(hardy, 200, head(hardy, 1_000_000) + b"{"),
        crowd(hardy, 200, strangers + b"{") as refused,
        crowd(hardy, 200, GET * 50),
    ):
        is_served(hardy)
        for client in refused:
            assert client.recv(100).startswith(b"HTTP/1.1 401 "), "before its body is there"
        assert rss_bytes(pid) - before < 200 * MIB
    is_served(hardy)


def test_nonsense_without_end_writes_one_line_a_second(hardy: Running) -> None:
    log = hardy.state / "server.log"
    output = hardy.state.with_name(f"{hardy.state.name}.output")
    before, lines = output.stat().st_size, len(log.read_text().splitlines())
    for _ in range(20):
        with crowd(hardy, 50, b"\x16\x03\x01 nonsense\r\n\r\n") as clients:
            for client in clients:
                assert client.recv(100).startswith(b"HTTP/1.1 400 ")
    new = [json.loads(line) for line in log.read_text().splitlines()[lines:]]
    refused = [event for event in new if event["event"] == "http.refused"]
    assert refused
    assert len(refused) < 100
    assert {event["kind"] for event in refused} == {"request.malformed"}
    assert output.stat().st_size == before
    is_served(hardy)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service that takes few connections, few requests and opens few files."""
    folder = tmp_path_factory.mktemp("narrow")
    rate = {
        "MURMURATE_HTTP__CONNECTIONS_MAX": "30",
        "MURMURATE_LIMITS__DEFAULT__BURST": "5",
        "MURMURATE_LIMITS__DEFAULT__REQUESTS_PER_MINUTE": "60",
    }
    with running(folder / "state", *configured(folder), environment=rate) as service:
        yield service


def test_idle_connections_give_way_to_new_clients(narrow: Running) -> None:
    with crowd(narrow, 100, GET) as clients:
        assert clients[-1].recv(100).startswith(b"HTTP/1.1 200 ")
        is_served(narrow)
        gone = 0
        for client in clients[:50]:
            while data := client.recv(1000):
                assert data
            gone += 1
        assert gone == 50
    events = (narrow.state / "server.log").read_text()
    assert '"kind":"server.connections"' in events


def test_more_slow_heads_than_connections_keep_nobody_out(narrow: Running) -> None:
    with crowd(narrow, 100, SLOW_HEAD):
        is_served(narrow)


def test_a_flood_over_the_rate_is_refused_before_its_bodies_are_read(narrow: Running) -> None:
    with crowd(narrow, 20, head(narrow, 4_000_000)) as clients:
        answers = [answer(client) for client in clients[10:]]
    limited = [answer for answer in answers if answer.startswith(b"HTTP/1.1 429 ")]
    assert len(limited) == len(answers)
    assert all(b"\r\nretry-after: " in answer for answer in limited)
    assert all(b'"code":"rate_limit_exceeded"' in answer for answer in limited)


def test_without_free_files_the_server_neither_spins_nor_dies(hardy: Running) -> None:
    pid = hardy.worker("server")
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    with crowd(hardy, 5, GET) as kept:
        for client in kept:
            assert answer(client).startswith(b"HTTP/1.1 200 ")
        files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (files, hard))
        try:
            before_s = cpu_s(pid)
            with crowd(hardy, 50, b"") as waiting:
                for client in waiting:
                    assert client.recv(1) == b"", "closed, not left hanging"
                kept[0].sendall(GET)  # a connection that is there goes on
                assert answer(kept[0]).startswith(b"HTTP/1.1 200 ")
                kept[1].sendall(chat(hardy))  # waits for a file to reach its engine
                got = answer(kept[1])
                assert got.startswith(b"HTTP/1.1 200 ") or b'"code":"engine.unreachable"' in got
            assert cpu_s(pid) - before_s < 2.0, "of the five seconds that it may try"
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    until(lambda: hardy.request("/readyz")[0] == 200)
    is_served(hardy)
    assert hardy.worker("server") == pid
