"""Calls between processes of one host, over a real Unix socket."""

import asyncio
import os
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from murmurate.adapters import wire
from murmurate.adapters.wire import FRAME_BYTES_MAX, Caller, Message, encode, read_frame, serve
from murmurate.core.clock import SystemClock
from murmurate.core.errors import (
    DocumentUnreadableError,
    FolderMissingError,
    MurmurateError,
    WorkerUnreachableError,
)
from tests.fakes import FakeClock


class Echo(Message[str], frozen=True, tag=True):
    text: str

    reply: ClassVar[Any] = str


class Total(Message[int], frozen=True, tag=True):
    numbers: list[int]

    reply: ClassVar[Any] = int


Handle = Callable[[Any], Awaitable[object]]
Story = Callable[[Caller], Awaitable[None]]


async def answering(message: Echo | Total) -> object:
    if isinstance(message, Total):
        return sum(message.numbers)
    await asyncio.sleep(0)
    return message.text


def tell(path: Path, handle: Handle, story: Story, *, connect_s: float = 5.0) -> None:
    """Run the story with a worker that handles calls and a caller that makes them."""

    async def told() -> None:
        server = await serve(str(path / "w.sock"), Echo | Total, handle)
        caller = Caller(str(path / "w.sock"), clock=SystemClock(), connect_s=connect_s)
        try:
            await story(caller)
        finally:
            await caller.close()
            server.close()

    asyncio.run(told())


def test_a_message_gets_its_typed_reply(tmp_path: Path) -> None:
    async def story(caller: Caller) -> None:
        assert await caller.call(Echo("é 你"), timeout_s=5) == "é 你"
        assert await caller.call(Total([1, 2, 3]), timeout_s=5) == 6

    tell(tmp_path, answering, story)


def test_the_socket_is_its_owners_alone(tmp_path: Path) -> None:
    async def story(caller: Caller) -> None:
        del caller
        assert (tmp_path / "w.sock").stat().st_mode & 0o777 == 0o600

    tell(tmp_path, answering, story)


def test_many_calls_share_one_connection_and_each_gets_its_own_reply(tmp_path: Path) -> None:
    async def story(caller: Caller) -> None:
        calls = [caller.call(Echo(f"{n} {'x' * (n * 37)}"), timeout_s=5) for n in range(200)]
        replies = await asyncio.gather(*calls)
        assert [reply.partition(" ")[0] for reply in replies] == [str(n) for n in range(200)]

    tell(tmp_path, answering, story)


