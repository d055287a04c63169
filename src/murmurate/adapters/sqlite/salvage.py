"""Puts what can be read of a damaged log into a new file, and says exactly what is missing.

Every row proves itself by its checksum, so it does not matter how damaged the trees around it are.
"""

import sqlite3
from collections.abc import Generator
from contextlib import closing, suppress
from pathlib import Path

from murmurate.adapters.log_checksums import entry_checksum, head_checksum
from murmurate.adapters.sqlite.copies import check_room
from murmurate.adapters.sqlite.damage import KNOWN_MAX, Damage, Reason
from murmurate.adapters.sqlite.database import open_writer, translated
from murmurate.adapters.sqlite.format import ENTRY_COLUMNS, SCHEMA, SNAPSHOT_COLUMNS
from murmurate.adapters.sqlite.pages import Pages, Row, Value
from murmurate.adapters.sqlite.queries import Head, keep_damage, put_head, rows_of
from murmurate.core.ports import SNAPSHOT
from murmurate.core.types import Frozen

POSITIONS_LEFT_OUT = 1_000_000
"""A lost position must not be given out again; more than these are not lost at once."""

CERTAIN = ("system", "key/")
"""The tenant and the prefix of streams that are believed whole or not at all: what is lost without
a trace may be the revocation of a key."""

