"""Real nginx with the configuration that we emit, before a real service."""

import http.client
import json
import ssl
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.running import Running, running, until
from tests.servers.nginx import free_port, serving

TLS = Path(__file__).parents[1] / "fixtures" / "tls"
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
[server]
body_bytes_max = 100000

[models.slow]
engine = "scripted"
rules = "rules.toml"

[knowledge]
"""


@dataclass(frozen=True)
class Edge:
    """nginx before a service, and before a place where none is."""

    service: Running
    port: int
    clear_port: int

    @contextmanager
    def asked(
        self, method: str, path: str, body: bytes | None = None
    ) -> Generator[http.client.HTTPResponse]:
        trusted = ssl.create_default_context(cafile=TLS / "ca.pem")
        connection = http.client.HTTPSConnection(
            "localhost", self.port, timeout=30, context=trusted
        )
        with closing(connection):
            connection.request(method, path, body, self.headers())
            with connection.getresponse() as response:
                yield response

    def streamed(self, text: str) -> AbstractContextManager[http.client.HTTPResponse]:
        return self.asked("POST", "/v1/chat/completions", question(text, stream=True))

    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.service.key}", "content-type": "application/json"}


def question(text: str, *, stream: bool = False) -> bytes:
    messages = [{"role": "user", "content": text}]
    return json.dumps({"model": "slow", "messages": messages, "stream": stream}).encode()


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Generator[Edge]:
    folder = tmp_path_factory.mktemp("edge")
    (folder / "rules.toml").write_text(RULES)
    config = folder / "murmurate.toml"
    config.write_text(CONFIG)
    named = ("--config", str(config))
    with running(folder / "state", *named) as service:
        port, clear_port = free_port(), free_port()
        words = [sys.executable, "-m", "murmurate", "deploy", "edge-proxy", "nginx"]
        words += ["--name", "localhost", "--config", str(config)]
        words += ["--server", service.url.removeprefix("http://")]
        words += ["--server", f"127.0.0.1:{free_port()}"]
        words += ["--certificate", str(TLS / "server.pem")]
        words += ["--private-key", str(TLS / "server.pem")]
        words += ["--port", str(port), "--clear-port", str(clear_port)]
        made = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        with serving(folder / "nginx", made, port=port):
            yield Edge(service, port, clear_port)


def under_way(service: Running) -> float:
    """Return how many requests the engine works on."""
    with closing(service.connection()) as connection:
        connection.request("GET", "/metrics")
        page = connection.getresponse().read().decode()
    [line] = [
        line
        for line in page.splitlines()
        if line.startswith("murmurate_model_requests{") and 'state="running"' in line
    ]
    return float(line.rpartition(" ")[2])


def test_http_2_and_1_1_reach_the_service_through_tls(edge: Edge) -> None:
    for wanted, shown in (("--http2", "2"), ("--http1.1", "1.1")):
        words = ["curl", "-sS", wanted, "--cacert", str(TLS / "ca.pem"), "--max-time", "30"]
        words += ["-w", "\n%{http_version} %{http_code}", "-d", question("hello").decode()]
        for name, value in edge.headers().items():
            words += ["-H", f"{name}: {value}"]
        url = f"https://localhost:{edge.port}/v1/chat/completions"
        done = subprocess.run([*words, url], capture_output=True, text=True, check=True)
        answer, _, facts = done.stdout.rpartition("\n")
        assert facts == f"{shown} 200"
        assert json.loads(answer)["choices"][0]["message"]["content"] == "I hear you"


def test_a_server_that_is_not_there_is_not_noticed(edge: Edge) -> None:
    for _ in range(6):
        with edge.asked("POST", "/v1/chat/completions", question("hello")) as response:
            assert response.status == 200


def test_a_stream_passes_as_it_comes(edge: Edge) -> None:
    times_s: list[float] = []
    with edge.streamed("slow") as response:
        assert response.status == 200
        while line := response.readline():
            if line.startswith(b"data: {"):
                times_s.append(time.monotonic())
    assert len(times_s) >= 12
    assert times_s[-1] - times_s[0] > 0.8, "twelve tokens at ten a second came at once"


def test_a_client_that_leaves_ends_its_work(edge: Edge) -> None:
    with edge.streamed("slow") as response:
        assert response.readline().startswith(b"data: ")
        assert under_way(edge.service) == 1
    until(lambda: under_way(edge.service) == 0)


def test_what_is_for_the_machine_itself_stays_there(edge: Edge) -> None:
    with edge.asked("GET", "/metrics") as response:
        assert response.status == 404
    assert under_way(edge.service) == 0  # and there it is open


def test_a_body_over_the_bound_is_refused_by_the_proxy(edge: Edge) -> None:
    with edge.asked("POST", "/v1/chat/completions", b"a" * 100_001) as response:
        assert response.status == 413


def test_plain_http_is_sent_on(edge: Edge) -> None:
    clear = http.client.HTTPConnection("localhost", edge.clear_port, timeout=30)
    with closing(clear) as connection:
        connection.request("GET", "/v1/models?a=b")
        response = connection.getresponse()
        assert response.status == 308
        assert response.headers["location"] == f"https://localhost:{edge.port}/v1/models?a=b"
