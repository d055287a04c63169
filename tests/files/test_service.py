"""Files are whole or not there, bounded, forgotten in time, and each tenant's own."""

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from murmurate.adapters.memory import MemoryLog
from murmurate.core.errors import (
    BadRequestError,
    FencedError,
    FilesFullError,
    FileTooLargeError,
    LogConflictError,
    LogCorruptError,
    LogUnavailableError,
    NotFoundError,
    OverloadedError,
)
from murmurate.core.ports import Entry, Offer
from murmurate.files.entries import INDEX, PIECE_BYTES, FileInfo, Kind, stream_of
from murmurate.files.service import (
    LATE_MS,
    TRIES_MAX,
    UNFOLDED_MAX,
    UPLOADS_MAX,
    FileLimits,
    Files,
)
from murmurate.testing.stories import all_of, names_of
from tests.fakes import FakeClock, seeded_ids

HOUR_S = 3600.0
LIMITS = FileLimits(
    file_bytes_max=4 * PIECE_BYTES,
    tenant_bytes_max=6 * PIECE_BYTES,
    files_max=5,
    upload_s=60.0,
    kept_s=24 * HOUR_S,
)


class Rough(MemoryLog):
    """A log whose appends and reads can be made to go wrong."""

    rivals = 0
    """So many appends to a list find that another server came first."""
    is_out = False

    async def append(self, entries: Sequence[Entry], **options: Any) -> list[int]:
        if self.is_out:
            raise LogUnavailableError("out")
        if self.rivals and any(entry.stream == INDEX for entry in entries):
            self.rivals -= 1
            raise LogConflictError("a rival")
        return await super().append(entries, **options)


class Stage:
    """Files over a log in memory."""

    def __init__(self, **limits: Any) -> None:
        self.clock = FakeClock(1_000_000.0)
        self.log = Rough(clock=self.clock)
        self.files = self.server(**limits)

    def server(self, seed: int = 1, **limits: Any) -> Files:
        settings = {name: getattr(LIMITS, name) for name in FileLimits.__struct_fields__}
        ids = seeded_ids(self.clock, seed=seed)
        return Files(FileLimits(**settings | limits), log=self.log, clock=self.clock, ids=ids)

    async def put(
        self, *chunks: bytes, tenant: str = "a", name: str = "in.jsonl", **terms: Any
    ) -> FileInfo:
        async with self.files.upload(tenant) as upload:
            for chunk in chunks:
                await upload.write(chunk)
            return await upload.keep(name, terms.get("purpose", "batch"), expires_s=terms.get("s"))

    async def get(self, file_id: str, *, tenant: str = "a", start: int = 0) -> bytes:
        content = self.files.content(tenant, file_id, start=start)
        return b"".join([piece async for piece in content])


