"""Clients that hold on to what is not theirs, over real sockets."""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
import uvloop
from uvicorn.server import ServerState

from murmurate.adapters.http_edge import (
    CONNECTIONS_MAX,
    Edge,
    EdgeLimits,
    HttpEdge,
    connections_max,
)
from murmurate.gateway.exchange import (
    EVENTS,
    ClientGoneError,
    Exchange,
    Receive,
    Scope,
    Send,
)

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
LARGE = b"x" * 8_000_000
"""More than the kernel takes for a client that reads nothing."""

Story = Callable[[], Coroutine[Any, Any, None]]
Run = Callable[[Story], None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a story in either loop; the server runs in uvloop's."""

    def run_it(story: Story) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(story(), 20))

    return run_it


@dataclass
class Served:
    """A server of one application, and how its requests ended."""

    app: Callable[[Exchange], Coroutine[Any, Any, None]]
    write_s: float = 0.1
    ended: list[str] = field(default_factory=list[str])
    refused: list[str] = field(default_factory=list[str])
    seen: list[Scope] = field(default_factory=list[Scope])
    state: ServerState = field(default_factory=ServerState)
    clients: list["Client"] = field(default_factory=list["Client"])
    port: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.seen.append(scope)
        exchange = Exchange(scope, receive, send, write_s=self.write_s)
        try:
            await self.app(exchange)
        except ClientGoneError:
            self.ended.append("gone")
        else:
            self.ended.append("answered")

    @property
    def connections(self) -> int:
        return len(self.state.connections)

    async def connect(self, sent: bytes = b"") -> "Client":
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=4096)
        writer.write(sent)
        client = Client(reader, writer)
        self.clients.append(client)
        return client


