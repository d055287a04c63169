"""The edge to the clients: uvicorn's HTTP protocol, with a bound on whatever a stranger can hold.

No key is checked before a request's head is whole, so time, bytes and connections are bounded here.
"""

import asyncio
import resource
from typing import Any, ClassVar

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from murmurate.core.types import Frozen
from murmurate.gateway.exchange import ABORT

CONNECTIONS_MAX = 4096
HEAD_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)


def connections_max() -> int:
    """Return how many connections this process can afford: each may need an engine's as well."""
    files_max, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return CONNECTIONS_MAX if files_max < 0 else min(CONNECTIONS_MAX, files_max // 2)


class EdgeLimits(Frozen, frozen=True):
    """What a client may hold without being served."""

    head_s: float = 10.0
    """For a request's head, from the connection or from its first bytes on a used one."""

    head_bytes: int = 64 * 1024
    """For the URL, the headers and the trailers of one request together."""

    unread_s: float = 30.0
    """How long an answer that is ready may lie unread, without the client taking any of it."""

    connections: int = CONNECTIONS_MAX


class HeadTooLargeError(Exception):
    """Stops the parser; the client gets status 431."""


class HttpEdge(HttpToolsProtocol):
    """One connection of a client."""

    limits: ClassVar[EdgeLimits] = EdgeLimits(connections=connections_max())

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as uvicorn calls it
        super().__init__(*args, **kwargs)
        self._answering: RequestResponseCycle | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._unread_bytes = 0
        self._in_head = False
        self._head_bytes = 0
        self._held_bytes = 0
        """Received since the parser last handed something over: it may be keeping all of them."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        """Take the connection, or close it at once when there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self.connections.discard(self)
            transport.close()
            return
        self._expect_head()
        self._check_unread()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers and tell the request under way."""
        self._head_is_there()
        if self._unread_timer is not None:
            self._unread_timer.cancel()
        super().connection_lost(exc)
        self._leave()

    def data_received(self, data: bytes) -> None:
        """Parse the next bytes, within the bounds of a head."""
        self._held_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._held_bytes > self.limits.head_bytes:
            self.send_400_response("")
        elif not self._busy():
            self._expect_head()

    def abort(self) -> None:
        """Drop the connection with whatever the client has not read; its request is over."""
        self._leave()
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Refuse what can't be parsed, unless an answer is being sent: it would land inside it."""
        if self._busy():
            self.abort()
        elif max(self._head_bytes, self._held_bytes) > self.limits.head_bytes:
            self.transport.write(HEAD_TOO_LARGE)
            self.transport.close()
        else:
            super().send_400_response(msg)

    # What the parser calls

    def on_message_begin(self) -> None:
        """Begin to count."""
        self._head_bytes = 0
        self._in_head = True
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Take a piece of the URL."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, or a trailer behind a body in chunks."""
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the request, or queue it behind the one under way."""
        self._held_bytes = 0
        self._unread_bytes = 0
        self._in_head = False
        super().on_headers_complete()
        self._head_is_there()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._held_bytes = 0
        super().on_body(body)

    def _count(self, size: int) -> None:
        self._held_bytes = 0
        self._head_bytes += size
        if self._head_bytes > self.limits.head_bytes:
            raise HeadTooLargeError

    # What uvicorn calls

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Hand the application a way to abort, which ASGI itself lacks."""
        self._answering = cycle
        cycle.scope["extensions"] = {ABORT: self.abort}  # type: ignore[typeddict-item] # our own
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """Go on with the next request; half a head behind the last one has no idle time left."""
        super().on_response_complete()
        if self._in_head and not self._busy() and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._expect_head()

    # Time

    def _busy(self) -> bool:
        """Say whether a request is under way: from then on the application bounds its time."""
        return self.cycle is not None and not self.cycle.response_complete  # type: ignore[redundant-expr]

    def _expect_head(self) -> None:
        """Start the time of a head; further bytes of it do not start it anew."""
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.limits.head_s, self.transport.close)

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
        self._unread_timer = self.loop.call_later(self.limits.unread_s, self._check_unread)

    def _leave(self) -> None:
        """Tell the request under way that its client is gone.

        uvicorn tells only the last one received, which with pipelining is another.
        """
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()
