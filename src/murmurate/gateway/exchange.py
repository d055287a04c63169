"""One HTTP request and its response, over bare ASGI: no framework on the data plane."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, MutableMapping
from typing import Any, NoReturn
from urllib.parse import parse_qsl

import msgspec

from murmurate.core.errors import (
    BodyTooLargeError,
    MediaTypeError,
    MurmurateError,
    OverloadedError,
    RequestTimeoutError,
)
from murmurate.core.types import Caller
from murmurate.core.waiting import within
from murmurate.gateway.coding import AT_ONCE_BYTES, chosen, compressed
from murmurate.gateway.ports import Action

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Coroutine[Any, Any, None]]
Headers = list[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")
EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")
LINES = (b"content-type", b"application/x-ndjson")

BODIES_BYTES_MAX = 256 * 1024 * 1024
BODY_S_MAX = 30.0
WRITE_S_MAX = 30.0
COMPRESS_BYTES_MIN = 16 * 1024
VARY = (b"vary", b"accept-encoding")
MEDIA_TYPES = (b"application/json", b"text/json")

ABORT = "murmurate.abort"
"""The ASGI extension that drops a connection at once, with all that its client has not read."""


LEAVING = "murmurate.leaving"
"""The ASGI extension that says when the client has left, without anybody waiting for it."""


class ClientGoneError(Exception):
    """The client has left; whatever was being done for it was stopped."""


class Leaving:
    """Whether a request's client has left, and who must know."""

    __slots__ = ("_on_leaving", "has_happened")

    def __init__(self) -> None:
        self.has_happened = False
        self._on_leaving: Callable[[], object] | None = None

    def happens(self) -> None:
        """Note that the client has left."""
        if not self.has_happened:
            self.has_happened = True
            if self._on_leaving is not None:
                self._on_leaving()

    def tell(self, on_leaving: Callable[[], object] | None) -> None:
        """Set whom to call; None for nobody any more."""
        self._on_leaving = on_leaving


