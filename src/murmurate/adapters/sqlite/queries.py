"""What the log asks of SQLite and what it makes of the answers: each row is checked as it comes."""

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Any

from murmurate.adapters.log_checksums import entry_checksum, head_checksum
from murmurate.adapters.sqlite.damage import KNOWN_MAX, Damage, Reason
from murmurate.adapters.sqlite.database import reading
from murmurate.core.errors import LogConflictError, LogCorruptError
from murmurate.core.ports import SNAPSHOT, Stored
from murmurate.core.types import Frozen

PAGE_ROWS = 256
PAGE_BYTES = 4 * 1024 * 1024
"""A page of a stream ends at whichever comes first, so that big bodies do not pile up."""

_PUT_HEAD = """INSERT INTO head (tenant, stream, seq, first, snapshot, crc)
    VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET seq = excluded.seq, first = excluded.first,
    snapshot = excluded.snapshot, crc = excluded.crc"""
_HEAD = "SELECT seq, first, snapshot, crc FROM head WHERE tenant = ? AND stream = ?"
_HEADS = """SELECT tenant, stream FROM head
    WHERE (tenant, stream) > (CAST(? AS TEXT), CAST(? AS TEXT))
    ORDER BY tenant, stream LIMIT ?"""
_ENTRIES = """SELECT tenant, stream, seq, position, epoch, kind, at, body, crc FROM entry
    WHERE tenant = ? AND stream = ? AND seq > ? ORDER BY seq LIMIT ?"""
_SNAPSHOT = """SELECT tenant, stream, seq, position, epoch, CAST(? AS TEXT), at, body, crc
    FROM snapshot WHERE tenant = ? AND stream = ?"""
_NEWS = """SELECT tenant, stream, seq, position, epoch, kind, at, body, crc FROM entry
    WHERE position > ? AND position <= ? AND substr(stream, 1, ?) = ? ORDER BY position LIMIT ?"""
_STREAMS = """SELECT stream, seq FROM head
    WHERE tenant = ? AND stream > ? AND stream >= ? AND stream < ?
    AND (seq >= first OR snapshot > 0) ORDER BY stream LIMIT ?"""
_HEADLESS = """SELECT tenant, stream, min(seq), max(seq) FROM entry
    WHERE (tenant, stream) NOT IN (SELECT tenant, stream FROM head)
    GROUP BY tenant, stream LIMIT ?"""
_LAST = "\U0010ffff"  # the highest code point, which no name contains: it ends a range of prefixes


class Head(Frozen, frozen=True):
    """The seqs of a stream's last entry, of the oldest not forgotten, and of its snapshot or 0."""

    seq: int = 0
    first: int = 1
    snapshot: int = 0


class Page(Frozen, frozen=True):
    """A part of a stream. `damage` is what lies behind its last entry, `through` how far it saw."""

    entries: tuple[Stored, ...] = ()
    more: bool = False
    damage: Damage | None = None
    through: int = 0


def snapshot(
    db: sqlite3.Connection, key: tuple[str, str], seq: int, *, body: bytes, at_ms: int
) -> None:
    """Write a snapshot inside the caller's transaction, unless there is a newer one."""
    head = head_of(db, key)
    if head.snapshot > seq:
        return
    query = "SELECT position, epoch FROM entry WHERE tenant = ? AND stream = ? AND seq = ?"
    if head.snapshot == seq:
        query = query.replace("FROM entry", "FROM snapshot")
    found = rows_of(db, query, (*key, seq))
    if not found:
        raise LogConflictError(f"stream {key[1]} of {key[0]} has no entry {seq} to stand for")
    position, epoch = found[0]
    tenant, stream = key
    fields = (tenant.encode(), stream.encode(), seq, epoch, SNAPSHOT.encode(), at_ms)
    crc = entry_checksum(fields, body)
    db.execute(
        "INSERT OR REPLACE INTO snapshot VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (tenant, stream, seq, position, epoch, at_ms, crc, body),
    )
    put_head(db, key, Head(head.seq, head.first, seq))


