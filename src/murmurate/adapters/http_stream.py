"""POST over plain HTTP/1.1, and the answer as it comes: what most upstreams nearby are asked with.

aiohttp does this for every case there is; without TLS, proxies, cookies and redirects it can be had
for a third of the time (benchmarks/gateway.py). Errors are aiohttp's own: whoever asks tells them
apart alike.
"""

import asyncio
import re
import socket
from collections import deque
from collections.abc import Mapping
from typing import cast
from urllib.parse import urlsplit

import aiohappyeyeballs
import aiohttp
import httptools
from aiohttp.client_reqrep import ConnectionKey
from multidict import CIMultiDict

from murmurate.config import Remote

HEAD_BYTES_MAX = 64 * 1024
UNREAD_BYTES_MAX = 128 * 1024
"""More than that stays in the socket until somebody reads."""

NEXT_ADDRESS_S = 0.25
"""When to try the next address of a name beside the one before (RFC 8305)."""

_PLAIN_URL = re.compile(r"http://[\w.:\[\]-]+(/[\w./~-]*)?", re.ASCII)


def is_plain(remote: Remote) -> bool:
    """Say whether a remote can be asked like this: no TLS, no proxy, no name and key in the URL."""
    return remote.proxy is None and _PLAIN_URL.fullmatch(remote.url) is not None


class Upstream:
    """The connections to one server: made when needed, kept for `keep_s`."""

    def __init__(
        self, url: str, headers: Mapping[str, str], *, connect_s: float, keep_s: float
    ) -> None:
        """Take the base URL; `ValueError` for a header that would end before its end."""
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        lines = [
            f"{name}: {value}\r\n" for name, value in {"Host": parts.netloc, **headers}.items()
        ]
        if any(line.count("\r") != 1 or line.count("\n") != 1 for line in lines):
            raise ValueError("a header has a line break")
        self._lines = "".join(lines).encode()
        self._connect_s = connect_s
        self._keep_s = keep_s
        self._loop = asyncio.get_running_loop()
        self._idle: deque[tuple[_Connection, float]] = deque()
        self._all: set[_Connection] = set()
        self._sweeping: asyncio.TimerHandle | None = None

    async def post(self, url: str, data: bytes, *, deadline_s: float) -> "Response":
        """Send the request; return once the answer's head is there. Cancelled, it hangs up.

        `TimeoutError` at the deadline, by the loop's time.
        """
        connection = self._kept() or await self._dial()
        response = Response(connection, self._loop)
        target = urlsplit(url).path.encode("ascii")
        connection.ask(
            response,
            b"POST %b HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b"
            % (target, self._lines, len(data), data),
        )
        late = self._loop.call_at(deadline_s, response.set_exception, TimeoutError())
        try:
            await response.head
        except BaseException:
            connection.abort()
            raise
        finally:
            late.cancel()
        return response

    def close(self) -> None:
        """Close all connections; answers still under way fail."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        for connection in list(self._all):
            connection.abort()

    def keep(self, connection: "_Connection") -> None:
        """Keep a connection for the next request."""
        self._idle.append((connection, self._loop.time() + self._keep_s))
        if self._sweeping is None:
            self._sweeping = self._loop.call_later(self._keep_s, self._sweep)

    def forget(self, connection: "_Connection") -> None:
        """Forget a connection that was closed."""
        self._all.discard(connection)

    def _kept(self) -> "_Connection | None":
        """Return the connection that was used last, if there is one to use."""
        while self._idle:
            connection, until_s = self._idle.pop()
            if connection.is_open and self._loop.time() < until_s:
                return connection
            connection.abort()
        return None

    def _sweep(self) -> None:
        """Close what was kept for too long; the oldest come first."""
        self._sweeping = None
        while self._idle and self._idle[0][1] <= self._loop.time():
            self._idle.popleft()[0].abort()
        if self._idle:
            self._sweeping = self._loop.call_at(self._idle[0][1], self._sweep)

    async def _dial(self) -> "_Connection":
        """Return a new connection, or raise what aiohttp's connector would."""
        key = ConnectionKey(self._host, self._port, False, True, None, None, None)  # noqa: FBT003
        try:
            async with asyncio.timeout(self._connect_s or None):
                found = await self._loop.getaddrinfo(
                    self._host, self._port, type=socket.SOCK_STREAM
                )
                made = await aiohappyeyeballs.start_connection(
                    found, happy_eyeballs_delay=NEXT_ADDRESS_S, interleave=1, loop=self._loop
                )
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                _, connection = await self._loop.create_connection(
                    lambda: _Connection(self), sock=made
                )
        except TimeoutError as cause:
            raise aiohttp.ConnectionTimeoutError(f"no connection to {self._host}") from cause
        except socket.gaierror as cause:
            raise aiohttp.ClientConnectorDNSError(key, cause) from cause
        except OSError as cause:
            raise aiohttp.ClientConnectorError(key, cause) from cause
        self._all.add(connection)
        return connection


