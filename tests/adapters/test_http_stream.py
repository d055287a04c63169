"""The plain way to an upstream, against a server that says exactly what a test wants."""

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
import uvloop

from murmurate.adapters.http_stream import (
    HEAD_BYTES_MAX,
    UNREAD_BYTES_MAX,
    Response,
    Upstream,
    is_plain,
)
from murmurate.config import Remote

WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Kind: a\r\n\r\nhi"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

Story = Callable[[], Coroutine[Any, Any, None]]
Run = Callable[[Story], None]
Answer = Callable[["Server", asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    def run_it(story: Story) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(story(), 20))

    return run_it


@dataclass
class Server:
    """What was asked, over how many connections, and how many of them are gone."""

    answer: Answer
    asked: list[bytes] = field(default_factory=list[bytes])
    connections: int = 0
    gone: int = 0
    port: int = 0
    upstream: Upstream | None = None

    async def post(self, body: bytes = b"{}", *, seconds: float = 5.0) -> Response:
        assert self.upstream is not None
        soon_s = asyncio.get_running_loop().time() + seconds
        url = f"http://127.0.0.1:{self.port}/v1/chat"
        return await self.upstream.post(url, body, deadline_s=soon_s)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                found = re.search(rb"Content-Length: (\d+)", head)
                assert found is not None
                self.asked.append(head + await reader.readexactly(int(found[1])))
                await self.answer(self, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.gone += 1
            writer.close()


def saying(*pieces: bytes, end: bool = False) -> Answer:
    async def answer(server: Server, writer: asyncio.StreamWriter) -> None:
        del server
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.002)
        if end:
            writer.close()

    return answer


@asynccontextmanager
async def served(answer: Answer, *, keep_s: float = 5.0) -> AsyncGenerator[Server]:
    told = Server(answer)
    listening = await asyncio.start_server(told.serve, "127.0.0.1", 0)
    told.port = listening.sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{told.port}/v1"
    told.upstream = Upstream(url, {"X-Org": "o"}, connect_s=1, keep_s=keep_s)
    try:
        yield told
    finally:
        told.upstream.close()
        listening.close()
        await soon(lambda: told.gone == told.connections)


async def soon(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.005)


async def all_of(response: Response) -> bytes:
    found = b""
    while piece := await response.readany():
        found += piece
    return found


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("http://10.0.0.1:8000/v1", True),
        ("http://vllm.internal", True),
        ("http://[::1]:80/v1", True),
        ("https://llm.example/v1", False),
        ("http://user:word@llm.example/v1", False),
        ("http://llm.example/v1?key=1", False),
        ("http://llm.example/v 1", False),
        ("http://bücher.example/v1", False),
    ],
)
def test_only_plain_urls_are_asked_like_this(url: str, plain: bool) -> None:
    assert is_plain(Remote(url)) is plain
    assert not is_plain(Remote(url, proxy="http://proxy:3128"))


def test_the_request_names_the_host_the_headers_and_the_length(run: Run) -> None:
    async def story() -> None:
        async with served(saying(WHOLE)) as server:
            response = await server.post(b'{"a":1}')
            assert await all_of(response) == b"hi"
            assert (response.status, response.headers["x-kind"]) == (200, "a")
            host = f"Host: 127.0.0.1:{server.port}\r\nX-Org: o\r\nContent-Length: 7"
            asked = f'POST /v1/chat HTTP/1.1\r\n{host}\r\n\r\n{{"a":1}}'
            assert server.asked == [asked.encode()]

    run(story)


def test_a_connection_is_used_again_and_by_one_request_at_a_time(run: Run) -> None:
    async def story() -> None:
        async with served(saying(WHOLE)) as server:
            for _ in range(3):
                assert await all_of(await server.post()) == b"hi"
            assert server.connections == 1
            both = await asyncio.gather(server.post(), server.post())
            assert [await all_of(each) for each in both] == [b"hi", b"hi"]
            assert server.connections == 2

    run(story)


def test_what_is_kept_for_too_long_is_closed(run: Run) -> None:
    async def story() -> None:
        async with served(saying(WHOLE), keep_s=0.03) as server:
            await all_of(await server.post())
            await soon(lambda: server.gone == 1)
            await all_of(await server.post())
            assert server.connections == 2

    run(story)


def test_a_connection_that_the_server_closed_meanwhile_is_not_used(run: Run) -> None:
    async def story() -> None:
        async with served(saying(WHOLE, end=True)) as server:
            await all_of(await server.post())
            await soon(lambda: server.gone == 1)
            await asyncio.sleep(0.01)
            assert await all_of(await server.post()) == b"hi"

    run(story)


@pytest.mark.parametrize("cut", [1, 7])
def test_an_answer_may_be_cut_anywhere(run: Run, cut: int) -> None:
    whole = CHUNKED + b"4\r\nabcd\r\n3\r\nefg\r\n0\r\nTrailer: x\r\n\r\n"
    pieces = [whole[at : at + cut] for at in range(0, len(whole), cut)]

    async def story() -> None:
        async with served(saying(*pieces)) as server:
            response = await server.post()
            assert await all_of(response) == b"abcdefg"
            assert "trailer" not in response.headers
            await all_of(await server.post())
            assert server.connections == 1

    run(story)


