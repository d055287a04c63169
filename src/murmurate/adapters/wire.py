"""How processes of one host talk: typed messages over a Unix socket, many calls in flight at once.

A frame is a length (4 bytes, big-endian) and a msgpack value. The caller sends `(id, message)`, the
worker answers `(id, reply, None)` or `(id, None, (code, detail, retry_s))`; `(id, None)` from the
caller withdraws a call. Messages are msgspec structs that name their reply; never pickle.
"""

import asyncio
import os
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, cast

import msgspec

from murmurate.core.clock import Clock
from murmurate.core.errors import MurmurateError, WorkerUnreachableError

FRAME_BYTES_MAX = 64 * 1024 * 1024
CONNECT_PAUSE_S = 0.02
CONNECT_S = 5.0
"""How long a call waits for a worker that is being restarted."""

_LENGTH = struct.Struct(">I")
_R = TypeVar("_R")


class Message(msgspec.Struct, Generic[_R], frozen=True):
    """Base of all messages; a subclass says `class Search(Message[Found], tag=True)`."""

    reply: ClassVar[Any] = None


def encode(value: object) -> bytes:
    """Return the frame of a value."""
    body = msgspec.msgpack.encode(value)
    if len(body) > FRAME_BYTES_MAX:
        raise WorkerUnreachableError(f"a message of {len(body)} bytes is over {FRAME_BYTES_MAX}")
    return _LENGTH.pack(len(body)) + body


async def read_frame(reader: asyncio.StreamReader) -> bytes | None:
    """Return the next frame's body, or None at the end of the connection."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if length > FRAME_BYTES_MAX:
            return None
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


class Caller:
    """The client side: one connection, made when needed and made again when it broke."""

    def __init__(self, path: str, *, clock: Clock, connect_s: float = CONNECT_S) -> None:
        self._path = path
        self._clock = clock
        self._connect_s = connect_s
        self._calls: dict[int, asyncio.Future[bytes]] = {}
        self._last_id = 0
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()

    async def call(self, message: Message[_R], *, timeout_s: float) -> _R:
        """Send the message and wait for its reply.

        Raises the worker's own `MurmurateError`, or `WorkerUnreachableError` when it is not there,
        dies meanwhile or takes longer than `timeout_s`. A cancelled call is withdrawn.
        """
        name = type(message).__name__
        writer = await self._connected()
        self._last_id += 1
        call_id = self._last_id
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._calls[call_id] = future
        try:
            writer.write(encode((call_id, message)))
            async with asyncio.timeout(timeout_s):
                body = await future
        except TimeoutError as cause:
            self._withdraw(call_id)
            raise WorkerUnreachableError(f"{name} took longer than {timeout_s:g} s") from cause
        except asyncio.CancelledError:
            self._withdraw(call_id)
            raise
        finally:
            self._calls.pop(call_id, None)
        return cast("_R", msgspec.msgpack.decode(body, type=type(message).reply))

    async def close(self) -> None:
        """Hang up."""
        if self._reading is not None:
            self._reading.cancel()
            with suppress(asyncio.CancelledError):
                await self._reading
        if self._writer is not None:
            self._writer.close()
            with suppress(ConnectionError):
                await self._writer.wait_closed()

    async def _connected(self) -> asyncio.StreamWriter:
        """Return a live connection; waits at most `connect_s` for a worker being restarted.

        The deadline stands before the lock: those who wait for the same worker wait side by side.
        """
        deadline_s = self._clock.now_s() + self._connect_s
        async with self._connecting:
            while self._writer is None or self._writer.is_closing():
                try:
                    reader, self._writer = await asyncio.open_unix_connection(self._path)
                except OSError as cause:
                    if self._clock.now_s() >= deadline_s:
                        raise WorkerUnreachableError(
                            f"no worker answers on {Path(self._path).name}", retry_s=1
                        ) from cause
                    await self._clock.sleep(CONNECT_PAUSE_S)
                else:
                    self._reading = asyncio.create_task(self._read(reader, self._writer))
            return self._writer

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hand replies to their calls until the connection ends; then fail what is still open."""
        try:
            while (frame := await read_frame(reader)) is not None:
                call_id, reply, failure = msgspec.msgpack.decode(
                    frame, type=tuple[int, msgspec.Raw, tuple[str, str, float | None] | None]
                )
                future = self._calls.get(call_id)
                if future is None or future.done():
                    continue
                if failure is None:
                    future.set_result(bytes(reply))
                else:
                    future.set_exception(_error(*failure))
        finally:
            writer.close()
            for future in self._calls.values():
                if not future.done():
                    future.set_exception(WorkerUnreachableError("the worker went away", retry_s=1))

    def _withdraw(self, call_id: int) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(encode((call_id, None)))


async def serve(
    path: str,
    messages: Any,  # noqa: ANN401 - a union of types has no type of its own
    handle: Callable[[Any], Awaitable[object]],
) -> asyncio.Server:
    """Listen on `path` (mode 0600); decode `messages` (a tagged union), answer with `handle`.

    Errors of ours travel to the caller as they are; anything else reaches it as `internal` with
    the exception's type only.
    """
    decode = msgspec.msgpack.Decoder(tuple[int, messages | None]).decode

    async def answer(writer: asyncio.StreamWriter, call_id: int, message: object) -> None:
        try:
            frame = encode((call_id, await handle(message), None))
        except MurmurateError as error:
            frame = encode((call_id, None, (error.code, error.detail, error.retry_s)))
        except Exception as error:  # noqa: BLE001 - the caller must hear of it, whatever it is
            detail = f"{type(error).__name__} in {type(message).__name__}"
            frame = encode((call_id, None, (MurmurateError.code, detail, None)))
        writer.write(frame)
        with suppress(ConnectionError):
            await writer.drain()

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks: dict[int, asyncio.Task[None]] = {}
        try:
            while (frame := await read_frame(reader)) is not None:
                call_id, message = decode(frame)
                if message is None:
                    if task := tasks.get(call_id):
                        task.cancel()
                    continue
                task = asyncio.create_task(answer(writer, call_id, message))
                tasks[call_id] = task
                task.add_done_callback(lambda _, call_id=call_id: tasks.pop(call_id, None))
        except asyncio.CancelledError:
            pass  # the server closes; nobody waits for this task
        finally:
            for task in list(tasks.values()):
                task.cancel()
            writer.close()

    with suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108 - left behind by a killed worker; takes microseconds
    server = await asyncio.start_unix_server(connection, path, backlog=128)
    os.chmod(path, 0o600)  # noqa: PTH101
    return server


def _error(code: str, detail: str, retry_s: float | None) -> MurmurateError:
    """Return the error of that code, as the worker raised it."""
    kinds: list[type[MurmurateError]] = [MurmurateError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
        if kind.code == code:
            return kind(detail, retry_s=retry_s)
    return MurmurateError(f"{code}: {detail}", retry_s=retry_s)
