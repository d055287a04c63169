"""The way to another server: TLS, proxies, headers, and which step failed."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from murmurate.adapters.remote import (
    connector_to,
    open_session,
    retry_after_s,
    said_by,
    tls_context,
    why_unreachable,
)
from murmurate.config import Remote
from murmurate.core.errors import ConfigError
from tests.adapters.remote_server import Handler, server

TLS = Path(__file__).parents[1] / "fixtures" / "tls"
"""A certificate for 127.0.0.1 with its key, and who signed it: made for tests, protects nothing."""


def certificate() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "server.pem")
    return context


async def hello(_: web.Request) -> web.StreamResponse:
    return web.Response(text="hello")


async def fetched(remote: Remote) -> str:
    session = open_session(
        remote, connector=connector_to(tls_context(remote)), connect_s=5, accept="text/plain"
    )
    async with session, session.get(remote.url) as response:
        response.raise_for_status()
        return await response.text()


def outcome(handler: Handler, ask: Callable[[str], Awaitable[str]], *, tls: bool = False) -> str:
    """Return what was answered, or at which step it failed."""

    async def run() -> str:
        async with server(handler, tls=certificate() if tls else None) as url:
            try:
                return await ask(url)
            except (aiohttp.ClientError, TimeoutError) as error:
                return why_unreachable(error)

    return asyncio.run(run())


def test_a_certificate_of_ones_own_is_trusted_where_its_file_is_named() -> None:
    ca_file = str(TLS / "ca.pem")
    said = outcome(hello, lambda url: fetched(Remote(url, ca_file=ca_file)), tls=True)
    assert said == "hello"


def test_a_certificate_that_is_not_trusted_says_so() -> None:
    said = outcome(hello, lambda url: fetched(Remote(url)), tls=True)
    assert said.startswith("TLS: its certificate is not trusted: ")
    assert "certificate" in said.removeprefix("TLS: its certificate is not trusted: ")


def test_https_at_a_port_without_it_says_so() -> None:
    said = outcome(hello, lambda url: fetched(Remote(url.replace("http:", "https:"))))
    assert said == "TLS: no agreement; is it https, and the port right?"


def test_a_name_that_nobody_knows_is_not_a_connection_that_failed() -> None:
    said = outcome(hello, lambda _: fetched(Remote("http://nobody.invalid/v1")))
    assert said == "DNS: its name is not known"


def test_a_port_that_nobody_listens_on_is_a_connection_that_failed() -> None:
    async def ask(_: str) -> str:
        async with server(hello) as gone:
            pass
        return await fetched(Remote(gone))

    assert outcome(hello, ask).startswith("no connection: Connect")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "no certificate"), (b"not PEM", "no certificate"), (None, "No such file")],
)
def test_a_file_without_certificates_stops_the_start(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        tls_context(Remote("https://h/v1", ca_file=str(path)))


def test_a_proxy_is_used_where_it_is_configured_and_its_password_sent() -> None:
    seen: list[tuple[str, str | None]] = []

    async def proxy(request: web.Request) -> web.StreamResponse:
        seen.append((str(request.url), request.headers.get("Proxy-Authorization")))
        return web.Response(text="by proxy")

    async def ask(url: str) -> str:
        way = url.removesuffix("/v1").replace("http://", "http://u:pw@")
        return await fetched(Remote("http://far.invalid/v1", proxy=way))

    assert outcome(proxy, ask) == "by proxy"
    assert seen == [("http://far.invalid/v1", "Basic dTpwdw==")]


def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert outcome(hello, lambda url: fetched(Remote(url))) == "hello"


def test_a_proxy_that_is_away_or_refuses_says_so() -> None:
    away = Remote("https://h.invalid/v1", proxy="http://127.0.0.1:1")
    assert outcome(hello, lambda _: fetched(away)) == "the proxy does not answer"

    async def ask(url: str) -> str:
        return await fetched(Remote("https://h.invalid/v1", proxy=url.removesuffix("/v1")))

    # The server takes no CONNECT: to it, that is a path that it does not have.
    assert outcome(hello, ask) == "the proxy refuses: 404"


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        ("7", 7),
        ("0.5", 0.5),
        ("999", 60),
        ("-3", 0),
        ("soon", 1),
        ("nan", 1),
        ("inf", 1),
        ("", 1),
        (formatdate(1_000_020, usegmt=True), 20),
        (formatdate(999_000, usegmt=True), 0),
        ("Sat, 99 Nov 2026 00:00:00 GMT", 1),
    ],
)
def test_a_server_says_for_how_long_it_wants_to_be_left_alone(text: str, wait_s: float) -> None:
    headers = {"Retry-After": text} if text else {}
    assert retry_after_s(headers, unix_ms=1_000_000_000) == wait_s


def test_a_refusal_that_repeats_the_key_does_not_show_it() -> None:
    remote = Remote("https://h/v1", "sk-secret-1")
    cut = b"x" * 295 + b"sk-secret-1"
    for body in (b'{"error": {"message": "bad key sk-secret-1"}}', b"<p>sk-secret-1", cut):
        assert "sk-" not in said_by(remote, body).detail
    assert said_by(remote, b"\xff").detail == "�"
