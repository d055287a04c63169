"""The end of a run is told to a real receiver by real servers, also when they are killed."""

import base64
import json
import os
import signal
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any, cast

import pytest

from murmurate.jobs.notices import signature
from tests.e2e.running import Running, running
from tests.e2e.test_crashes import ended, until

RULES = """
[[rules]]
match = "hi"
text = "hello"

[[rules]]
match = "break"
fail = "garbage"
"""
KEY = bytes(range(32))
CONFIG = """
[knowledge]

[server]
workers = 2

[models.echo]
engine = "scripted"
rules = "{rules}"

[outgoing]
allow = ["127.0.0.1/32"]
ports = [{port}]

[webhooks]
secret = "file:{secret}"
"""


class Receiver(ThreadingHTTPServer):
    """Keeps what it gets; holds its first answer until it may go."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.go = Event()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        receiver = cast("Receiver", self.server)
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        receiver.got.append((headers, body))
        if len(receiver.got) == 1:
            receiver.go.wait(30)
        try:
            self.send_response(204)
            self.end_headers()
        except OSError:
            pass  # who asked was killed

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def receiver() -> Generator[Receiver]:
    server = Receiver()
    serving = Thread(target=server.serve_forever, daemon=True)
    serving.start()
    yield server
    server.go.set()
    server.shutdown()
    serving.join()
    server.server_close()


@pytest.fixture
def service(tmp_path: Path, receiver: Receiver) -> Generator[Running]:
    rules, secret = tmp_path / "rules.toml", tmp_path / "secret"
    rules.write_text(RULES)
    secret.write_text("whsec_" + base64.b64encode(KEY).decode())
    config = tmp_path / "murmurate.toml"
    port = receiver.server_address[1]
    config.write_text(CONFIG.format(rules=rules, secret=secret, port=port))
    with running(tmp_path / "state", "--config", str(config)) as service:
        until(lambda: len(service.workers("server")) == 2)
        yield service


def asked(
    service: Running, webhook: str, *, text: str = "hi", deadline_s: float = 60.0
) -> tuple[int, Any]:
    messages = [{"role": "user", "content": text}]
    terms = {"webhook": webhook, "deadline_s": deadline_s}
    body = {"model": "echo", "messages": messages, **terms}
    status, _, answer = service.request("/api/runs", body)
    return status, answer


def test_a_notice_outlives_the_servers_that_deliver_it(
    service: Running, receiver: Receiver
) -> None:
    url = f"http://127.0.0.1:{receiver.server_address[1]}/hook"
    status, answer = asked(service, url)
    assert status == 202
    assert ended(service, answer["id"])["status"] == "finished"
    until(lambda: receiver.got)
    for pid in service.workers("server"):
        os.kill(pid, signal.SIGKILL)
    until(lambda: len(receiver.got) == 2, within_s=60)
    (first, body), (second, again) = receiver.got
    assert (first["webhook-id"], body) == (answer["id"], again)
    assert second["webhook-id"] == first["webhook-id"]
    assert json.loads(body)["data"]["status"] == "finished"
    for headers in (first, second):
        at_s = int(headers["webhook-timestamp"])
        proof = signature(body, message=answer["id"], at_s=at_s, key=KEY)
        assert headers["webhook-signature"] == proof

    def told() -> bool:
        _, _, shown = service.request(f"/api/runs/{answer['id']}")
        return shown["webhook"]["status"] == "delivered"

    until(told, within_s=30, look_s=0.2)


def test_what_must_not_be_reached_is_refused_before_the_run_begins(service: Running) -> None:
    for webhook in ("https://10.0.0.1/", "http://127.0.0.1:22/", "http://169.254.169.254/"):
        status, answer = asked(service, webhook)
        assert (status, answer["error"]["param"]) == (400, "webhook")
    status, _, listed = service.request("/api/runs")
    assert (status, listed["runs"]) == (200, [])


def test_a_run_that_waits_for_its_next_attempt_misses_its_deadline_and_that_is_told(
    service: Running, receiver: Receiver
) -> None:
    receiver.go.set()
    url = f"http://127.0.0.1:{receiver.server_address[1]}/hook"
    # The attempts are made after 0, 0.5, 1.5, 3.5 and 7.5 s: at 5 s it waits, held by nobody.
    status, answer = asked(service, url, text="break", deadline_s=5.0)
    assert status == 202
    shown = ended(service, answer["id"])
    assert (shown["status"], shown["error"]["code"]) == ("failed", "run.deadline")
    assert 5_000 <= shown["ended_ms"] - shown["began_ms"] < 7_500
    until(lambda: receiver.got, within_s=10)
    assert json.loads(receiver.got[0][1])["data"]["error"] == "run.deadline"
