"""A content is written in pieces of one size, and whoever lost the race is stopped."""

import asyncio

import pytest

from murmurate.adapters.memory import MemoryLog
from murmurate.core.errors import LogConflictError
from murmurate.core.ports import Entry
from murmurate.files.entries import PIECE_BYTES
from murmurate.files.writing import Writing
from murmurate.testing.stories import all_of
from tests.fakes import FakeClock


def test_pieces_have_one_size_and_only_the_rest_waits() -> None:
    async def story() -> None:
        log = MemoryLog(clock=FakeClock())
        writing = Writing(log, "a", "file-1", clock=FakeClock(), kept_s=60.0)
        await writing.write(bytes(3 * PIECE_BYTES + 1))
        assert (writing.pieces, writing.size_bytes) == (3, 3 * PIECE_BYTES + 1)
        await writing.close()
        await writing.close()
        found = await all_of(log.read("a", "file/file-1"))
        assert [len(it.body) for it in found] == [PIECE_BYTES] * 3 + [1]
        await writing.abandon()
        assert await all_of(log.read("a", "file/file-1")) == []

    asyncio.run(story())


def test_nothing_written_is_nothing_to_abandon() -> None:
    async def story() -> None:
        log = MemoryLog(clock=FakeClock())
        writing = Writing(log, "a", "file-1", clock=FakeClock(), kept_s=60.0)
        await writing.write(b"held")
        await writing.abandon()
        assert "a" not in log._tenants

    asyncio.run(story())


def test_a_stream_that_somebody_else_wrote_to_takes_no_more() -> None:
    async def story() -> None:
        log = MemoryLog(clock=FakeClock())
        writing = Writing(log, "a", "file-1", clock=FakeClock(), kept_s=60.0)
        await log.append([Entry("a", "file/file-1", "file.abandoned", b"")])
        with pytest.raises(LogConflictError):
            await writing.write(bytes(PIECE_BYTES))

    asyncio.run(story())