def forget(db: sqlite3.Connection, key: tuple[str, str], before: int | None) -> None:
    """Delete entries below `before`, or all with the snapshot, inside the caller's transaction."""
    head = head_of(db, key)
    if head == Head():
        return
    end = head.seq + 1
    cut = end if before is None else max(head.first, min(before, end))
    db.execute("DELETE FROM entry WHERE tenant = ? AND stream = ? AND seq < ?", (*key, cut))
    if before is None:
        db.execute("DELETE FROM snapshot WHERE tenant = ? AND stream = ?", key)
    put_head(db, key, Head(head.seq, cut, 0 if before is None else head.snapshot))
    db.execute("DELETE FROM damage WHERE tenant = ? AND stream = ? AND last < ?", (*key, cut))


def head_of(db: sqlite3.Connection, key: tuple[str, str]) -> Head:
    """Return the head of a stream, the empty one where there is none.

    Raises:
        LogCorruptError: It is damaged.
    """
    rows = rows_of(db, _HEAD, key)
    return intact_head(key, rows[0]) if rows else Head()


def intact_head(key: tuple[str, str], row: tuple[int, int, int, int]) -> Head:
    """Return a head from its seq, first, snapshot and crc.

    Raises:
        LogCorruptError: It is damaged.
    """
    tenant, stream = key
    seq, first, snapshot, crc = row
    try:
        intact = crc == head_checksum((tenant.encode(), stream.encode()), seq, first, snapshot)
    except TypeError:  # damage can turn a number into a text
        intact = False
    if not intact:
        raise LogCorruptError(str(Damage(tenant, stream, 0, 0, Reason.HEAD)))
    return Head(seq, first, snapshot)


def page(db: sqlite3.Connection, tenant: str, stream: str, after: int, *, beginning: bool) -> Page:
    """Return the entries above `after` up to a page's size, and what is damaged behind them.

    At the `beginning` a newer snapshot comes first; midway only where the entries ahead were
    forgotten meanwhile.
    """
    key = (tenant, stream)
    with reading(db):
        try:
            head = head_of(db, key)
        except LogCorruptError:
            return Page(damage=Damage(tenant, stream, after + 1, after + 1, Reason.HEAD))
        entries: list[Stored] = []
        if (beginning or head.first > after + 1) and head.snapshot > after:
            entries, damage = checked(rows_of(db, _SNAPSHOT, (SNAPSHOT, *key)))
            if damage or not entries or entries[0].seq != head.snapshot:
                seq = head.snapshot
                return Page(damage=Damage(tenant, stream, seq, seq, Reason.SNAPSHOT))
            after = entries[0].seq
        following = max(after + 1, head.first)
        with closing(db.execute(_ENTRIES, (*key, following - 1, PAGE_ROWS))) as rows:
            behind, damage = checked(rows)
    for stored in behind:
        if stored.seq != following:
            break
        entries.append(stored)
        following += 1
    damage = missing(key, following, head, behind=behind, damage=damage)
    return Page(tuple(entries), more=following <= head.seq, damage=damage)


def missing(
    key: tuple[str, str],
    following: int,
    head: Head,
    *,
    behind: Sequence[Stored],
    damage: Damage | None,
) -> Damage | None:
    """Return what stands in the way at the seq `following`, where a page's entries end."""
    if behind and behind[-1].seq > head.seq:
        return Damage(*key, following, following, Reason.HEAD)
    if behind and behind[-1].seq >= following:
        next_there = next(stored.seq for stored in behind if stored.seq >= following)
        return Damage(*key, following, next_there - 1, Reason.LOST)
    if damage is not None and damage.seq > following:
        return Damage(*key, following, damage.seq - 1, Reason.LOST)
    if damage is not None:
        return Damage(*key, following, following, Reason.DAMAGED)
    if not behind and following <= head.seq:
        return Damage(*key, following, head.seq, Reason.LOST)
    return None


def news_page(db: sqlite3.Connection, prefix: str, after: int) -> Page:
    """Return the entries of all streams of the prefix with a position above `after`."""
    with reading(db):
        [(newest,)] = rows_of(db, "SELECT coalesce(max(position), 0) FROM entry", ())
        values = (after, newest, len(prefix), prefix, PAGE_ROWS)
        with closing(db.execute(_NEWS, values)) as rows:
            entries, damage = checked(rows)
    # Without more matches the next look starts behind all that was looked at.
    size_bytes = sum(len(stored.body) for stored in entries)
    more = len(entries) == PAGE_ROWS or size_bytes >= PAGE_BYTES
    through = entries[-1].position if more else max(after, newest)
    return Page(tuple(entries), more, damage, through)


