"""One HTTP request from the client's side: what it sends, when it leaves, and what came back.

It behaves as uvicorn does towards the application: what is sent to a client that has gone is
dropped without a word, and `receive` says so; after the last byte of a response it says the same.
"""

import asyncio
import contextlib
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any

from tests.sim.loop import VirtualClock, VirtualLoop

NOT_ADMITTED = ("rate_limit_exceeded", "server.draining")

Message = MutableMapping[str, Any]


@dataclass(slots=True, kw_only=True)
class Ask:
    """What a client sends, and how long it stays."""

    method: str = "POST"
    path: str = "/v1/chat/completions"
    headers: dict[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""
    pieces: int = 1
    read_s: float = 0.0
    """How long it takes to read each piece of a streamed answer."""
    leaves_after_s: float | None = None
    leaves_at_s: float | None = None
    leaves_after_pieces: int | None = None
    counted: bool = True
    """Whether it gets as far as the rate limit of its key."""


@dataclass(slots=True)
class Call:
    """What came of it. `status` stays 0 where client or server was gone before an answer."""

    number: int
    ask: Ask
    began_s: float
    ended_s: float = 0.0
    left_s: float | None = None
    crashed: bool = False
    killed: bool = False
    """The server died while it was at it; the answer may have been complete before."""
    refused_to_connect: bool = False
    fault: BaseException | None = None
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict[str, str])
    pieces: list[bytes] = field(default_factory=list[bytes])
    starts: int = 0
    ends: int = 0
    refusal: str | None = None
    """The code of the error that was sent in place of an answer."""
    server_full: bool = False
    """Refused before the rate limit, since too many requests were under way."""

    @property
    def admitted(self) -> bool:
        """Whether the server took it on, as far as key, rate and room are concerned."""
        at_the_door = self.status == 401 and "x-murmurate-trace" not in self.headers
        return not (at_the_door or self.server_full or self.refusal in NOT_ADMITTED)

    @property
    def broken(self) -> bool:
        """Whether the answer may be missing or in part: nobody was there to get or to give it."""
        return self.crashed or self.left_s is not None


class Connection:
    """The two callables of ASGI, and the scope."""

    def __init__(self, call: Call, *, loop: VirtualLoop, clock: VirtualClock) -> None:
        self.call = call
        self._loop = loop
        self._clock = clock
        self._over = asyncio.Event()
        ask = call.ask
        size = -(-len(ask.body) // ask.pieces)
        cuts = range(0, max(len(ask.body), 1), max(size, 1))
        self._unsent = [ask.body[at : at + size] for at in cuts]
        self._leaving: asyncio.TimerHandle | None = None
        if ask.leaves_after_s is not None:
            self._leaving = loop.call_later(ask.leaves_after_s, self.leave)
        elif ask.leaves_at_s is not None:
            self._leaving = loop.call_at(ask.leaves_at_s, self.leave)

    def scope(self) -> dict[str, Any]:
        """Return the ASGI scope."""
        ask = self.call.ask
        return {
            "type": "http",
            "method": ask.method,
            "path": ask.path,
            "headers": [(k.encode(), v.encode("latin-1")) for k, v in ask.headers.items()],
            "client": ("127.0.0.1", 40_000),
        }

    async def receive(self) -> Message:
        """Give the next piece of the body; after the last one, wait until it is over."""
        if self._unsent and not self._over.is_set():
            piece = self._unsent.pop(0)
            if self.call.ask.pieces > 1:
                await self._pass(0.01)
            if not self._over.is_set():
                return {"type": "http.request", "body": piece, "more_body": bool(self._unsent)}
        await self._over.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take what the application sends, at the client's own pace."""
        call = self.call
        if call.broken:
            return
        if message["type"] == "http.response.start":
            call.starts += 1
            call.status = message["status"]
            call.headers = {k.decode(): v.decode("latin-1") for k, v in message["headers"]}
            return
        more = message.get("more_body", False)
        if more and call.ask.read_s:
            await self._pass(call.ask.read_s)
            if call.broken:
                return
        call.pieces.append(message["body"])
        if not more:
            call.ends += 1
            self._over.set()
        elif len(call.pieces) == call.ask.leaves_after_pieces:
            self.leave()

    async def _pass(self, seconds: float) -> None:
        """Let time pass, but not beyond the end of the connection."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._over.wait()

    def leave(self) -> None:
        """Close the connection, whatever has been sent; nothing happens when all was answered."""
        if not self._over.is_set():
            self.call.left_s = self._clock.now_s()
            self._over.set()

    def crash(self) -> None:
        """Let the server be gone."""
        self.call.killed = True
        if not self._over.is_set():
            self.call.crashed = True

    def close(self) -> None:
        """Forget the timer."""
        if self._leaving is not None:
            self._leaving.cancel()
