"""A server on loopback that misbehaves in one way a connection, and knows who is still connected.

It speaks HTTP by hand: resets, cut heads and bodies without an end are what no framework offers.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

TEXT = b'data: {"choices": [{"delta": {"content": "hi"}, "finish_reason": null}]}\n\n'
STOP = b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n'
USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}\n\n'
DONE = b"data: [DONE]\n\n"
WHOLE = TEXT + STOP + USAGE + DONE

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


class Line:
    """One connection with its request read, at the mercy of a behaviour."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def say(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def until_hung_up(self) -> None:
        while await self.reader.read(1024):
            pass

    def reset(self) -> None:
        """Close with a TCP reset, as a process that is killed does."""
        sock: socket.socket = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Behaviour = Callable[[Line], Awaitable[None]]


def saying(*pieces: bytes) -> Behaviour:
    async def behave(line: Line) -> None:
        await line.say(*pieces)

    return behave


def status(
    code: int, body: bytes = b'{"error": {"message": "no"}}', headers: str = ""
) -> Behaviour:
    head = (
        f"HTTP/1.1 {code} No\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{headers}\r\n"
    )
    return saying(head.encode() + body)


well = saying(STREAM, WHOLE)
garbage = saying(STREAM, b"data: {nonsense\n\n")
truncated = saying(STREAM, b'data: {"choices": [{"delta": {"role": "assistant"}}]}\n\n')
truncated_behind_text = saying(STREAM, TEXT)
web_page = saying(
    b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n<html>Welcome</html>"
)
no_http = saying(b"220 mail.example ESMTP\r\n")


async def silent(line: Line) -> None:
    await line.until_hung_up()


async def silent_behind_the_head(line: Line) -> None:
    await line.say(STREAM)
    await line.until_hung_up()


async def stalling(line: Line) -> None:
    await line.say(STREAM, TEXT)
    await line.until_hung_up()


async def slow(line: Line) -> None:
    """Answer well, but late: later than a hedge is sent, in time for everything else."""
    with suppress(TimeoutError):
        async with asyncio.timeout(0.6):
            await line.until_hung_up()
            return
    await line.say(STREAM, WHOLE)


async def resetting(line: Line) -> None:
    line.reset()


async def resetting_behind_the_head(line: Line) -> None:
    await line.say(STREAM)
    await asyncio.sleep(0.01)
    line.reset()


async def resetting_behind_text(line: Line) -> None:
    await line.say(STREAM, TEXT)
    await asyncio.sleep(0.05)
    line.reset()


async def endless(line: Line) -> None:
    """A body without an end, and without a single event."""
    await line.say(STREAM)
    while not line.reader.at_eof():
        await line.say(b": ping\n\n")
        await asyncio.sleep(0.01)


async def chatting(line: Line) -> None:
    """An answer that never comes to its end."""
    await line.say(STREAM)
    while not line.reader.at_eof():
        await line.say(TEXT)
        await asyncio.sleep(0.01)


class BadServer:
    """Behaves on each connection as the next of its behaviours says, then as the last one."""

    def __init__(self) -> None:
        self.behaviours: list[Behaviour] = [well]
        self.asked = 0
        self.connected = 0
        self.url = ""

    def behave(self, *behaviours: Behaviour) -> None:
        self.behaviours = list(behaviours)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connected += 1
        try:
            await _read_request(reader)
            self.asked += 1
            left = self.behaviours
            await (left.pop(0) if len(left) > 1 else left[0])(Line(reader, writer))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.connected -= 1
            writer.close()


async def _read_request(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            await reader.readexactly(int(line.partition(b":")[2]))


@asynccontextmanager
async def bad_server(*behaviours: Behaviour) -> AsyncGenerator[BadServer]:
    """Run one; at the end nobody may be connected any more."""
    it = BadServer()
    if behaviours:
        it.behave(*behaviours)
    serving = await asyncio.start_server(it.serve, "127.0.0.1", 0)
    host, port = serving.sockets[0].getsockname()[:2]
    it.url = f"http://{host}:{port}/v1"
    try:
        yield it
        async with asyncio.timeout(2):  # a hang-up takes a moment to arrive
            while it.connected:
                await asyncio.sleep(0.001)
    finally:
        serving.close()
