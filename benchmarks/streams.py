"""The client of the benchmarks: one streamed chat completion, timed where its bytes arrive.

The same code asks a gateway on TCP and an engine on a Unix socket. It costs as little as Python
can, as it shares the machine with what it measures: it looks for the first word and for the end
mark, and decodes nothing. Each request has a connection of its own, made before the clock starts.
"""

import asyncio
import json
import re
import time
from dataclasses import dataclass
from typing import Any, cast

import uvloop

ANSWER_S = 120.0
_WORD = re.compile(rb'"content":"(?!")')
_TOKENS = re.compile(rb'"completion_tokens":(\d+)')
_END = b"data: [DONE]"
_TAIL_BYTES = 4096
"""Enough for the usage and the end mark, which come last."""

run = uvloop.run


@dataclass(frozen=True, slots=True)
class Target:
    """Where to ask: `host:port`, or the path of a Unix socket."""

    address: str
    key: str


@dataclass(frozen=True, slots=True)
class Answer:
    """When the first word and the end came, counted from the request, and how long it was."""

    first_s: float
    total_s: float
    tokens: int


async def ask(target: Target, body: dict[str, Any]) -> Answer:
    """Send a streamed chat completion; `RuntimeError` when it is refused or breaks off."""
    loop = asyncio.get_running_loop()
    if "/" in target.address:
        _, reading = await loop.create_unix_connection(_Reading, target.address)
    else:
        host, _, port = target.address.rpartition(":")
        _, reading = await loop.create_connection(_Reading, host, int(port))
    try:
        return await asyncio.wait_for(reading.ask(_request(target, body)), ANSWER_S)
    finally:
        reading.close()


def _request(target: Target, body: dict[str, Any]) -> bytes:
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    data = json.dumps({**body, **usage}, separators=(",", ":")).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: Bearer {target.key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


class _Reading(asyncio.Protocol):
    """Collects until the first word, then only watches for the end."""

    def __init__(self) -> None:
        self._end: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None
        self._first_s: float | None = None
        self._kept = b""

    async def ask(self, request: bytes) -> Answer:
        assert self._transport is not None
        began_s = time.perf_counter()
        self._transport.write(request)
        end_s = await self._end
        tokens = _TOKENS.findall(self._kept)
        if self._first_s is None or not tokens:
            raise RuntimeError(f"an answer without words or usage: {self._kept!r}")
        return Answer(self._first_s - began_s, end_s - began_s, int(tokens[-1]))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has no such base

    def data_received(self, data: bytes) -> None:
        now_s = time.perf_counter()  # the loop's own clock counts whole milliseconds
        self._kept += data
        if self._first_s is None:
            if not self._kept.startswith(b"HTTP/1.1 200"):
                self._fail(f"refused: {self._kept!r}")
            elif _WORD.search(self._kept):
                self._first_s = now_s
        if _END in self._kept:
            if not self._end.done():
                self._end.set_result(now_s)
        elif self._first_s is not None:
            self._kept = self._kept[-_TAIL_BYTES:]

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(f"broke off ({error}): {self._kept!r}")

    def _fail(self, why: str) -> None:
        if not self._end.done():
            self._end.set_exception(RuntimeError(why))