def test_a_file_is_kept_in_pieces_and_read_again_from_anywhere() -> None:
    async def story() -> None:
        stage = Stage()
        whole = bytes(range(256)) * (PIECE_BYTES // 100)
        info = await stage.put(*(whole[i : i + 70_001] for i in range(0, len(whole), 70_001)))
        assert info.id.startswith("file-")
        assert (info.size_bytes, info.sha256) == (len(whole), hashlib.sha256(whole).hexdigest())
        assert (info.filename, info.purpose) == ("in.jsonl", "batch")
        assert info.expires_ms == info.created_ms + 24 * HOUR_S * 1000
        pieces = await all_of(stage.log.read("a", stream_of(info.id)))
        assert [len(it.body) for it in pieces[:-1]] == [PIECE_BYTES] * (len(pieces) - 1)
        for start in (0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 5, len(whole)):
            assert await stage.get(info.id, start=start) == whole[start:]

    asyncio.run(story())


def test_another_tenants_file_is_not_there() -> None:
    async def story() -> None:
        stage = Stage()
        info = await stage.put(b"words")
        assert await stage.files.listing("b") == []
        for ask in (stage.files.show, stage.files.remove):
            with pytest.raises(NotFoundError, match="there is no file"):
                await ask("b", info.id)
        with pytest.raises(NotFoundError):
            await stage.get(info.id, tenant="b")
        assert await stage.get(info.id) == b"words"

    asyncio.run(story())


def test_files_are_listed_by_time_and_purpose() -> None:
    async def story() -> None:
        stage = Stage()
        ids: list[str] = []
        for purpose in ("batch", "user_data", "batch"):
            stage.clock.time_s += 1
            ids.append((await stage.put(b"x", purpose=purpose)).id)
        assert [it.id for it in await stage.files.listing("a")] == ids[::-1]
        oldest = await stage.files.listing("a", newest_first=False, purpose="batch")
        assert [it.id for it in oldest] == [ids[0], ids[2]]

    asyncio.run(story())


def test_an_upload_that_breaks_off_leaves_nothing() -> None:
    async def story() -> None:
        stage = Stage()
        with suppress(ConnectionError):
            async with stage.files.upload("a") as upload:
                await upload.write(bytes(2 * PIECE_BYTES + 7))
                assert len(names_of(await all_of(stage.log.streams("a", "file/")))) == 1
                raise ConnectionError
        assert await stage.files.listing("a") == []
        assert names_of(await all_of(stage.log.streams("a", "file/"))) == []
        assert stage.files.arriving("a") == 0

    asyncio.run(story())


def test_what_could_not_be_forgotten_is_swept_later_and_its_writer_stopped() -> None:
    async def story() -> None:
        stage = Stage()
        async with stage.files.upload("a") as upload:
            await upload.write(bytes(2 * PIECE_BYTES))
            stage.log.is_out = True
            with pytest.raises(LogUnavailableError):
                await upload.write(bytes(PIECE_BYTES))
            stage.log.forget, kept = unable, stage.log.forget  # type: ignore[method-assign]
        stage.log.is_out, stage.log.forget = False, kept  # type: ignore[method-assign]
        assert await stage.files.sweep("a") == 0, "it may still be under way"
        late = stage.files.writing("a")
        await late.write(bytes(PIECE_BYTES))
        stage.clock.time_s += (LATE_MS + 60_000) / 1000 + 1
        fresh = await stage.put(b"new")
        assert await stage.files.sweep("a") == 2
        assert names_of(await all_of(stage.log.streams("a", "file/"))) == [stream_of(fresh.id)]
        with pytest.raises(LogConflictError):
            await late.write(bytes(PIECE_BYTES))
        assert await stage.get(fresh.id) == b"new"

    asyncio.run(story())


async def unable(tenant: str, stream: str, *, before: int | None = None) -> None:
    raise LogUnavailableError("out")


def test_a_file_added_while_a_sweep_looks_stays() -> None:
    async def story() -> None:
        stage = Stage()
        slow = stage.files.writing("a")
        await slow.write(b"slow")
        await slow.close()
        stage.clock.time_s += (LATE_MS + 60_000) / 1000 + 1
        info, entry = slow.added("out.jsonl", "batch_output", expires_s=None)
        streams = stage.log.streams

        async def then_added(tenant: str, prefix: str, *, after: str = "") -> Any:
            await stage.log.append([entry])
            async for found in streams(tenant, prefix, after=after):
                yield found

        stage.log.streams = then_added  # type: ignore[method-assign]
        await stage.files.sweep("a")
        assert await stage.get(info.id) == b"slow"

    asyncio.run(story())


def test_an_expired_file_is_gone_at_once_and_swept_later() -> None:
    async def story() -> None:
        stage = Stage()
        short, long = await stage.put(b"short", s=HOUR_S), await stage.put(b"long")
        stage.clock.time_s += HOUR_S
        with pytest.raises(NotFoundError):
            await stage.files.show("a", short.id)
        assert [it.id for it in await stage.files.listing("a")] == [long.id]
        assert await stage.files.sweep("a") == 1
        assert names_of(await all_of(stage.log.streams("a", "file/"))) == [stream_of(long.id)]
        assert await stage.files.sweep("a") == 0

    asyncio.run(story())


def test_a_removed_file_is_gone_with_its_content() -> None:
    async def story() -> None:
        stage = Stage()
        info = await stage.put(b"words")
        await stage.files.remove("a", info.id)
        with pytest.raises(NotFoundError):
            await stage.files.remove("a", info.id)
        assert names_of(await all_of(stage.log.streams("a", "file/"))) == []

    asyncio.run(story())


def test_a_file_has_a_bound_and_is_not_empty() -> None:
    async def story() -> None:
        stage = Stage()
        await stage.put(bytes(4 * PIECE_BYTES))
        with pytest.raises(FileTooLargeError, match="over the limit"):
            await stage.put(bytes(4 * PIECE_BYTES), b"1", tenant="b")
        with pytest.raises(BadRequestError, match="empty"):
            await stage.put()
        assert len(await stage.files.listing("a")) == 1

    asyncio.run(story())


def test_a_tenant_has_bounds_that_others_do_not_feel() -> None:
    async def story() -> None:
        stage = Stage()
        first = await stage.put(bytes(4 * PIECE_BYTES))
        with pytest.raises(FilesFullError, match="more than what is left"):
            await stage.put(bytes(2 * PIECE_BYTES), b"1")
        await stage.put(bytes(4 * PIECE_BYTES), tenant="b")
        await stage.files.remove("a", first.id)
        for _ in range(5):
            await stage.put(b"1")
        with pytest.raises(FilesFullError, match="5 of 5 files"):
            await stage.put(b"1")
        stage.clock.time_s += 24 * HOUR_S
        await stage.put(b"what expired leaves room")

    asyncio.run(story())


def test_bytes_on_their_way_count_and_so_do_those_that_came_first_elsewhere() -> None:
    async def story() -> None:
        stage = Stage()
        async with stage.files.upload("a") as first:
            await first.write(bytes(4 * PIECE_BYTES))
            with pytest.raises(FilesFullError):
                await stage.put(bytes(3 * PIECE_BYTES))
            await first.keep("first", "batch", expires_s=None)
        other = stage.server(seed=2)
        async with stage.files.upload("a") as mine, other.upload("a") as theirs:
            for upload in (mine, theirs):
                await upload.write(bytes(2 * PIECE_BYTES))
            await theirs.keep("theirs", "batch", expires_s=None)
            with pytest.raises(FilesFullError):
                await mine.keep("mine", "batch", expires_s=None)
        assert [it.filename for it in await stage.files.listing("a")] == ["theirs", "first"]

    asyncio.run(story())


def test_whoever_comes_second_counts_again_and_gives_up_at_last() -> None:
    async def story() -> None:
        stage = Stage()
        stage.log.rivals = TRIES_MAX - 1
        await stage.put(b"1")
        stage.log.rivals = TRIES_MAX
        with pytest.raises(OverloadedError, match="came first"):
            await stage.put(b"2")

    asyncio.run(story())


def test_a_server_takes_so_many_uploads_at_a_time() -> None:
    async def story() -> None:
        stage = Stage()
        waiting = [stage.files.upload(f"t{number}") for number in range(UPLOADS_MAX)]
        for upload in waiting:
            await upload.__aenter__()
        with pytest.raises(OverloadedError, match="the most this server takes"):
            await stage.put(b"1")
        await waiting[0].__aexit__(None, None, None)
        await stage.put(b"1")
        for upload in waiting[1:]:
            await upload.__aexit__(None, None, None)

    asyncio.run(story())


def test_a_long_list_is_folded_and_stays_the_same() -> None:
    async def story() -> None:
        stage = Stage(files_max=1000, tenant_bytes_max=PIECE_BYTES)
        for number in range(UNFOLDED_MAX + 3):
            await stage.put(b"1", name=str(number))
        assert len(await all_of(stage.log.read("a", INDEX))) < 10
        names = [it.filename for it in await stage.files.listing("a", newest_first=False)]
        assert sorted(map(int, names)) == list(range(UNFOLDED_MAX + 3))
        await stage.files.remove("a", (await stage.files.listing("a"))[0].id)
        assert len(await stage.files.listing("a")) == UNFOLDED_MAX + 2

    asyncio.run(story())


def test_content_that_is_not_as_it_was_written_is_told() -> None:
    async def story() -> None:
        stage = Stage()
        info = await stage.put(bytes(PIECE_BYTES), b"rest")
        await stage.log.append([Entry("a", stream_of(info.id), Kind.PIECE.value, b"more")])
        with pytest.raises(LogCorruptError, match="upload it again"):
            await stage.get(info.id)
        changed = await stage.put(b"right")
        await stage.log.forget("a", stream_of(changed.id))
        await stage.log.append([Entry("a", stream_of(changed.id), Kind.PIECE.value, b"wrong")])
        with pytest.raises(LogCorruptError):
            await stage.get(changed.id)

    asyncio.run(story())


def test_a_file_removed_while_it_is_read_is_not_damaged_but_gone() -> None:
    async def story() -> None:
        stage = Stage()
        info = await stage.put(bytes(PIECE_BYTES), b"rest")
        read = stage.log.read

        async def cut(tenant: str, stream: str, *, after: int = 0) -> Any:
            async for stored in read(tenant, stream, after=after):
                yield stored
                if stream == stream_of(info.id):
                    await stage.files.remove("a", info.id)
                    return

        stage.log.read = cut  # type: ignore[method-assign]
        with pytest.raises(NotFoundError):
            await stage.get(info.id)

    asyncio.run(story())


def test_a_content_of_ours_counts_but_is_never_refused_and_needs_its_fence() -> None:
    async def story() -> None:
        stage = Stage(files_max=1)
        await stage.put(b"1")
        await stage.log.renew("one")
        await stage.log.append([], work=[Offer("a", "batch/1", "batches")])
        [claim] = await stage.log.claim("batches", "one", limit=1)
        writing = stage.files.writing("a", fence=claim)
        await writing.write(b"2")
        await writing.close()
        info, entry = writing.added("out.jsonl", "batch_output", expires_s=HOUR_S)
        await stage.log.append([entry], fence=claim)
        assert await stage.get(info.id) == b"2"
        assert info.expires_ms == info.created_ms + HOUR_S * 1000
        with pytest.raises(FilesFullError):
            await stage.put(b"3")
        late = stage.files.writing("a", fence=claim)
        await stage.log.revoke("one")
        await late.write(b"4")
        with pytest.raises(FencedError):
            await late.close()

    asyncio.run(story())


def test_an_upload_that_was_kept_and_not_acknowledged_is_whole() -> None:
    async def story() -> None:
        stage = Stage()
        append = stage.log.append

        async def silent(entries: Sequence[Entry], **options: Any) -> list[int]:
            seqs = await append(entries, **options)
            if any(entry.stream == INDEX for entry in entries):
                raise LogUnavailableError("it is not known whether it was written")
            return seqs

        stage.log.append = silent  # type: ignore[method-assign]
        with pytest.raises(LogUnavailableError):
            await stage.put(b"words")
        [info] = await stage.files.listing("a")
        assert await stage.get(info.id) == b"words"

    asyncio.run(story())