@dataclass
class Client:
    """A client's end of a connection; it reads only when told to."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def answer(self) -> bytes:
        """Return the head of an answer without a body."""
        return await self.reader.readuntil(b"\r\n\r\n")

    async def closed(self) -> bytes:
        """Wait until the server has closed the connection; return what was left to read."""
        return await self.reader.read()

    def close(self) -> None:
        self.writer.transport.abort()


@asynccontextmanager
async def edge(
    app: Callable[[Exchange], Coroutine[Any, Any, None]], **limits: Any
) -> AsyncGenerator[Served]:
    told = Served(app)
    shared = Edge(EdgeLimits(**limits), on_refused=told.refused.append)
    config = uvicorn.Config(
        told, http=HttpEdge, ws="none", lifespan="off", log_config=None, access_log=False
    )
    config.load()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: HttpEdge(config=config, server_state=told.state, app_state={}, edge=shared),
        "127.0.0.1",
        0,
    )
    told.port = server.sockets[0].getsockname()[1]
    try:
        yield told
    finally:
        server.close()
        for client in told.clients:
            client.close()
        for connection in list(told.state.connections):
            connection.transport.abort()
        await soon(lambda: not told.connections and not told.state.tasks)


async def soon(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.01)


async def empty(exchange: Exchange) -> None:
    await exchange.answer(200, b"")


async def endless(exchange: Exchange) -> None:
    async def work() -> None:
        await exchange.open(EVENTS)
        while True:
            await exchange.write(b"x" * 50_000)

    await exchange.while_connected(work())


async def large(exchange: Exchange) -> None:
    await exchange.answer(200, LARGE)


def test_a_client_that_stops_reading_a_stream_loses_its_connection(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with edge(endless) as served:
            await served.connect(GET)
            await soon(lambda: served.ended == ["gone"])
            await soon(lambda: served.connections == 0)

    run(story)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_an_end_that_cannot_be_sent_is_given_up_as_well(run: Run) -> None:
    async def stuck_at_the_end(exchange: Exchange) -> None:
        await exchange.open(EVENTS)
        await exchange.write(LARGE)
        await exchange.end()

    async def story() -> None:
        async with edge(stuck_at_the_end) as served:
            await served.connect(GET)
            await soon(lambda: served.ended == ["gone"])
            await soon(lambda: served.connections == 0)

    run(story)


@pytest.mark.parametrize("then", [b"", b"connection: close\r\n"], ids=["kept alive", "closed"])
def test_a_whole_answer_that_nobody_reads_does_not_keep_its_connection(
    run: Run, then: bytes
) -> None:
    async def story() -> None:
        async with edge(large, unread_s=0.1) as served:
            await served.connect(b"GET / HTTP/1.1\r\nhost: a\r\n" + then + b"\r\n")
            await soon(lambda: served.ended == ["answered"])
            await soon(lambda: served.connections == 0)

    run(story)


def test_a_client_that_reads_slowly_gets_its_whole_answer(run: Run) -> None:
    async def story() -> None:
        async with edge(large, unread_s=0.3) as served:
            client = await served.connect(GET)
            await client.answer()
            left = len(LARGE)
            while left:
                left -= len(await client.reader.read(1_000_000))
            assert served.connections == 1

    run(story)


def test_a_pipelining_client_that_leaves_stops_the_request_under_way(run: Run) -> None:
    async def wait(exchange: Exchange) -> None:
        await exchange.body(10)
        await exchange.while_connected(asyncio.sleep(60))

    async def story() -> None:
        async with edge(wait) as served:
            client = await served.connect(GET + GET)
            await soon(lambda: len(served.state.tasks) == 1)
            client.close()
            await soon(lambda: served.ended == ["gone"])

    run(story)


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nhost: a\r\n", b"\r\n", GET + b"GET"])
def test_a_head_that_does_not_come_to_an_end_closes_the_connection(run: Run, sent: bytes) -> None:
    async def story() -> None:
        async with edge(empty, head_s=0.1) as served:
            client = await served.connect(sent)
            left = await client.closed()
            assert served.ended == ["answered"] * (GET in sent)
            assert left.count(b"408 Request Timeout") == (sent not in (b"", b"\r\n"))

    run(story)


def test_a_head_that_comes_drop_by_drop_gets_no_more_time(run: Run) -> None:
    async def story() -> None:
        async with edge(empty, head_s=0.2) as served:
            client = await served.connect(b"GET / HTTP/1.1\r\nx: ")
            await soon(lambda: served.connections == 1)
            async with asyncio.timeout(3):
                while served.connections:
                    if not client.writer.is_closing():
                        client.writer.write(b"a")
                    await asyncio.sleep(0.02)

    run(story)


def test_a_body_that_drips_in_behind_its_answer_gets_no_more_time(run: Run) -> None:
    async def story() -> None:
        async with edge(empty, head_s=0.2) as served:
            head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n"
            client = await served.connect(head)
            await client.answer()
            client.writer.write(b"a")
            await client.closed()

    run(story)


def test_a_connection_in_use_outlives_the_time_of_a_head(run: Run) -> None:
    async def slow(exchange: Exchange) -> None:
        await asyncio.sleep(0.8)
        await exchange.answer(200, b"")

    async def story() -> None:
        async with edge(slow, head_s=0.5, unread_s=0.5) as served:
            client = await served.connect()
            for _ in range(2):
                client.writer.write(GET)
                assert b"200 OK" in await client.answer()
                await asyncio.sleep(0.7)

    run(story)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /" + b"a" * 1500 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nx: " + b"a" * 1500 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nx: " + b"a" * 1500,
        b"GET / HTTP/1.1\r\n" + b"x: a\r\n" * 600,
    ],
    ids=["url", "header", "header without end", "headers"],
)
def test_a_head_over_its_bound_is_refused(run: Run, sent: bytes) -> None:
    async def story() -> None:
        async with edge(empty, head_bytes=1000) as served:
            client = await served.connect(sent[:40])
            await asyncio.sleep(0.02)  # the second piece is read apart from the first
            client.writer.write(sent[40:])
            assert (await client.closed()).startswith(b"HTTP/1.1 431 ")
            assert not served.ended

    run(story)


def test_trailers_over_the_bound_of_a_head_end_the_request(run: Run) -> None:
    async def read(exchange: Exchange) -> None:
        await exchange.body(100)

    async def story() -> None:
        async with edge(read, head_bytes=1000) as served:
            client = await served.connect(
                b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"
            )
            await soon(lambda: len(served.state.tasks) == 1)
            client.writer.write(b"x: a\r\n" * 700)
            await soon(lambda: served.ended == ["gone"])

    run(story)


def test_what_stands_beside_a_chunk_has_an_end(run: Run) -> None:
    async def read(exchange: Exchange) -> None:
        await exchange.body(100)

    async def story() -> None:
        async with edge(read, head_bytes=1000) as served:
            client = await served.connect(POST + CHUNKED + b"\r\n1;")
            await soon(lambda: len(served.state.tasks) == 1)
            client.writer.write(b"a" * 5000)
            assert (await client.closed()).startswith(b"HTTP/1.1 431 ")
            await soon(lambda: served.ended == ["gone"])

    run(story)


def test_a_body_may_be_larger_than_a_head(run: Run) -> None:
    async def echo(exchange: Exchange) -> None:
        size = len(await exchange.body(1_000_000))
        exchange.headers.append((b"x-size", str(size).encode()))
        await exchange.answer(200, b"")

    async def story() -> None:
        async with edge(echo, head_bytes=1000) as served:
            head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 900000\r\n\r\n"
            client = await served.connect(head + b"x" * 900_000)
            assert b"x-size: 900000" in await client.answer()
            client.writer.write(GET)
            assert b"x-size: 0" in await client.answer()

    run(story)


def test_at_the_bound_the_connection_that_has_waited_longest_gives_way(run: Run) -> None:
    async def story() -> None:
        async with edge(empty, connections=2) as served:
            first = await served.connect()
            await soon(lambda: served.connections == 1)
            second = await served.connect(GET)
            await second.answer()
            first.writer.write(b"GET / HTTP/1.1\r\n")  # a head that drips in is still waiting
            third = await served.connect(GET)
            assert b"200 OK" in await third.answer()
            assert await first.closed() == b""
            second.writer.write(GET)
            assert b"200 OK" in await second.answer()
            fourth = await served.connect(GET)  # the second was served after the third
            assert b"200 OK" in await fourth.answer()
            assert await third.closed() == b""
            assert served.refused == ["server.connections"] * 2

    run(story)


def test_a_connection_too_many_is_refused_when_all_others_are_being_served(run: Run) -> None:
    async def story() -> None:
        answer = asyncio.Event()

        async def slow(exchange: Exchange) -> None:
            await answer.wait()
            await exchange.answer(200, b"")

        async with edge(slow, connections=2) as served:
            busy = [await served.connect(GET), await served.connect(GET)]
            await soon(lambda: len(served.state.tasks) == 2)
            third = await served.connect()
            refusal = await third.closed()
            assert refusal.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: 1\r\n" in refusal
            assert b'"code":"server.connections"' in refusal
            answer.set()
            for client in busy:
                assert b"200 OK" in await client.answer()
            fourth = await served.connect(GET)
            assert b"200 OK" in await fourth.answer()

    run(story)


def test_a_connection_that_reads_nothing_is_dropped_when_its_place_is_needed(run: Run) -> None:
    async def story() -> None:
        async with edge(large, connections=1) as served:
            await served.connect(GET)
            await soon(lambda: served.ended == ["answered"])
            second = await served.connect(GET)
            assert b"200 OK" in await second.answer()
            assert served.connections == 1

    run(story)


def test_the_connections_leave_files_for_the_engines() -> None:
    assert 0 < connections_max() <= CONNECTIONS_MAX
    assert connections_max(3) == 3


HOST = b"host: a\r\n"
POST = b"POST / HTTP/1.1\r\n" + HOST
CHUNKED = b"transfer-encoding: chunked\r\n"

MALFORMED = {
    "two ways to tell the length": POST + CHUNKED + b"content-length: 3\r\n\r\n0\r\n\r\n",
    "the other way round": POST + b"content-length: 3\r\n" + CHUNKED + b"\r\n0\r\n\r\n",
    "two lengths": POST + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
    "the same length twice": POST + b"content-length: 3\r\ncontent-length: 3\r\n\r\nabc",
    "a list of lengths": POST + b"content-length: 3, 3\r\n\r\nabc",
    "a length with a sign": POST + b"content-length: +3\r\n\r\nabc",
    "a negative length": POST + b"content-length: -3\r\n\r\nabc",
    "a hexadecimal length": POST + b"content-length: 0x3\r\n\r\nabc",
    "no length": POST + b"content-length: \r\n\r\n",
    "a length beyond 64 bits": POST + b"content-length: 99999999999999999999\r\n\r\n",
    "a coding nobody knows": POST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "two codings": POST + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked is not last": POST + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "two lines of codings": POST + CHUNKED + CHUNKED + b"\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": b"POST / HTTP/1.0\r\n" + HOST + CHUNKED + b"\r\n0\r\n\r\n",
    "a space before the colon": POST + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    "a tab before the value": POST + b"transfer-encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "a negative chunk": POST + CHUNKED + b"\r\n-1\r\na\r\n0\r\n\r\n",
    "a chunk beyond 64 bits": POST + CHUNKED + b"\r\nfffffffffffffffff\r\na\r\n0\r\n\r\n",
    "a chunk with a prefix": POST + CHUNKED + b"\r\n0x1\r\na\r\n0\r\n\r\n",
    "chunks by line feeds": POST + CHUNKED + b"\r\n1\na\n0\n\n",
    "a line feed in a chunk's extension": POST + CHUNKED + b"\r\n1;a\nb\r\na\r\n0\r\n\r\n",
    "a chunk longer than it says": POST + CHUNKED + b"\r\n1\r\nab0\r\n\r\n",
    "a folded header": b"GET / HTTP/1.1\r\n" + HOST + b"x: a\r\n b\r\n\r\n",
    "line feeds": b"GET / HTTP/1.1\nhost: a\n\n",
    "a carriage return": b"GET / HTTP/1.1\r\nhost: a\rx: b\r\n\r\n",
    "a null in a header": b"GET / HTTP/1.1\r\n" + HOST + b"x: a\x00b\r\n\r\n",
    "a null in a name": b"GET / HTTP/1.1\r\n" + HOST + b"x\x00: b\r\n\r\n",
    "a space in a name": b"GET / HTTP/1.1\r\n" + HOST + b"x y: b\r\n\r\n",
    "no name": b"GET / HTTP/1.1\r\n" + HOST + b": b\r\n\r\n",
    "no colon": b"GET / HTTP/1.1\r\n" + HOST + b"x\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\nx: a\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
    "two keys": b"GET / HTTP/1.1\r\n" + HOST + b"authorization: a\r\nAuthorization: b\r\n\r\n",
    "two origins": b"GET / HTTP/1.1\r\n" + HOST + b"origin: a\r\norigin: b\r\n\r\n",
    "bytes in a path": b"GET /\xff\xfe HTTP/1.1\r\n" + HOST + b"\r\n",
    "bytes in a query": b"GET /?\xff\xfe HTTP/1.1\r\n" + HOST + b"\r\n",
    "no UTF-8 in a path": b"GET /%ff%fe HTTP/1.1\r\n" + HOST + b"\r\n",
    "a surrogate in a path": b"GET /%ed%a0%80 HTTP/1.1\r\n" + HOST + b"\r\n",
    "a null in a path": b"GET /a%00 HTTP/1.1\r\n" + HOST + b"\r\n",
    "a line feed in a path": b"GET /a%0d%0Ab HTTP/1.1\r\n" + HOST + b"\r\n",
    "a whole URL": b"GET http://evil.example/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "an asterisk": b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    "a tunnel": b"CONNECT a:80 HTTP/1.1\r\n" + HOST + b"\r\n",
    "no method": b"get / HTTP/1.1\r\n" + HOST + b"\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/2 in plain words": b"GET / HTTP/2.0\r\n" + HOST + b"\r\n",
    "TLS": bytes.fromhex("16030100a5010000a10303"),
}


@pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED)
def test_what_two_readers_could_understand_differently_is_refused(run: Run, sent: bytes) -> None:
    async def echo(exchange: Exchange) -> None:
        await exchange.answer(200, await exchange.body(1000))

    async def story() -> None:
        async with edge(echo) as served:
            client = await served.connect(sent + GET)
            answer = await client.closed()
            assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
            assert answer.count(b"HTTP/1.1 ") == 1, "something behind it was taken for a request"
            assert b'"code":"request.malformed"' in answer
            assert "answered" not in served.ended
            assert served.refused == ["request.malformed"]

    run(story)


def test_what_follows_a_body_in_chunks_is_no_header(run: Run) -> None:
    async def read(exchange: Exchange) -> None:
        await exchange.answer(200, await exchange.body(100))

    async def story() -> None:
        async with edge(read) as served:
            client = await served.connect(
                POST + CHUNKED + b"\r\n1;a=b\r\na\r\n0\r\nauthorization: Bearer x\r\n\r\n"
            )
            assert b"200 OK" in await client.answer()
            names = [name for name, _ in served.seen[0]["headers"]]
            assert names == [b"host", b"transfer-encoding"]

    run(story)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /%E4%BD%A0%20a?x=%ff HTTP/1.1\r\n" + HOST,
        b"GET / HTTP/1.1\r\nhost: a\r\nx: \xff\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: a\r\nx: b\r\n",
        b"GET / HTTP/1.0\r\n",
    ],
    ids=["escapes", "bytes in a header", "an unknown header twice", "HTTP/1.0 without a host"],
)
def test_what_everybody_reads_alike_is_served(run: Run, sent: bytes) -> None:
    async def story() -> None:
        async with edge(empty) as served:
            client = await served.connect(sent + b"\r\n")
            assert b"200 OK" in await client.answer()

    run(story)


def test_a_request_to_change_the_protocol_is_answered_and_is_the_last(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with edge(empty) as served:
            asks = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
            client = await served.connect(asks + GET)
            answer = await client.closed()
            assert answer.count(b"200 OK") == 1
            assert b"connection: close" in answer

    run(story)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /" + b"a" * 300 + b" HTTP/1.1\r\n" + HOST, b"414 "),
        (b"GET / HTTP/1.1\r\n" + HOST + b"x: a\r\n" * 9, b"431 "),
        (b"GET / HTTP/1.1\r\n" + HOST + b"x: " + b"a" * 1100 + b"\r\n", b"431 "),
    ],
    ids=["url", "number of headers", "headers"],
)
def test_each_part_of_a_head_has_its_own_bound(run: Run, sent: bytes, status: bytes) -> None:
    async def story() -> None:
        async with edge(empty, url_bytes=256, headers=9, head_bytes=1000) as served:
            client = await served.connect(sent + b"\r\n")
            answer = await client.closed()
            assert answer.startswith(b"HTTP/1.1 " + status)
            assert b'{"error":{"message":"the ' in answer
            assert not served.ended

    run(story)


PIECES = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b":",
    b"\xff",
    b"%00",
    b"%",
    b"chunked",
    b"0\r\n\r\n",
    b"-1",
    b"content-length: 5\r\n",
    b"transfer-encoding: chunked\r\n",
    b"host: b\r\n",
    b"HTTP/1.1",
    b"connection: upgrade\r\nupgrade: h2c\r\n",
    b"expect: 100-continue\r\n",
    b"?",
    b"//",
    b"a" * 700,
]


@pytest.mark.parametrize("seed", range(8))
def test_requests_broken_at_random_are_answered_or_closed_and_never_a_fault(
    run: Run, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    chance = random.Random(seed)

    def broken() -> bytes:
        whole = chance.choice([GET, POST + b"content-length: 3\r\n\r\nabc", POST + CHUNKED])
        whole += chance.choice([b"", b"\r\n1\r\na\r\n0\r\n\r\n", GET])
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(whole))
            whole = whole[:at] + chance.choice(PIECES) + whole[at + chance.choice([0, 0, 1, 5]) :]
        return whole

    async def echo(exchange: Exchange) -> None:
        await exchange.answer(200, await exchange.body(1000))

    async def story() -> None:
        async with edge(echo, head_bytes=1000, url_bytes=500) as served:
            for _ in range(40):
                client = await served.connect(broken())
                client.writer.write_eof()
                answer = await client.closed()
                assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
                client.close()
            await soon(lambda: not served.connections)
            client = await served.connect(GET)
            assert b"200 OK" in await client.answer()

    run(story)
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]
