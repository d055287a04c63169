"""The edge to the clients: uvicorn's HTTP protocol, with a bound on whatever a stranger can hold.

No key is checked before a request's head is whole, so time, bytes and connections are bounded here,
and what two readers could understand differently is refused: a proxy in front may be the other one.
"""

import asyncio
import re
import resource
import urllib.parse
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, cast

import msgspec
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from murmurate.core.errors import (
    ConnectionsFullError,
    HeadTooLargeError,
    MalformedRequestError,
    MurmurateError,
    RequestTimeoutError,
    UrlTooLongError,
)
from murmurate.core.types import Frozen
from murmurate.gateway.chat import error_body
from murmurate.gateway.exchange import ABORT, LEAVING, Leaving

CONNECTIONS_MAX = 4096
VERSIONS = ("1.0", "1.1")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")

ONCE = frozenset(
    {
        b"authorization",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"host",
        b"origin",
        b"traceparent",
        b"transfer-encoding",
        b"x-murmurate-lane",
        b"x-murmurate-session",
    }
)
"""Headers that mean something here: given twice, two readers could take different ones."""


def connections_max(wanted: int = CONNECTIONS_MAX) -> int:
    """Return how many connections this process can afford: each may need an engine's as well."""
    files_max, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if files_max < 0 else min(wanted, files_max // 2)


class EdgeLimits(Frozen, frozen=True):
    """What a client may hold without being served."""

    head_s: float = 10.0
    """For a request's head, from the connection or from its first bytes on a used one."""

    head_bytes: int = 64 * 1024
    """For the URL, the headers and the trailers of one request together."""

    headers: int = 100
    url_bytes: int = 8 * 1024

    unread_s: float = 30.0
    """How long an answer that is ready may lie unread, without the client taking any of it."""

    connections: int = CONNECTIONS_MAX


class Edge:
    """What all connections of a server share: the bounds, and who waits without a request."""

    def __init__(self, limits: EdgeLimits, *, on_refused: Callable[[str], None]) -> None:
        self.limits = limits
        self.refused = on_refused
        """Told the code of each refusal at the edge; it must bound what it does with them."""
        self.waiting: dict[HttpEdge, None] = {}
        """In the order in which they began to wait."""

    def make_room(self) -> bool:
        """Close the connection that has waited longest; false when none waits."""
        longest = next(iter(self.waiting), None)
        if longest is None:
            return False
        longest.give_way()
        return True


class HttpEdge(HttpToolsProtocol):
    """One connection of a client."""

    def __init__(self, *args: Any, edge: Edge, **kwargs: Any) -> None:  # noqa: ANN401 - as uvicorn calls it
        super().__init__(*args, **kwargs)
        self._edge = edge
        self._limits = edge.limits
        self._answering: RequestResponseCycle | None = None
        self._leaving = Leaving()
        """That of the request that is being answered."""
        self._refusal: MurmurateError | None = None
        """Why the parser was stopped, where it was by us."""
        self._head_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._unread_bytes = 0
        self._in_head = False
        self._head_bytes = 0
        self._held_bytes = 0
        """Received since the parser last handed something over: it may be keeping all of them."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        """Take the connection; when there are too many, in place of one that only waits."""
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections and not self._edge.make_room():
            self._refuse(
                ConnectionsFullError(
                    f"{self._limits.connections} connections are in use: the most this server takes"
                )
            )
            return
        self._edge.waiting[self] = None
        self._expect_head()
        self._check_unread()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers and tell the request under way."""
        self._edge.waiting.pop(self, None)
        self._head_is_there()
        if self._unread_timer is not None:
            self._unread_timer.cancel()
        super().connection_lost(exc)
        self._leave()

    def data_received(self, data: bytes) -> None:
        """Parse the next bytes, within the bounds of a head."""
        if self.transport.is_closing():
            return  # refused already: whatever still comes is nobody's
        self._held_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._held_bytes > self._limits.head_bytes:
            self._refuse(self._head_too_large())
        elif not self._busy():
            self._expect_head()

    def give_way(self) -> None:
        """Close this waiting connection: its place is needed."""
        self._edge.waiting.pop(self, None)
        self._edge.refused(ConnectionsFullError.code)
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # its client reads nothing: it would not go by itself
        else:
            self.transport.close()

    def abort(self) -> None:
        """Drop the connection with whatever the client has not read; its request is over."""
        self._leave()
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Refuse what can't be parsed."""
        del msg
        self._refuse(self._refusal or MalformedRequestError("this is not valid HTTP/1.1"))

    def _refuse(self, error: MurmurateError) -> None:
        """Answer with the error and close, unless an answer is being sent: it'd land inside it."""
        self._edge.waiting.pop(self, None)
        self._edge.refused(error.code)
        if self._busy():
            if self.pipeline or self.cycle.response_started or self._answering is not self.cycle:
                self.abort()
                return
            self._leave()  # the application's own answer is dropped from here on
        self.transport.write(response(error))
        self.transport.close()

    # What the parser calls

    def on_message_begin(self) -> None:
        """Begin to count."""
        self._head_bytes = 0
        self._in_head = True
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Take a piece of the URL."""
        super().on_url(url)
        if len(self.url) > self._limits.url_bytes:
            most = self._limits.url_bytes
            self._stop(UrlTooLongError(f"the URL is over the limit of {most} bytes"))
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header. A trailer behind a body in chunks is only counted.

        uvicorn would put it among the headers: past whatever a proxy in front has checked there.
        """
        self._count(len(name) + len(value))
        if not self._in_head:
            return
        super().on_header(name, value)
        if len(self.headers) > self._limits.headers:
            self._stop(self._head_too_large())

    def on_headers_complete(self) -> None:
        """Start the request, or queue it behind the one under way."""
        self._held_bytes = 0
        self._unread_bytes = 0
        self._in_head = False
        parser = self.parser
        assert parser is not None  # it is what calls
        wrong = ambiguity(parser.get_http_version(), self.url, self.headers)
        if wrong is not None:
            self._stop(MalformedRequestError(wrong))
        self._edge.waiting.pop(self, None)
        super().on_headers_complete()
        if parser.should_upgrade() and not self._should_upgrade():
            # There is nothing to upgrade to, and the parser reads no further request.
            self.cycle.keep_alive = False
        self._head_is_there()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._held_bytes = 0
        super().on_body(body)

    def _count(self, size: int) -> None:
        self._held_bytes = 0
        self._head_bytes += size
        if self._head_bytes > self._limits.head_bytes:
            self._stop(self._head_too_large())

    def _head_too_large(self) -> HeadTooLargeError:
        most, count = self._limits.head_bytes, self._limits.headers
        return HeadTooLargeError(f"the headers are over the limit of {most} bytes or {count} lines")

    def _stop(self, error: MurmurateError) -> None:
        """Stop the parser; `send_400_response` says why."""
        self._refusal = error
        raise error

    # What uvicorn calls

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Hand the application what ASGI itself lacks: to abort, and to hear of its client."""
        self._answering, self._leaving = cycle, Leaving()
        cycle.transport = cast("asyncio.Transport", _HeadFirst(self.transport, self.loop))
        own: dict[str, Any] = {ABORT: self.abort, LEAVING: self._leaving}
        cycle.scope["extensions"] = own  # type: ignore[typeddict-item] # our own
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """Go on with the next request; half a head behind the last one has no idle time left."""
        super().on_response_complete()
        if self._busy() or self.transport.is_closing():
            return
        self._edge.waiting[self] = None
        if self._in_head:
            self._unset_keepalive_if_required()
            self._expect_head()

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: a stranger could fill the log with it."""

    # Time

    def _busy(self) -> bool:
        """Say whether a request is under way: from then on the application bounds its time."""
        return self.cycle is not None and not self.cycle.response_complete  # type: ignore[redundant-expr]

    def _expect_head(self) -> None:
        """Start the time of a head; further bytes of it do not start it anew."""
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self._limits.head_s, self._head_is_late)

    def _head_is_late(self) -> None:
        """Close a connection that brought nothing; one that began a request is told why."""
        self._head_timer = None
        if self._in_head and not self.transport.is_closing():
            self._refuse(
                RequestTimeoutError(f"the headers were not there after {self._limits.head_s:g} s")
            )
        else:
            self.transport.close()

    def _head_is_there(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _check_unread(self) -> None:
        """Abort when nothing was read since the last check, though nothing more is written.

        A transport that is closed stays open until its buffer is read, and that may be never.
        """
        left = self.transport.get_write_buffer_size()
        if self._busy() and not self.transport.is_closing():
            left = 0
        if left and left == self._unread_bytes:
            self.abort()
            return
        self._unread_bytes = left
        self._unread_timer = self.loop.call_later(self._limits.unread_s, self._check_unread)

    def _leave(self) -> None:
        """Tell the request under way that its client is gone.

        uvicorn tells only the last one received, which with pipelining is another.
        """
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()
            self._leaving.happens()


class _HeadFirst:
    """A transport for one response: its head goes out together with what is written right after it.

    That is one write to the system, and one thing to read for the client, instead of two.
    """

    __slots__ = ("_head", "_loop", "_transport", "is_closing", "write")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head: bytes | None = None
        self.write: Callable[[bytes], None] = self._write_head
        self.is_closing = transport.is_closing

    def close(self) -> None:
        """Close it, once all is written."""
        self._flush()
        self._transport.close()

    def _write_head(self, data: bytes) -> None:
        self._head = data
        self.write = self._write_rest
        self._loop.call_soon(self._flush)

    def _write_rest(self, data: bytes) -> None:
        head, self._head = self._head, None
        self.write = self._transport.write
        self._transport.write(data if head is None else head + data)

    def _flush(self) -> None:
        """Write a head behind which nothing came yet."""
        if self._head is not None and not self._transport.is_closing():
            self._write_rest(b"")


def ambiguity(version: str, url: bytes, headers: list[tuple[bytes, bytes]]) -> str | None:
    """Return what two readers of this head could understand differently, None when nothing.

    The parser has refused most of it before: two lengths, a folded header, a bare line feed.
    """
    if version not in VERSIONS:
        return f"HTTP/{version} is not spoken here, only HTTP/1.1"
    if not url.startswith(b"/"):
        return "expected a path in the first line, such as /v1/models"
    given = dict(headers)
    if len(given) < len(headers):
        names = [name for name, _ in headers]
        twice = next((name for name in names if name in ONCE and names.count(name) > 1), None)
        if twice is not None:
            return f"the header {twice.decode()} is there twice"
    if version == "1.1" and b"host" not in given:
        return "the header host is missing"
    coding = given.get(b"transfer-encoding")
    if coding is not None:
        if coding.strip().lower() != b"chunked" or version == "1.0":
            return "transfer-encoding: only chunked is taken, and only with HTTP/1.1"
        if b"content-length" in given:
            return "content-length beside transfer-encoding"
    return _wrong_in(url.partition(b"?")[0]) if b"%" in url else None


def _wrong_in(path: bytes) -> str | None:
    """Return what is wrong with the escapes of a path: no text, or characters nobody sees."""
    try:
        text = urllib.parse.unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        return "the path is not UTF-8"
    return "the path has a control character" if CONTROL.search(text) else None


def response(error: MurmurateError) -> bytes:
    """Return the error as a whole response, the last one on its connection."""
    body = msgspec.json.encode(error_body(error))
    again = b"retry-after: 1\r\n" if error.http_status == HTTPStatus.SERVICE_UNAVAILABLE else b""
    reason = HTTPStatus(error.http_status).phrase.encode()
    return (
        b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
        b"%sconnection: close\r\n\r\n%s"
    ) % (error.http_status, reason, len(body), again, body)
