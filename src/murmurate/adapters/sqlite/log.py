"""The log on SQLite: truth.db. Appends go to one writer thread, queries to a few reading ones."""

import asyncio
import sqlite3
import zlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

from murmurate.adapters.sqlite.database import Schema, open_writer, reading
from murmurate.adapters.sqlite.readers import Readers
from murmurate.adapters.sqlite.writer import GroupWriter
from murmurate.core.clock import Clock
from murmurate.core.errors import BodyTooLargeError, LogConflictError, LogCorruptError
from murmurate.core.ports import SNAPSHOT, Entry, Stored, StreamInfo
from murmurate.core.types import Frozen

BODY_BYTES_MAX = 64 * 1024 * 1024
PAGE_ROWS = 256
PAGE_BYTES = 4 * 1024 * 1024
"""A page of a stream ends at whichever comes first, so that big bodies do not pile up."""
POLL_S = 0.2
"""How often a tail looks for what other processes committed; its own process wakes it at once."""
READERS = 4

SCHEMA = Schema(
    version=1,
    statements=(
        """CREATE TABLE entry (
            position INTEGER PRIMARY KEY AUTOINCREMENT,
            tenant TEXT NOT NULL, stream TEXT NOT NULL, seq INTEGER NOT NULL,
            epoch INTEGER NOT NULL, kind TEXT NOT NULL, at INTEGER NOT NULL,
            crc INTEGER NOT NULL, body BLOB NOT NULL)""",
        "CREATE UNIQUE INDEX entry_by_seq ON entry (tenant, stream, seq)",
        # `seq` is that of the last entry, `first` that of the oldest one not forgotten: a stream
        # that was forgotten keeps its row and goes on counting.
        """CREATE TABLE head (
            tenant TEXT NOT NULL, stream TEXT NOT NULL,
            seq INTEGER NOT NULL, first INTEGER NOT NULL,
            PRIMARY KEY (tenant, stream)) WITHOUT ROWID""",
        """CREATE TABLE snapshot (
            tenant TEXT NOT NULL, stream TEXT NOT NULL, seq INTEGER NOT NULL,
            position INTEGER NOT NULL, epoch INTEGER NOT NULL, at INTEGER NOT NULL,
            crc INTEGER NOT NULL, body BLOB NOT NULL,
            PRIMARY KEY (tenant, stream))""",
    ),
)

_EPOCH = 0

_COUNT_ON = """INSERT INTO head (tenant, stream, seq, first) VALUES (?, ?, 1, 1)
    ON CONFLICT DO UPDATE SET seq = seq + 1 RETURNING seq"""
