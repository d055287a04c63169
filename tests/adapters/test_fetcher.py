"""Fetches against real servers on loopback that misbehave, and against names that change."""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from murmurate.adapters.fetcher import HttpFetcher
from murmurate.core.errors import FetchFailedError, FetchRefusedError
from murmurate.core.fetch import Fetch, Fetched
from murmurate.core.reach import Reach

TLS = Path(__file__).parents[1] / "fixtures" / "tls"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Client = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(
    client: Client, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncGenerator[int]:
    """Serve TCP on loopback, yield the port; clients that hang are ended with the server."""
    tasks: set[asyncio.Task[Any]] = set()

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await client(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(served, host, 0, ssl=tls)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def saying(*parts: bytes, seen: list[bytes] | None = None) -> Client:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if seen is not None:
            seen.append(head)
        for part in parts:
            writer.write(part)
            await writer.drain()

    return client


def names(*answers: Sequence[str]) -> tuple[Callable[[str], Awaitable[Sequence[str]]], list[str]]:
    """Return a resolver that gives one answer after the other, and what it was asked."""
    left, asked = list(answers), list[str]()

    async def resolve(host: str) -> Sequence[str]:
        asked.append(host)
        if not left:
            raise OSError("asked again")
        return left.pop(0)

    return resolve, asked


def play(story: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await story()

    asyncio.run(whole())


def reaching(port: int, *allow: str) -> Reach:
    return Reach.of(allow or ["127.0.0.0/8"], [port, 80, 443])


async def fetched(url: str, fetcher: HttpFetcher, **settings: Any) -> Fetched:
    try:
        defaults: dict[str, Any] = {"whole_s": 5.0}
        return await fetcher.fetch(Fetch(target=fetcher.target(url), **{**defaults, **settings}))
    finally:
        await fetcher.close()


def test_a_request_is_sent_as_it_is_and_the_answer_comes_back() -> None:
    async def story() -> None:
        seen: list[bytes] = []
        async with server(saying(b"HTTP/1.1 418 No\r\nX-A: b\r\n\r\nshort", seen=seen)) as port:
            found = await fetched(
                f"http://127.0.0.1:{port}/a%2Fb?c=%20d",
                HttpFetcher(reaching(port)),
                method="POST",
                headers={"webhook-id": "1"},
                body=b"{}",
            )
        assert (found.status, found.headers["x-a"], found.body) == (418, "b", b"short")
        head = seen[0].decode()
        assert head.startswith(f"POST /a%2Fb?c=%20d HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n")
        assert "webhook-id: 1" in head
        assert "Accept-Encoding: identity" in head

    play(story)


def test_a_redirect_is_an_answer_like_any_other() -> None:
    async def story() -> None:
        seen: list[bytes] = []
        moved = (
            b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n"
        )
        async with server(saying(moved, seen=seen)) as port:
            found = await fetched(f"http://127.0.0.1:{port}/", HttpFetcher(reaching(port)))
        assert (found.status, len(seen)) == (302, 1)

    play(story)


@pytest.mark.parametrize("head", [b"", b"Content-Length: 999999999\r\n"])
def test_of_a_huge_body_only_its_beginning_is_read(head: bytes) -> None:
    async def story() -> None:
        sent = 0

        async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n")
            while True:
                writer.write(bytes(65536))
                await writer.drain()
                sent += 65536

        async with server(client) as port:
            found = await fetched(
                f"http://127.0.0.1:{port}/", HttpFetcher(reaching(port)), bytes_max=1000
            )
            assert (found.body, found.cut) == (bytes(1000), True)
            async with asyncio.timeout(5):
                before = -1
                while sent != before:  # the connection is closed: it can't send on
                    before = sent
                    await asyncio.sleep(0.05)
        assert sent < 50_000_000

    play(story)


def test_a_body_in_a_compression_that_nobody_asked_for_stays_as_it_is() -> None:
    async def story() -> None:
        bomb = b"\x1f\x8b\x08\x00"
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n"
        async with server(saying(head, bomb)) as port:
            found = await fetched(f"http://127.0.0.1:{port}/", HttpFetcher(reaching(port)))
        assert found.body == bomb

    play(story)


async def hanging(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        writer.write(b"a")
        await writer.drain()
        await asyncio.sleep(0.02)


async def dripping_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    await dripping(reader, writer)


@pytest.mark.parametrize("client", [hanging, dripping, dripping_body])
def test_whoever_is_slow_is_left_when_the_time_is_over(client: Client) -> None:
    async def story() -> None:
        async with server(client) as port:
            began_s = asyncio.get_running_loop().time()
            with pytest.raises(FetchFailedError, match=r"did not answer within 0\.3 s"):
                await fetched(f"http://127.0.0.1:{port}/", HttpFetcher(reaching(port)), whole_s=0.3)
            assert asyncio.get_running_loop().time() - began_s < 2

    play(story)


async def resetting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


@pytest.mark.parametrize(
    "client",
    [
        resetting,
        saying(),
        saying(b"220 smtp ready\r\n\r\n"),
        saying(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbroken"),
        saying(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 20_000 + b"\r\n\r\n"),
        saying(b"HTTP/1.1 999999 OK\r\n\r\n"),
    ],
)
def test_whoever_breaks_off_or_speaks_no_http_has_failed(client: Client) -> None:
    async def story() -> None:
        async with server(client) as port:
            with pytest.raises(
                FetchFailedError, match=f"http://127.0.0.1:{port} cannot be fetched"
            ):
                await fetched(f"http://127.0.0.1:{port}/x?secret", HttpFetcher(reaching(port)))
        with pytest.raises(FetchFailedError, match="no connection"):
            await fetched(f"http://127.0.0.1:{port}/", HttpFetcher(reaching(port)))

    play(story)


def test_a_name_is_looked_up_once_and_connected_to_where_it_was_judged() -> None:
    async def story() -> None:
        seen: list[bytes] = []
        resolve, asked = names(["127.0.0.2"], ["127.0.0.1"])
        async with server(saying(OK, seen=seen), host="127.0.0.2") as port:
            fetcher = HttpFetcher(reaching(port, "127.0.0.2/32"), resolve=resolve)
            found = await fetched(f"http://rebind.example:{port}/", fetcher)
        assert (found.body, asked) == (b"ok", ["rebind.example"])
        assert f"Host: rebind.example:{port}".encode() in seen[0]

    play(story)


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["169.254.169.254"],
        ["127.0.0.2", "10.0.0.1"],
        ["::ffff:127.0.0.2"],
        ["fe80::1%eth0"],
    ],
)
def test_a_name_with_an_address_that_may_not_be_reached_is_refused(addresses: list[str]) -> None:
    async def story() -> None:
        resolve, _ = names(addresses)
        seen: list[bytes] = []
        async with server(saying(OK, seen=seen), host="127.0.0.2") as port:
            fetcher = HttpFetcher(reaching(port, "127.0.0.2/32"), resolve=resolve)
            with pytest.raises(FetchRefusedError, match=r"inside\.example: .* is not an address"):
                await fetched(f"http://inside.example:{port}/", fetcher)
        assert seen == []

    play(story)


def test_a_target_from_elsewhere_is_judged_again() -> None:
    async def story() -> None:
        async with server(saying(OK)) as port:
            target = Reach.of(["127.0.0.0/8"], [port]).target(f"http://127.0.0.1:{port}/")
            with pytest.raises(FetchRefusedError, match=r"127\.0\.0\.1 is not an address"):
                await HttpFetcher(Reach()).fetch(Fetch(target=target))

    play(story)


@pytest.mark.parametrize("answer", [[], None])
def test_a_name_without_addresses_is_not_known(answer: list[str] | None) -> None:
    async def story() -> None:
        resolve, _ = names() if answer is None else names(answer)
        with pytest.raises(FetchFailedError, match=r"DNS: the name nowhere\.example"):
            await fetched("https://nowhere.example/", HttpFetcher(Reach(), resolve=resolve))

    play(story)


def test_the_systems_own_resolver_knows_this_machine_which_is_refused() -> None:
    async def story() -> None:
        with pytest.raises(FetchRefusedError, match=r"localhost: .* is not an address"):
            await fetched("http://localhost/", HttpFetcher(Reach()))
        async with server(saying(OK)) as port:
            fetcher = HttpFetcher(reaching(port, "127.0.0.0/8", "::1/128"))
            assert (await fetched(f"http://localhost:{port}/", fetcher)).body == b"ok"

    play(story)


def test_the_environments_proxy_sees_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        through_proxy: list[bytes] = []
        async with server(saying(OK, seen=through_proxy)) as proxy, server(saying(OK)) as port:
            for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{proxy}")
            found = await fetched(f"http://127.0.0.1:{port}/", HttpFetcher(reaching(port)))
        assert (found.body, through_proxy) == (b"ok", [])

    play(story)


def test_a_certificate_is_for_the_name_whatever_the_address() -> None:
    async def story() -> None:
        own = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        own.load_cert_chain(TLS / "server.pem")
        trusting = ssl.create_default_context(cafile=str(TLS / "ca.pem"))
        async with server(saying(OK), tls=own) as port:

            async def ask(host: str, tls: ssl.SSLContext | None) -> Fetched:
                resolve, _ = names(["127.0.0.1"])
                fetcher = HttpFetcher(reaching(port), tls=tls, resolve=resolve)
                return await fetched(f"https://{host}:{port}/", fetcher)

            assert (await ask("localhost", trusting)).body == b"ok"
            with pytest.raises(FetchFailedError, match="TLS: its certificate is not trusted"):
                await ask("other.example", trusting)
            with pytest.raises(FetchFailedError, match="TLS: its certificate is not trusted"):
                await ask("localhost", None)

    play(story)