def stream_names(
    db: sqlite3.Connection, tenant: str, prefix: str, after: str
) -> list[tuple[str, int]]:
    """Return a page of names above `after` with their heads' seqs."""
    rows = rows_of(db, _STREAMS, (tenant, after, prefix, prefix + _LAST, PAGE_ROWS))
    return [(text_of(name), number_of(head)) for name, head in rows]


def all_names(db: sqlite3.Connection, after: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """Return a page of (tenant, stream) of whatever has a head, above `after`."""
    return rows_of(db, _HEADS, (*after, PAGE_ROWS))


def headless(db: sqlite3.Connection) -> list[Damage]:
    """Return the streams that have entries, but no head that leads to them."""
    return [
        Damage(text_of(t), text_of(s), number_of(first), number_of(last), Reason.HEAD)
        for t, s, first, last in rows_of(db, _HEADLESS, (KNOWN_MAX,))
    ]


def known_damage(db: sqlite3.Connection) -> list[Damage]:
    """Return what was found before; texts come as bytes."""
    query = "SELECT tenant, stream, seq, last, reason FROM damage ORDER BY at LIMIT ?"
    reasons = {reason.value: reason for reason in Reason}
    return [
        Damage(text_of(t), text_of(s), number_of(seq), number_of(last), reasons[reason])
        for t, s, seq, last, told in rows_of(db, query, (KNOWN_MAX,))
        if (reason := text_of(told)) in reasons
    ]


def keep_damage(db: sqlite3.Connection, damage: Damage, at_ms: int) -> None:
    """Write it down, so that it is known after the next start."""
    db.execute(
        "INSERT OR IGNORE INTO damage VALUES (?, ?, ?, ?, ?, ?)",
        (damage.tenant, damage.stream, damage.seq, damage.last, damage.reason.value, at_ms),
    )


def checked(rows: sqlite3.Cursor | list[Any]) -> tuple[list[Stored], Damage | None]:
    """Return the rows up to a page's size or the first damaged one, and which that is."""
    entries: list[Stored] = []
    size_bytes = 0
    for tenant, stream, seq, position, epoch, kind, at_ms, body, crc in rows:
        try:
            intact = crc == entry_checksum((tenant, stream, seq, epoch, kind, at_ms), body)
        except TypeError:  # damage can turn a number into a text
            intact = False
        if not intact:
            place = number_of(seq)
            t, s = (text_of(name) for name in (tenant, stream))
            return entries, Damage(t, s, place, place, Reason.DAMAGED)
        entries.append(
            Stored(
                tenant.decode(), stream.decode(), seq, position, epoch, kind.decode(), at_ms, body
            )
        )
        size_bytes += len(body)
        if size_bytes >= PAGE_BYTES:
            break
    return entries, None


def rows_of(db: sqlite3.Connection, query: str, values: tuple[Any, ...]) -> list[Any]:
    """Return all rows of a query that has few."""
    with closing(db.execute(query, values)) as rows:
        return rows.fetchall()


def text_of(value: object) -> str:
    """Return what stands where a text should: damage can turn it into anything."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def number_of(value: object) -> int:
    """Return what stands where a number should, 0 for anything else."""
    return value if isinstance(value, int) else 0


def put_head(db: sqlite3.Connection, key: tuple[str, str], head: Head) -> None:
    """Write a head with its checksum."""
    put_heads(db, [(key, head)])


def put_heads(db: sqlite3.Connection, heads: Iterable[tuple[tuple[str, str], Head]]) -> None:
    """Write heads with their checksums."""
    rows: list[tuple[str, str, int, int, int, int]] = []
    for (tenant, stream), head in heads:
        crc = head_checksum((tenant.encode(), stream.encode()), head.seq, head.first, head.snapshot)
        rows.append((tenant, stream, head.seq, head.first, head.snapshot, crc))
    db.executemany(_PUT_HEAD, rows)