_ENTRY = "INSERT OR IGNORE INTO entry VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_SNAPSHOT = """INSERT INTO snapshot VALUES (?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET seq = excluded.seq, position = excluded.position,
    epoch = excluded.epoch, at = excluded.at, crc = excluded.crc, body = excluded.body
    WHERE excluded.seq >= seq"""
_MADE_FOR_IT = (
    # What an index or a damaged row says was there, unproven.
    "CREATE TEMP TABLE hint (tenant, stream, seq, PRIMARY KEY (tenant, stream, seq)) WITHOUT ROWID",
    """CREATE TEMP TABLE found_head (tenant, stream, seq, first, snapshot,
        PRIMARY KEY (tenant, stream)) WITHOUT ROWID""",
)
_HEAD = """INSERT INTO found_head VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE
    SET seq = excluded.seq, first = excluded.first, snapshot = excluded.snapshot
    WHERE excluded.seq >= seq AND excluded.first >= first"""
# A single hint may come of a name that was damaged in the index.
_STREAMS = """SELECT s.tenant, s.stream, h.seq, h.first, h.snapshot FROM (
        SELECT tenant, stream FROM entry UNION SELECT tenant, stream FROM found_head
        UNION SELECT tenant, stream FROM snapshot
        UNION SELECT tenant, stream FROM (SELECT tenant, stream FROM hint
            GROUP BY tenant, stream HAVING count(*) > 1)) AS s
    LEFT JOIN found_head AS h USING (tenant, stream) ORDER BY s.tenant, s.stream"""

# Work proves nothing, and is told again what it is about by its stream when it is claimed: what is
# over is struck off then. So an old row does no harm; of several the last holder's counts.
_WORK = """INSERT INTO work VALUES (?, ?, ?, ?, ?, ?, NULL, ?, 0)
    ON CONFLICT DO UPDATE SET queue = excluded.queue, priority = excluded.priority,
    turn = excluded.turn, due = excluded.due, epoch = excluded.epoch
    WHERE excluded.epoch >= epoch"""
_FORGOTTEN_WORK = """DELETE FROM work WHERE EXISTS (SELECT 1 FROM head
    WHERE head.tenant = work.tenant AND head.stream = work.stream
    AND head.seq < head.first AND head.snapshot = 0)"""
# The queue and the kinds of runs, as `jobs/entries.py` has them: a run that was accepted goes on,
# though nothing is left of the row by which somebody would find it.
_RUNS_UNDER_WAY = """INSERT INTO work SELECT tenant, stream, 'runs', 0,
        row_number() OVER (ORDER BY position), 0, NULL,
        (SELECT max(epoch) FROM entry AS any
            WHERE any.tenant = last.tenant AND any.stream = last.stream), 0
    FROM entry AS last WHERE stream >= 'run/' AND stream < 'run0'
        AND kind NOT IN ('run.finished', 'run.failed', 'run.cancelled')
        AND NOT EXISTS (SELECT 1 FROM entry AS later WHERE later.tenant = last.tenant
            AND later.stream = last.stream AND later.seq > last.seq)
    ON CONFLICT DO NOTHING"""


class Salvaged(Frozen, frozen=True):
    """What was saved, and what was not."""

    entries: int
    streams: int
    damage: tuple[Damage, ...]


def salvage(path: Path, wal: Path, target: Path, *, now_ms: int) -> Salvaged | None:
    """Write a new log at `target`; None, and no file, where nothing of ours was found.

    Raises:
        LogUnavailableError: There is no room for it.
    """
    with translated(path), closing(Pages(path, wal)) as pages:
        check_room(target.parent, pages.size_bytes, what=f"the salvage of {path.name}")
        target.unlink(missing_ok=True)
        with closing(open_writer(target, SCHEMA, synchronous="OFF")) as db:
            db.execute("PRAGMA journal_mode=OFF").fetchall()  # begun anew if it is interrupted
            db.execute("BEGIN")
            for statement in _MADE_FOR_IT:
                db.execute(statement)
            for row in pages.rows():
                _take(db, row)
            damage = list(_settle(db))
            db.execute(_FORGOTTEN_WORK)
            db.execute(_RUNS_UNDER_WAY)
            for place in damage[:KNOWN_MAX]:
                keep_damage(db, place, now_ms)
            [(entries, newest)] = rows_of(db, "SELECT count(*), max(position) FROM entry", ())
            [(streams,)] = rows_of(db, "SELECT count(*) FROM head", ())
            if newest is not None:
                db.execute("UPDATE sqlite_sequence SET seq = ?", (newest + POSITIONS_LEFT_OUT,))
            db.execute("COMMIT")
    if not streams:
        target.unlink()
        return None
    return Salvaged(entries, streams, tuple(damage))


def _take(db: sqlite3.Connection, row: Row) -> None:
    """Keep a row if it proves to be one of ours."""
    match row.values:
        case (None, bytes() as tenant, bytes() as stream, int() as seq, *_) if (
            row.rowid is not None and len(row.values) == ENTRY_COLUMNS
        ):
            if not _take_entry(db, row):
                _hint(db, tenant, stream, seq)
        case (bytes(), bytes(), int(), *_) if row.rowid is not None:
            if len(row.values) == SNAPSHOT_COLUMNS:
                _take_snapshot(db, row.values)
        case (bytes() as tenant, bytes() as stream, int() as seq, int() as first, int() as it, crc):
            if crc == head_checksum((tenant, stream), seq, first, it):
                db.execute(_HEAD, (tenant.decode(), stream.decode(), seq, first, it))
        case (bytes(), bytes(), bytes(), int(), int(), int(), _, int(), int()):
            _take_work(db, row.values)
        case (bytes() as tenant, bytes() as stream, int() as seq, int()):
            _hint(db, tenant, stream, seq)  # an index, or a head of format 1
        case _:
            pass


def _take_entry(db: sqlite3.Connection, row: Row) -> bool:
    """Insert an entry if its checksum is right; return whether it is."""
    _, tenant, stream, seq, epoch, kind, at_ms, crc, body = row.values
    if not _proven((tenant, stream, seq, epoch, kind, at_ms), body, crc):
        return False
    assert isinstance(tenant, bytes)
    assert isinstance(stream, bytes)
    assert isinstance(kind, bytes)
    rest = (tenant.decode(), stream.decode(), seq, epoch, kind.decode(), at_ms, crc, body)
    if db.execute(_ENTRY, (row.rowid, *rest)).rowcount == 0:
        # The position is taken: by the same entry in another version of the page, or because a
        # damaged row came by it. Then this one gets another, and keeps its place in its stream.
        db.execute(_ENTRY, (None, *rest))
    return True


def _take_snapshot(db: sqlite3.Connection, values: tuple[Value, ...]) -> None:
    tenant, stream, seq, position, epoch, at_ms, crc, body = values
    if _proven((tenant, stream, seq, epoch, SNAPSHOT.encode(), at_ms), body, crc):
        assert isinstance(tenant, bytes)
        assert isinstance(stream, bytes)
        names = (tenant.decode(), stream.decode())
        db.execute(_SNAPSHOT, (*names, seq, position, epoch, at_ms, crc, body))


def _take_work(db: sqlite3.Connection, values: tuple[Value, ...]) -> None:
    """Let anybody claim it: whoever held it is gone, as nobody else has the log open."""
    tenant, stream, queue, priority, turn, due_ms, _, epoch, nudged = values
    assert isinstance(tenant, bytes)
    assert isinstance(stream, bytes)
    assert isinstance(queue, bytes)
    with suppress(UnicodeDecodeError):
        names = (tenant.decode(), stream.decode(), queue.decode())
        db.execute(_WORK, (*names, priority, turn, 0 if nudged else due_ms, epoch))


def _proven(fields: tuple[Value, ...], body: Value, crc: Value) -> bool:
    try:
        return crc == entry_checksum(fields, body)  # pyright: ignore[reportArgumentType] - the point
    except TypeError:
        return False


def _hint(db: sqlite3.Connection, tenant: bytes, stream: bytes, seq: int) -> None:
    names = (tenant.decode(errors="replace"), stream.decode(errors="replace"))
    db.execute("INSERT OR IGNORE INTO hint VALUES (?, ?, ?)", (*names, seq))


def _settle(db: sqlite3.Connection) -> Generator[Damage]:
    """Write the head of each stream, drop what was forgotten, and yield what is missing."""
    for tenant, stream, seq, first, snapshot in rows_of(db, _STREAMS, ()):
        key = (tenant, stream)
        head = Head(seq, first, snapshot) if seq is not None else _recounted(db, key)
        found = head.seq
        if seq is None and tenant == CERTAIN[0] and stream.startswith(CERTAIN[1]):
            head = Head(found + 1, head.first, head.snapshot)  # so that its reader meets a gap
        db.execute(
            "DELETE FROM entry WHERE tenant = ? AND stream = ? AND seq < ?", (*key, head.first)
        )
        [(newest,)] = rows_of(
            db, "SELECT coalesce(max(seq), 0) FROM entry WHERE tenant = ? AND stream = ?", key
        )
        kept = rows_of(db, "SELECT seq FROM snapshot WHERE tenant = ? AND stream = ?", key)
        if kept and head.snapshot == 0:  # forgotten with the whole stream
            db.execute("DELETE FROM snapshot WHERE tenant = ? AND stream = ?", key)
        elif head.snapshot and kept != [(head.snapshot,)]:
            db.execute("DELETE FROM snapshot WHERE tenant = ? AND stream = ?", key)
            yield Damage(tenant, stream, head.snapshot, head.snapshot, Reason.SNAPSHOT)
        head = Head(max(head.seq, newest), head.first, head.snapshot)
        put_head(db, key, head)
        yield from _gaps(db, key, head)
        if seq is None:
            yield Damage(tenant, stream, head.first, found, Reason.RECOUNTED)


def _recounted(db: sqlite3.Connection, key: tuple[str, str]) -> Head:
    """Return what the head of a stream must have been at least."""
    query = """SELECT coalesce(max(seq), 0), coalesce(min(seq), 0) FROM (
        SELECT seq FROM entry WHERE tenant = ?1 AND stream = ?2
        UNION ALL SELECT seq FROM hint WHERE tenant = ?1 AND stream = ?2
        UNION ALL SELECT seq FROM snapshot WHERE tenant = ?1 AND stream = ?2)"""
    [(newest, oldest)] = rows_of(db, query, key)
    kept = rows_of(db, "SELECT seq FROM snapshot WHERE tenant = ? AND stream = ?", key)
    return Head(newest, max(oldest, 1), kept[0][0] if kept else 0)


def _gaps(db: sqlite3.Connection, key: tuple[str, str], head: Head) -> Generator[Damage]:
    following = head.first
    query = "SELECT seq FROM entry WHERE tenant = ? AND stream = ? ORDER BY seq"
    with closing(db.execute(query, key)) as rows:
        for (seq,) in rows:
            if seq > following:
                yield Damage(*key, following, seq - 1, Reason.LOST)
            following = seq + 1
    if following <= head.seq:
        yield Damage(*key, following, head.seq, Reason.LOST)