class Room:
    """The memory that the bodies of all requests under way may take together."""

    def __init__(self, bytes_max: int = BODIES_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._taken = 0

    def take(self, size: int) -> None:
        """Count a piece of a body, or `OverloadedError`."""
        if self._taken + size > self._bytes_max:
            raise OverloadedError(
                f"the bodies under way take {self._bytes_max} bytes: the most this server holds",
                retry_s=1,
            )
        self._taken += size

    def give_back(self, size: int) -> None:
        """Forget a body whose request is over."""
        self._taken -= size


class Exchange:
    """Reads the request within its bound, writes the response, and notices a client that leaves.

    A client that takes nothing of the response for `write_s` counts as gone (`ClientGoneError`) and
    loses its connection: its answer would keep an engine's slot, and its buffer our memory.
    """

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        body_s: float = BODY_S_MAX,
        write_s: float = WRITE_S_MAX,
        compress_bytes_min: int = COMPRESS_BYTES_MIN,
        room: Room | None = None,
    ) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self._query: bytes = scope.get("query_string", b"")
        self.client: str = (scope.get("client") or ("", 0))[0]
        self.action: Action | None = None
        """What is asked for, once the route was found."""
        self.status = 0
        self.streams: tuple[bytes, bytes] | None = None
        """The content type of a response that comes in pieces, from its begin to its end."""
        self.last_words: Callable[[MurmurateError], bytes] | None = None
        """What a stream says when it breaks off; None: what its content type does."""
        self.ended = False
        """Whether the whole response was sent."""
        self.headers: Headers = []
        """Sent with every response of this exchange."""
        self._in: dict[bytes, bytes] = dict(scope["headers"])
        self._receive = receive
        self._send_unbounded = send
        self._body_s = body_s
        self._write_s = write_s
        self._compress_bytes_min = compress_bytes_min
        self._room = room or Room()
        self._room_taken = 0
        extensions = scope.get("extensions", {})
        self._abort: Callable[[], None] | None = extensions.get(ABORT)
        self._leaving: Leaving | None = extensions.get(LEAVING)

    def header(self, name: bytes) -> bytes | None:
        """Return a request header (`name` in lower case)."""
        return self._in.get(name)

    def query(self) -> dict[str, str]:
        """Return the parameters of the URL; of one that is given twice, the last."""
        return dict(parse_qsl(self._query.decode("latin-1"), keep_blank_values=True))

    async def body(self, bytes_max: int) -> bytes:
        """Return the whole body.

        It counts among the bodies under way until `close`; `OverloadedError` when they take too
        much. `MediaTypeError` where it says that it is no JSON, `BodyTooLargeError` before more
        than the bound is read, `RequestTimeoutError` for a client that never comes to an end: it
        would keep its place among the requests for ever.
        """
        check_media(self._in.get(b"content-type"), self._in.get(b"content-encoding"))
        try:
            return await within(self._body_s, self._body(bytes_max))
        except TimeoutError as cause:
            raise RequestTimeoutError(f"the body was not there after {self._body_s:g} s") from cause

    async def _body(self, bytes_max: int) -> bytes:
        self._check_announced(bytes_max)
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            chunk: bytes = message.get("body", b"")
            size += len(chunk)
            if size > bytes_max:
                raise BodyTooLargeError(f"the body is over the limit of {bytes_max} bytes")
            self._room.take(len(chunk))
            self._room_taken += len(chunk)
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)

    async def pieces(self, bytes_max: int, *, whole_s: float) -> AsyncGenerator[bytes]:
        """Yield the body as it comes: no piece of it is kept here.

        The caller has looked at its media type. `BodyTooLargeError` before more than the bound is
        read; `RequestTimeoutError` where nothing comes for as long as a whole body may take
        elsewhere, or where all of it takes over `whole_s`.
        """
        self._check_announced(bytes_max)
        size, more, ends_s = 0, True, asyncio.get_running_loop().time() + whole_s
        while more:
            left_s = min(self._body_s, ends_s - asyncio.get_running_loop().time())
            try:
                async with asyncio.timeout(left_s):
                    message = await self._receive()
            except TimeoutError as cause:
                raise RequestTimeoutError(
                    f"the body stood still for {self._body_s:g} s, or was not there after"
                    f" {whole_s:g} s"
                ) from cause
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            chunk: bytes = message.get("body", b"")
            size += len(chunk)
            if size > bytes_max:
                raise BodyTooLargeError(f"the body is over the limit of {bytes_max} bytes")
            more = message.get("more_body", False)
            if chunk:
                yield chunk

    def close(self) -> None:
        """Give back the room of the body: the request is over."""
        self._room.give_back(self._room_taken)
        self._room_taken = 0

    async def answer(self, status: int, body: bytes, kind: tuple[bytes, bytes] = JSON) -> None:
        """Send a whole response; a large one compressed, where the client takes that."""
        headers = [kind]
        if len(body) >= self._compress_bytes_min:
            headers.append(VARY)
            if (coding := chosen(self._in.get(b"accept-encoding"))) is not None:
                headers.append((b"content-encoding", coding.encode()))
                if len(body) <= AT_ONCE_BYTES:
                    body = compressed(body, coding)
                else:
                    body = await asyncio.to_thread(compressed, body, coding)
        await self._start(status, [*headers, (b"content-length", str(len(body)).encode())])
        await self._send({"type": "http.response.body", "body": body})
        self.ended = True

    async def answer_json(self, status: int, value: object) -> None:
        """Send a value as JSON."""
        await self.answer(status, msgspec.json.encode(value))

    async def open(self, kind: tuple[bytes, bytes]) -> None:
        """Begin a streamed response with status 200."""
        self.streams = kind
        await self._start(200, [kind, (b"cache-control", b"no-cache")])

    async def write(self, chunk: bytes) -> None:
        """Send a piece of a streamed response; waits while the client reads slowly."""
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end(self) -> None:
        """End a streamed response."""
        self.streams = None
        await self._send({"type": "http.response.body", "body": b""})
        self.ended = True

    def cut(self) -> NoReturn:
        """Drop the connection: what is left of the response will never come."""
        if self._abort is not None:
            self._abort()
        raise ClientGoneError

    def _check_announced(self, bytes_max: int) -> None:
        announced = self._in.get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > bytes_max:
            raise BodyTooLargeError(f"the body has {int(announced)} bytes; the most is {bytes_max}")

    async def while_connected(self, work: Coroutine[Any, Any, None]) -> None:
        """Do the work, but stop it at once when the client leaves (`ClientGoneError`).

        An ASGI server drops what is sent to a client that has gone without a word, so nothing else
        would ever stop the work below. Call it only after the body has been read.
        """
        task = asyncio.current_task()
        assert task is not None  # it is what runs this
        leaving, waiting = self._leaving, None
        if leaving is None:  # this server does not say it by itself
            leaving, waiting = Leaving(), asyncio.ensure_future(self._gone())
            waiting.add_done_callback(_telling(leaving))
        if leaving.has_happened:
            work.close()
            raise ClientGoneError
        leaving.tell(task.cancel)
        try:
            await work
        except BaseException as ending:
            if not leaving.has_happened or task.uncancel():
                raise
            raise ClientGoneError from ending
        finally:
            leaving.tell(None)
            if waiting is not None:
                waiting.cancel()

    async def _gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _start(self, status: int, headers: Headers) -> None:
        self.status = status
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [*headers, *self.headers],
            }
        )

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        try:
            await within(self._write_s, self._send_unbounded(message))
        except TimeoutError as cause:
            self.cut()
            raise ClientGoneError from cause


def at_place(caller: Caller, exchange: Exchange) -> Caller:
    """Return the caller with the address that asked, for the trail."""
    return msgspec.structs.replace(caller, place=exchange.client or None)


def _telling(leaving: Leaving) -> Callable[[asyncio.Task[None]], None]:
    """Return what to do at the end of a task that waits for the client's leaving."""
    return lambda waiting: None if waiting.cancelled() else leaving.happens()


def check_media(kind: bytes | None, coding: bytes | None) -> None:
    """Refuse a body that says it is no JSON, or is compressed; one that says nothing may pass.

    What a page may send anywhere without being asked (a form, plain text) is among those refused.
    """
    check_plain(coding)
    if kind is None:
        return
    name, _, parameters = kind.lower().partition(b";")
    parameters = parameters.replace(b" ", b"").replace(b'"', b"")
    if name.strip() not in MEDIA_TYPES or parameters not in (b"", b"charset=utf-8"):
        shown = kind[:100].decode("latin-1")
        raise MediaTypeError(f"content-type {shown!r}: expected application/json, in UTF-8")


def check_plain(coding: bytes | None) -> None:
    """Refuse a body that is compressed."""
    if coding is not None and coding.strip().lower() != b"identity":
        raise MediaTypeError("content-encoding: the body must not be compressed")