def test_a_slow_call_does_not_hold_up_a_fast_one(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def handle(message: Echo) -> str:
        if message.text == "slow":
            await gate.wait()
        return message.text

    async def story(caller: Caller) -> None:
        slow = asyncio.ensure_future(caller.call(Echo("slow"), timeout_s=5))
        assert await caller.call(Echo("fast"), timeout_s=5) == "fast"
        assert not slow.done()
        gate.set()
        assert await slow == "slow"

    tell(tmp_path, handle, story)


@pytest.mark.parametrize("kind", [MurmurateError, DocumentUnreadableError, FolderMissingError])
def test_an_error_of_ours_arrives_as_itself(tmp_path: Path, kind: type[MurmurateError]) -> None:
    async def handle(message: Echo) -> str:
        raise kind(f"cannot read {message.text}")

    async def story(caller: Caller) -> None:
        with pytest.raises(kind) as raised:
            await caller.call(Echo("a.pdf"), timeout_s=5)
        assert type(raised.value) is kind
        assert raised.value.detail == "cannot read a.pdf"

    tell(tmp_path, handle, story)


def test_any_other_error_arrives_as_internal_with_its_type_only(tmp_path: Path) -> None:
    async def handle(message: Echo) -> str:
        raise ValueError(f"the secret is {message.text}")

    async def story(caller: Caller) -> None:
        with pytest.raises(MurmurateError) as raised:
            await caller.call(Echo("42"), timeout_s=5)
        assert raised.value.code == "internal"
        assert raised.value.detail == "ValueError in Echo"

    tell(tmp_path, handle, story)


def test_a_reply_that_has_no_wire_form_arrives_as_internal(tmp_path: Path) -> None:
    async def handle(message: Echo) -> object:
        return object()

    async def story(caller: Caller) -> None:
        with pytest.raises(MurmurateError, match="TypeError in Echo"):
            await caller.call(Echo("a"), timeout_s=5)

    tell(tmp_path, handle, story)


def test_an_error_that_only_a_newer_worker_knows_keeps_its_code_in_words(tmp_path: Path) -> None:
    class NewError(MurmurateError):
        code = "worker.brand_new"

    async def handle(message: Echo) -> str:
        raise NewError("what?")

    async def story(caller: Caller) -> None:
        with pytest.raises(NewError):
            await caller.call(Echo("a"), timeout_s=5)

    tell(tmp_path, handle, story)
    assert str(wire._error("worker.unheard_of", "what?", None)).endswith("worker.unheard_of: what?")


def test_a_cancelled_call_is_withdrawn_and_the_worker_stops_working(tmp_path: Path) -> None:
    began, stopped = asyncio.Event(), asyncio.Event()

    async def handle(message: Echo) -> str:
        if message.text != "long":
            return message.text
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return "never"

    async def story(caller: Caller) -> None:
        call = asyncio.ensure_future(caller.call(Echo("long"), timeout_s=5))
        await began.wait()
        call.cancel()
        async with asyncio.timeout(2):
            await stopped.wait()
        assert call.cancelled()
        assert await caller.call(Echo("next"), timeout_s=5) == "next"

    tell(tmp_path, handle, story)


def test_a_call_over_its_time_is_withdrawn_and_says_so(tmp_path: Path) -> None:
    stopped = asyncio.Event()

    async def handle(message: Echo) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return "never"

    async def story(caller: Caller) -> None:
        with pytest.raises(WorkerUnreachableError, match=r"Echo took longer than 0\.01 s"):
            await caller.call(Echo("a"), timeout_s=0.01)
        async with asyncio.timeout(2):
            await stopped.wait()

    tell(tmp_path, handle, story)


def test_a_reply_to_a_withdrawn_call_disturbs_nobody(tmp_path: Path) -> None:
    async def handle(message: Echo) -> str:
        if message.text == "stubborn":
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return "too late"
        return message.text

    async def story(caller: Caller) -> None:
        with pytest.raises(WorkerUnreachableError):
            await caller.call(Echo("stubborn"), timeout_s=0.01)
        for n in range(3):
            assert await caller.call(Echo(str(n)), timeout_s=5) == str(n)

    tell(tmp_path, handle, story)


class Mortal:
    """A worker at the other end of the raw protocol, that dies when told to."""

    def __init__(self, path: Path) -> None:
        self.path = str(path / "w.sock")
        self.writers: list[asyncio.StreamWriter] = []
        self.dies = True

    async def __aenter__(self) -> "Mortal":
        self.server = await asyncio.start_unix_server(self._connection, self.path)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        for writer in self.writers:
            writer.close()
            await writer.wait_closed()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        while (frame := await read_frame(reader)) is not None:
            if self.dies:
                break
            call_id, _ = msgspec.msgpack.decode(frame, type=tuple[int, msgspec.Raw])
            writer.write(encode((call_id, "alive", None)))
        writer.close()


def test_a_worker_that_dies_fails_its_calls_and_the_next_call_connects_again(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        async with Mortal(tmp_path) as worker:
            caller = Caller(worker.path, clock=SystemClock())
            calls = [caller.call(Echo(str(n)), timeout_s=5) for n in range(3)]
            for failure in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(failure, WorkerUnreachableError)
                assert failure.retry_s == 1
            worker.dies = False
            assert await caller.call(Echo("again"), timeout_s=5) == "alive"
            assert len(worker.writers) == 2
            await caller.close()

    asyncio.run(story())


def test_a_call_waits_for_a_worker_that_is_being_restarted(tmp_path: Path) -> None:
    async def story() -> None:
        path = str(tmp_path / "w.sock")
        caller = Caller(path, clock=FakeClock())
        call = asyncio.ensure_future(caller.call(Echo("hi"), timeout_s=5))
        for _ in range(3):
            await asyncio.sleep(0)
        server = await serve(path, Echo | Total, answering)
        assert await call == "hi"
        await caller.close()
        server.close()

    asyncio.run(story())


def test_a_worker_that_never_comes_is_unreachable_after_a_while(tmp_path: Path) -> None:
    async def story() -> None:
        clock = FakeClock()
        caller = Caller(str(tmp_path / "private" / "w.sock"), clock=clock, connect_s=1.0)
        with pytest.raises(WorkerUnreachableError, match=r"on w\.sock") as raised:
            await caller.call(Echo("hi"), timeout_s=5)
        assert raised.value.retry_s == 1
        assert sum(clock.slept_s) == pytest.approx(1.0, abs=0.05)
        assert "private" not in raised.value.detail
        await caller.close()

    asyncio.run(story())


def test_hanging_up_fails_the_calls_under_way(tmp_path: Path) -> None:
    began = asyncio.Event()

    async def handle(message: Echo) -> str:
        began.set()
        await asyncio.Event().wait()
        return message.text

    async def story(caller: Caller) -> None:
        call = asyncio.ensure_future(caller.call(Echo("hi"), timeout_s=5))
        await began.wait()
        await caller.close()
        with pytest.raises(WorkerUnreachableError):
            await call

    tell(tmp_path, handle, story)


def test_a_caller_that_hangs_up_stops_the_workers_tasks(tmp_path: Path) -> None:
    began, stopped = asyncio.Event(), asyncio.Event()

    async def handle(message: Echo) -> str:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return "never"

    async def story(caller: Caller) -> None:
        _, writer = await asyncio.open_unix_connection(str(tmp_path / "w.sock"))
        writer.write(encode((1, Echo("hi"))))
        await began.wait()
        writer.close()
        async with asyncio.timeout(2):
            await stopped.wait()

    tell(tmp_path, handle, story)


def test_a_message_over_the_bound_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    async def story(caller: Caller) -> None:
        with pytest.raises(WorkerUnreachableError, match="is over"):
            await caller.call(Echo("x" * FRAME_BYTES_MAX), timeout_s=5)
        assert await caller.call(Echo("small"), timeout_s=5) == "small"

    tell(tmp_path, answering, story)


def test_a_frame_that_announces_more_than_the_bound_ends_the_connection(tmp_path: Path) -> None:
    async def story(caller: Caller) -> None:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "w.sock"))
        writer.write(struct.pack(">I", FRAME_BYTES_MAX + 1))
        assert await reader.read() == b""
        writer.close()
        assert await caller.call(Echo("others"), timeout_s=5) == "others"

    tell(tmp_path, answering, story)


@pytest.mark.parametrize("cut", [1, 4, 6])
def test_a_frame_that_breaks_off_is_the_end(cut: int) -> None:
    async def story() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(encode((1, "reply", None))[:cut])
        reader.feed_eof()
        assert await read_frame(reader) is None

    asyncio.run(story())


def test_frames_come_out_as_they_went_in_whatever_the_pieces() -> None:
    async def story() -> None:
        reader = asyncio.StreamReader()
        for byte in encode([1]) + encode("two"):
            reader.feed_data(bytes([byte]))
        reader.feed_eof()
        frames = [await read_frame(reader) for _ in range(3)]
        assert frames[:2] == [msgspec.msgpack.encode([1]), msgspec.msgpack.encode("two")]
        assert frames[2] is None

    asyncio.run(story())


def test_a_socket_left_behind_by_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "w.sock").write_bytes(b"")

    async def story(caller: Caller) -> None:
        assert await caller.call(Echo("hi"), timeout_s=5) == "hi"

    tell(tmp_path, answering, story)
    assert os.listdir(tmp_path) == ["w.sock"]  # noqa: PTH208