_INSERT = """INSERT INTO entry (tenant, stream, seq, epoch, kind, at, crc, body)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
_HEAD = "SELECT seq, first FROM head WHERE tenant = ? AND stream = ?"
_ENTRIES = """SELECT tenant, stream, seq, position, epoch, kind, at, body, crc FROM entry
    WHERE tenant = ? AND stream = ? AND seq > ? ORDER BY seq LIMIT ?"""
_SNAPSHOT = """SELECT tenant, stream, seq, position, epoch, CAST(? AS TEXT), at, body, crc
    FROM snapshot WHERE tenant = ? AND stream = ? AND seq > ?"""
_NEWS = """SELECT tenant, stream, seq, position, epoch, kind, at, body, crc FROM entry
    WHERE position > ? AND position <= ? AND substr(stream, 1, ?) = ? ORDER BY position LIMIT ?"""
_STREAMS = """SELECT stream, seq FROM head AS h
    WHERE tenant = ? AND stream > ? AND stream >= ? AND stream < ?
    AND (seq >= first OR EXISTS
        (SELECT 1 FROM snapshot AS s WHERE s.tenant = h.tenant AND s.stream = h.stream))
    ORDER BY stream LIMIT ?"""
_LAST = "\U0010ffff"  # the highest code point, which no name contains: it ends a range of prefixes


class SqliteLog:
    """A `Log` in one file that several processes may share. Used from one event loop."""

    def __init__(
        self, path: Path, *, clock: Clock, queue_max: int = 4096, batch_max: int = 512
    ) -> None:
        """Open or make the file; blocks for a moment. `close()` it.

        Raises:
            LogUnavailableError: The file cannot be opened, or a newer version wrote it.
            LogCorruptError: The file is damaged.
        """
        self._clock = clock
        self._news = asyncio.Event()
        self._closed = False
        connection = open_writer(path, SCHEMA, synchronous="FULL")
        self._readers = Readers(path, count=READERS)
        self._writer = GroupWriter(
            connection, path, queue_max=queue_max, batch_max=batch_max, committed=self._wake_tails
        )

    async def append(
        self, entries: Sequence[Entry], *, expected: Mapping[tuple[str, str], int] | None = None
    ) -> list[int]:
        """Append all entries or none, fsynced; see `Log`.

        Raises:
            BodyTooLargeError: A body is over 64 MiB.
        """
        for entry in entries:
            _check_size(entry.tenant, entry.stream, entry.body)
        work = partial(
            _append,
            entries=tuple(entries),
            expected=dict(expected or {}),
            at_ms=self._clock.unix_ms(),
        )
        size_bytes = sum(len(entry.body) for entry in entries)
        return await self._writer.do(work, size_bytes=size_bytes)

    async def read(self, tenant: str, stream: str, *, after: int = 0) -> AsyncGenerator[Stored]:
        """Yield the entries above `after`, page by page, each checked; see `Log`."""
        beginning, more = True, True
        while more:
            page = await self._readers.do(
                partial(_page, tenant=tenant, stream=stream, after=after, beginning=beginning)
            )
            for stored in page.entries:
                after = stored.seq
                yield stored
            page.check()
            beginning, more = False, page.more

    async def tail(self, prefix: str, *, after: int) -> AsyncGenerator[Stored]:
        """Follow all streams of that prefix; see `Log`. Ends when the log is closed."""
        # Nothing can be missed by going on from the highest position seen: SQLite has one writer
        # at a time over all processes, an AUTOINCREMENT position is drawn inside the write
        # transaction (BEGIN IMMEDIATE holds the lock until the commit), and a deleted one is never
        # drawn again. So positions become visible in their order, never one below another.
        while not self._closed:
            news = self._news
            page = await self._readers.do(partial(_news_page, prefix=prefix, after=after))
            for stored in page.entries:
                yield stored
            page.check()
            after = page.through
            if not page.more:
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await news.wait()

    async def streams(
        self, tenant: str, prefix: str, *, after: str = ""
    ) -> AsyncGenerator[StreamInfo]:
        """Yield the tenant's streams of that prefix that have something to read; see `Log`."""
        more = True
        while more:
            values = (tenant, after, prefix, prefix + _LAST, PAGE_ROWS)
            rows = await self._readers.do(partial(_all, query=_STREAMS, values=values))
            for name, head in rows:
                after = name.decode()
                yield StreamInfo(tenant, after, head)
            more = len(rows) == PAGE_ROWS

    async def snapshot(self, tenant: str, stream: str, seq: int, body: bytes) -> None:
        """Let `body` stand for all entries up to `seq`; see `Log`.

        Raises:
            LogConflictError: There is no entry of that seq (any more).
            BodyTooLargeError: The body is over 64 MiB.
        """
        _check_size(tenant, stream, body)
        work = partial(
            _snapshot, key=(tenant, stream), seq=seq, body=body, at_ms=self._clock.unix_ms()
        )
        await self._writer.do(work, size_bytes=len(body))

    async def forget(self, tenant: str, stream: str, *, before: int | None = None) -> None:
        """Delete old entries, or the whole stream with its snapshot; see `Log`."""
        await self._writer.do(partial(_forget, key=(tenant, stream), before=before))

    async def close(self) -> None:
        """Commit what was accepted, end the tails, close all connections and threads."""
        self._closed = True
        self._wake_tails()
        await self._writer.close()
        await self._readers.close()

    def _wake_tails(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


class _Page(Frozen, frozen=True):
    """A part of a stream. `damage` is what lies behind its last entry, `through` how far it saw."""

    entries: tuple[Stored, ...] = ()
    more: bool = False
    damage: str | None = None
    through: int = 0

    def check(self) -> None:
        if self.damage:
            raise LogCorruptError(f"{self.damage}; restore it from a backup")


def _append(
    db: sqlite3.Connection,
    entries: Sequence[Entry],
    expected: Mapping[tuple[str, str], int],
    at_ms: int,
) -> list[int]:
    for (tenant, stream), seen in expected.items():
        head, _ = _head(db, (tenant, stream))
        if head != seen:
            raise LogConflictError(f"stream {stream} of {tenant} ends at {head}, not at {seen}")
    seqs: list[int] = []
    for entry in entries:
        tenant, stream, kind, body = entry.tenant, entry.stream, entry.kind, entry.body
        [(seq,)] = db.execute(_COUNT_ON, (tenant, stream))
        fields = (tenant.encode(), stream.encode(), seq, _EPOCH, kind.encode(), at_ms)
        crc = _checksum(fields, body)
        db.execute(_INSERT, (tenant, stream, seq, _EPOCH, kind, at_ms, crc, body))
        seqs.append(seq)
    return seqs


def _snapshot(
    db: sqlite3.Connection, key: tuple[str, str], seq: int, *, body: bytes, at_ms: int
) -> None:
    old = _all(db, "SELECT seq, position, epoch FROM snapshot WHERE tenant = ? AND stream = ?", key)
    if old and old[0][0] > seq:
        return
    if old and old[0][0] == seq:
        position, epoch = old[0][1:]
    else:
        query = "SELECT position, epoch FROM entry WHERE tenant = ? AND stream = ? AND seq = ?"
        found = _all(db, query, (*key, seq))
        if not found:
            raise LogConflictError(f"stream {key[1]} of {key[0]} has no entry {seq} to stand for")
        position, epoch = found[0]
    tenant, stream = key
    fields = (tenant.encode(), stream.encode(), seq, epoch, SNAPSHOT.encode(), at_ms)
    crc = _checksum(fields, body)
    db.execute(
        "INSERT OR REPLACE INTO snapshot VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (tenant, stream, seq, position, epoch, at_ms, crc, body),
    )


def _forget(db: sqlite3.Connection, key: tuple[str, str], before: int | None) -> None:
    head, first = _head(db, key)
    cut = head + 1 if before is None else max(first, min(before, head + 1))
    db.execute("DELETE FROM entry WHERE tenant = ? AND stream = ? AND seq < ?", (*key, cut))
    db.execute("UPDATE head SET first = ? WHERE tenant = ? AND stream = ?", (cut, *key))
    if before is None:
        db.execute("DELETE FROM snapshot WHERE tenant = ? AND stream = ?", key)


def _head(db: sqlite3.Connection, key: tuple[str, str]) -> tuple[int, int]:
    """Return the seqs of the last entry and of the oldest one that is not forgotten."""
    rows = _all(db, _HEAD, key)
    return rows[0] if rows else (0, 1)


def _page(
    db: sqlite3.Connection, tenant: str, stream: str, after: int, *, beginning: bool
) -> _Page:
    with reading(db):
        head, first = _head(db, (tenant, stream))
        entries: list[Stored] = []
        # Midway a snapshot is needed only where the entries ahead were forgotten meanwhile.
        if beginning or first > after + 1:
            values = (SNAPSHOT, tenant, stream, after)
            entries, damage = _checked(_all(db, _SNAPSHOT, values))
            if damage:
                return _Page(damage=damage)
            after = entries[0].seq if entries else after
        following = max(after + 1, first)
        with closing(db.execute(_ENTRIES, (tenant, stream, following - 1, PAGE_ROWS))) as rows:
            behind, damage = _checked(rows)
    for stored in behind:
        if stored.seq != following:
            break
        entries.append(stored)
        following += 1
    lost = behind[-1].seq >= following if behind else following <= head
    if lost and not damage:
        damage = f"entry {following} of stream {stream} of {tenant} is lost"
    return _Page(tuple(entries), more=following <= head, damage=damage)


def _news_page(db: sqlite3.Connection, prefix: str, after: int) -> _Page:
    with reading(db):
        [(newest,)] = _all(db, "SELECT coalesce(max(position), 0) FROM entry", ())
        values = (after, newest, len(prefix), prefix, PAGE_ROWS)
        with closing(db.execute(_NEWS, values)) as rows:
            entries, damage = _checked(rows)
    # Without more matches the next look starts behind all that was looked at.
    more = len(entries) == PAGE_ROWS or _bytes(entries) >= PAGE_BYTES
    through = entries[-1].position if more else max(after, newest)
    return _Page(tuple(entries), more, damage, through)


def _checked(rows: sqlite3.Cursor | list[Any]) -> tuple[list[Stored], str | None]:
    """Return the rows up to a page's size or the first damaged one, and which that is."""
    entries: list[Stored] = []
    size_bytes = 0
    for tenant, stream, seq, position, epoch, kind, at_ms, body, crc in rows:
        try:
            intact = crc == _checksum((tenant, stream, seq, epoch, kind, at_ms), body)
        except TypeError:  # damage can turn a number into a text
            intact = False
        if not intact:
            which = f"entry {seq} of stream {stream.decode(errors='replace')}"
            return entries, f"{which} of {tenant.decode(errors='replace')} is damaged"
        entries.append(
            Stored(
                tenant.decode(), stream.decode(), seq, position, epoch, kind.decode(), at_ms, body
            )
        )
        size_bytes += len(body)
        if size_bytes >= PAGE_BYTES:
            break
    return entries, None


def _checksum(fields: tuple[bytes, bytes, int, int, bytes, int], body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(b"%b\0%b\0%d\0%d\0%b\0%d\0" % fields))


def _bytes(entries: Sequence[Stored]) -> int:
    return sum(len(stored.body) for stored in entries)


def _all(db: sqlite3.Connection, query: str, values: tuple[Any, ...]) -> list[Any]:
    with closing(db.execute(query, values)) as rows:
        return rows.fetchall()


def _check_size(tenant: str, stream: str, body: bytes) -> None:
    if len(body) > BODY_BYTES_MAX:
        raise BodyTooLargeError(
            f"a body of {len(body)} bytes for stream {stream} of {tenant} is over {BODY_BYTES_MAX}"
        )