def test_an_answer_that_only_says_to_wait_is_passed_over(run: Run) -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"

    async def story() -> None:
        async with served(saying(early + WHOLE)) as server:
            response = await server.post()
            assert (response.status, await all_of(response)) == (200, b"hi")
            assert "link" not in response.headers

    run(story)


def test_an_answer_without_a_length_ends_with_the_connection(run: Run) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream; charset=utf-8\r\n\r\n"

    async def story() -> None:
        async with served(saying(head, b"all", end=True)) as server:
            response = await server.post()
            assert response.content_type == "text/event-stream"
            assert await all_of(response) == b"all"

    run(story)


def test_an_answer_that_breaks_off_fails_behind_what_came(run: Run) -> None:
    async def story() -> None:
        async with served(saying(CHUNKED + b"4\r\nabcd\r\n", end=True)) as server:
            response = await server.post()
            await asyncio.sleep(0.02)
            assert await response.readany() == b"abcd"
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.readany()

    run(story)


def test_a_server_that_leaves_without_an_answer_is_told(run: Run) -> None:
    async def story() -> None:
        async with served(saying(b"HTTP/1.1 2", end=True)) as server:
            with pytest.raises(aiohttp.ServerDisconnectedError):
                await server.post()

    run(story)


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * (HEAD_BYTES_MAX + 100_000),
    ],
)
def test_what_is_no_answer_is_refused(run: Run, said: bytes) -> None:
    async def story() -> None:
        async with served(saying(said)) as server:
            with pytest.raises(aiohttp.ClientPayloadError):
                await server.post()
            await soon(lambda: server.gone == 1)

    run(story)


def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next_one(run: Run) -> None:
    async def story() -> None:
        async with served(saying(WHOLE + WHOLE.replace(b"hi", b"no"))) as server:
            assert await all_of(await server.post()) == b"hi"
            assert await all_of(await server.post()) == b"hi"
            assert server.connections == 2

    run(story)


def test_closing_an_answer_hangs_up_at_once(run: Run) -> None:
    async def story() -> None:
        async with served(saying(CHUNKED + b"4\r\nabcd\r\n")) as server:
            response = await server.post()
            assert await response.readany() == b"abcd"
            response.close()
            await soon(lambda: server.gone == 1)

    run(story)


def test_a_cancelled_request_hangs_up(run: Run) -> None:
    async def story() -> None:
        async with served(saying()) as server:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await server.post()
            await soon(lambda: server.gone == 1)

    run(story)


def test_a_server_that_takes_too_long_to_answer_is_given_up(run: Run) -> None:
    async def story() -> None:
        async with served(saying()) as server:
            with pytest.raises(TimeoutError):
                await server.post(seconds=0.03)
            await soon(lambda: server.gone == 1)

    run(story)


def test_closing_the_upstream_fails_what_is_under_way(run: Run) -> None:
    async def story() -> None:
        async with served(saying(CHUNKED)) as server:
            response = await server.post()
            assert server.upstream is not None
            server.upstream.close()
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.readany()

    run(story)


def test_a_reader_that_is_given_up_on_fails(run: Run) -> None:
    async def story() -> None:
        async with served(saying(CHUNKED)) as server:
            response = await server.post()
            loop = asyncio.get_running_loop()
            loop.call_later(0.01, response.content.set_exception, TimeoutError())
            with pytest.raises(TimeoutError):
                await response.readany()
            response.close()

    run(story)


def test_a_piece_can_be_read_in_parts(run: Run) -> None:
    async def story() -> None:
        async with served(saying(WHOLE)) as server:
            response = await server.post()
            assert [await response.read(1) for _ in range(3)] == [b"h", b"i", b""]

    run(story)


def test_a_server_that_is_faster_than_the_reader_waits(run: Run) -> None:
    size = 30_000_000
    written: list[int] = []

    async def answer(server: Server, writer: asyncio.StreamWriter) -> None:
        del server
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(300):
            writer.write(b"x" * (size // 300))
            await writer.drain()
            written.append(size // 300)

    async def story() -> None:
        async with served(answer) as server:
            response = await server.post()
            await asyncio.sleep(0.1)
            assert sum(written) < size  # what the kernel holds, and not more than that here
            assert len(await response.readany()) < UNREAD_BYTES_MAX * 8
            assert len(await all_of(response)) > size // 2
            assert sum(written) == size

    run(story)


def test_an_upstream_that_is_away_is_told_as_aiohttp_does(run: Run) -> None:
    async def story() -> None:
        away = Upstream("http://127.0.0.1:1/v1", {}, connect_s=1, keep_s=1)
        with pytest.raises(aiohttp.ClientConnectorError, match=r"127\.0\.0\.1:1"):
            await away.post("http://127.0.0.1:1/v1/chat", b"", deadline_s=1e9)
        nameless = Upstream("http://nobody.invalid/v1", {}, connect_s=5, keep_s=1)
        with pytest.raises(aiohttp.ClientConnectorDNSError):
            await nameless.post("http://nobody.invalid/v1/chat", b"", deadline_s=1e9)

    run(story)


def test_a_header_with_a_line_break_is_refused() -> None:
    async def made() -> None:
        Upstream("http://a/v1", {"X-A": "1\r\nX-B: 2"}, connect_s=1, keep_s=1)

    with pytest.raises(ValueError, match="line break"):
        asyncio.run(made())