class Response:
    """An answer under way: what of aiohttp's response and its `content` we use."""

    __slots__ = (
        "_bytes",
        "_chunks",
        "_connection",
        "_error",
        "_is_whole",
        "_loop",
        "_reader",
        "fields",
        "head",
        "status",
    )

    def __init__(self, connection: "_Connection", loop: asyncio.AbstractEventLoop) -> None:
        self.status = 0
        self.head: asyncio.Future[None] = loop.create_future()
        """Done with the head, or with why it never came."""
        self.fields: list[tuple[str, str]] = []
        self._connection = connection
        self._loop = loop
        self._chunks: list[bytes] = []
        self._bytes = 0
        self._error: BaseException | None = None
        self._is_whole = False
        self._reader: asyncio.Future[None] | None = None

    @property
    def content(self) -> "Response":
        """The body: it is read from the response itself."""
        return self

    @property
    def headers(self) -> CIMultiDict[str]:
        """The answer's headers."""
        return CIMultiDict(self.fields)

    @property
    def content_type(self) -> str:
        """The kind of the body, without its parameters."""
        kind = self.headers.get("Content-Type", "application/octet-stream")
        return kind.partition(";")[0].strip().lower()

    async def readany(self) -> bytes:
        """Return all that is there, waiting for at least a byte; nothing at the end of the body."""
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self._is_whole:
                return b""
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        chunks, self._chunks = self._chunks, []
        if self._bytes > UNREAD_BYTES_MAX:
            self._connection.resume()
        self._bytes = 0
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def read(self, bytes_max: int) -> bytes:
        """Return at most so many bytes of what is there."""
        found = await self.readany()
        if len(found) > bytes_max:
            self._chunks, self._bytes = [found[bytes_max:]], len(found) - bytes_max
        return found[:bytes_max]

    def set_exception(self, error: BaseException) -> None:
        """Let the reader fail, once it has read what is there."""
        self._error = self._error or error
        if not self.head.done():
            self.head.set_exception(error)
        self._wake()

    def close(self) -> None:
        """Hang up, unless the answer was received to its end."""
        if not self._is_whole:
            self._connection.abort()

    # What the connection calls

    def begins(self, status: int) -> None:
        """The head is there."""
        self.status = status
        if not self.head.done():
            self.head.set_result(None)

    def grows(self, data: bytes) -> bool:
        """Take a piece of the body; returns whether there is room for more."""
        self._chunks.append(data)
        self._bytes += len(data)
        self._wake()
        return self._bytes <= UNREAD_BYTES_MAX

    def ends(self) -> None:
        """The body is whole."""
        self._is_whole = True
        self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


class _Connection(asyncio.Protocol):
    """One connection: requests one after another, each with its own response and parser."""

    __slots__ = (
        "_has_end",
        "_has_head",
        "_head_bytes",
        "_parser",
        "_response",
        "_transport",
        "_upstream",
    )

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._response: Response | None = None
        self._head_bytes = 0
        self._has_head = False
        self._has_end = False
        """Whether the answer says where it ends; else it ends with the connection."""

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def ask(self, response: Response, request: bytes) -> None:
        """Send a request; its answer goes to the response."""
        self._response = response
        self._parser = httptools.HttpResponseParser(self)
        self._head_bytes = 0
        self._has_head = self._has_end = False
        assert self._transport is not None  # it was made before
        self._transport.write(request)

    def abort(self) -> None:
        """Close it now; an answer under way fails."""
        if self._transport is not None:
            self._transport.abort()

    def resume(self) -> None:
        """Read on."""
        if self._transport is not None and self.is_open:
            self._transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has no such base

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream.forget(self)
        response, self._response = self._response, None
        if response is None:
            return
        if not self._has_head:
            lost = aiohttp.ClientOSError(*exc.args) if isinstance(exc, OSError) else None
            response.set_exception(lost or aiohttp.ServerDisconnectedError())
        elif self._has_end or exc is not None:
            response.set_exception(aiohttp.ClientPayloadError("the answer was cut"))
        else:
            response.ends()

    def data_received(self, data: bytes) -> None:
        if self._response is None or self._parser is None:
            self.abort()  # nobody has asked
            return
        if not self._has_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as cause:
            self._fail(aiohttp.ClientPayloadError(f"no valid HTTP: {type(cause).__name__}"))
        if not self._has_head and self._head_bytes > HEAD_BYTES_MAX:
            self._fail(aiohttp.ClientPayloadError(f"a head of over {HEAD_BYTES_MAX} bytes"))

    # What the parser calls

    def on_message_begin(self) -> None:
        if self._response is None:
            self.abort()  # behind the answer comes another one: nobody has asked for it

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._response is None or self._has_head:
            return  # a trailer
        low = name.lower()
        self._has_end = self._has_end or low in (b"content-length", b"transfer-encoding")
        self._response.fields.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        assert self._parser is not None  # it is what calls
        status = self._parser.get_status_code()
        if self._response is not None and status >= 200:
            self._has_head = True
            self._has_end = self._has_end or status in (204, 304)
            self._response.begins(status)

    def on_body(self, body: bytes) -> None:
        if self._response is not None and not self._response.grows(body):
            assert self._transport is not None  # it is what reads
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        response, parser, transport = self._response, self._parser, self._transport
        if response is None or parser is None or transport is None:
            return
        if not self._has_head:  # it was one that only says to wait
            response.fields.clear()
            self._has_end = False
            return
        self._response = self._parser = None
        response.ends()
        if parser.should_keep_alive() and not transport.get_write_buffer_size():
            transport.resume_reading()
            self._upstream.keep(self)
        else:
            transport.abort()

    def _fail(self, error: aiohttp.ClientError) -> None:
        if self._response is not None:
            self._response.set_exception(error)
        self.abort()
