"""The format of truth.db: its tables, what its checksums cover, how older files become this one.

A head says everything about its stream: the seq of the last entry, of the oldest one that is not
forgotten, and of the snapshot (0: none). So whatever is missing can be told, and named.
"""

import sqlite3

from murmurate.adapters.log_checksums import head_checksum
from murmurate.adapters.sqlite.database import Schema

ENTRY_COLUMNS = 9
SNAPSHOT_COLUMNS = 8

_HEAD = """CREATE TABLE head (
    tenant TEXT NOT NULL, stream TEXT NOT NULL,
    seq INTEGER NOT NULL, first INTEGER NOT NULL, snapshot INTEGER NOT NULL, crc INTEGER NOT NULL,
    PRIMARY KEY (tenant, stream)) WITHOUT ROWID"""
# The format stands in the header, too. Two places that disagree mean damage, not another version.
_FILE = "CREATE TABLE file (format INTEGER NOT NULL, id TEXT NOT NULL)"
_DAMAGE = """CREATE TABLE damage (
    tenant TEXT NOT NULL, stream TEXT NOT NULL, seq INTEGER NOT NULL, last INTEGER NOT NULL,
    reason TEXT NOT NULL, at INTEGER NOT NULL,
    PRIMARY KEY (tenant, stream, seq)) WITHOUT ROWID"""
_NAME_FILE = "INSERT INTO file VALUES (2, lower(hex(randomblob(16))))"
_WORK = (
    """CREATE TABLE work (
        tenant TEXT NOT NULL, stream TEXT NOT NULL, queue TEXT NOT NULL, priority INTEGER NOT NULL,
        turn INTEGER NOT NULL, due INTEGER NOT NULL, runner TEXT, epoch INTEGER NOT NULL,
        nudged INTEGER NOT NULL,
        PRIMARY KEY (tenant, stream)) WITHOUT ROWID""",
    # The first that may be claimed; the next that will be; what a runner holds; whose turn is next.
    """CREATE INDEX work_ready ON work (queue, priority DESC, turn)
        WHERE runner IS NULL AND due = 0""",
    "CREATE INDEX work_due ON work (queue, due) WHERE runner IS NULL AND due > 0",
    "CREATE INDEX work_held ON work (runner, nudged) WHERE runner IS NOT NULL",
    "CREATE INDEX work_turn ON work (queue, priority, tenant, turn)",
    """CREATE TABLE lane (
        queue TEXT NOT NULL, priority INTEGER NOT NULL, served INTEGER NOT NULL,
        PRIMARY KEY (queue, priority)) WITHOUT ROWID""",
    "CREATE TABLE runner (name TEXT NOT NULL PRIMARY KEY, beat INTEGER NOT NULL) WITHOUT ROWID",
)


def heads_with_checksums(db: sqlite3.Connection) -> None:
    """Format 1 to 2: heads know of their snapshot and are checked; the file knows its damage."""

    def crc(tenant: str, stream: str, *counts: int) -> int:
        return head_checksum((tenant.encode(), stream.encode()), *counts)

    db.create_function("head_crc", 5, crc, deterministic=True)
    db.execute("ALTER TABLE head RENAME TO head_v1")
    db.execute(_HEAD)
    # In format 1 nothing proved a head: where entries say otherwise, they are right.
    db.execute(
        """INSERT INTO head SELECT tenant, stream, seq, first, snapshot,
            head_crc(tenant, stream, seq, first, snapshot)
        FROM (SELECT h.tenant, h.stream,
                max(h.seq, coalesce(max(e.seq), 0)) AS seq,
                min(h.first, coalesce(min(e.seq), h.first)) AS first,
                coalesce(s.seq, 0) AS snapshot
            FROM head_v1 AS h
            LEFT JOIN entry AS e ON e.tenant = h.tenant AND e.stream = h.stream
            LEFT JOIN snapshot AS s ON s.tenant = h.tenant AND s.stream = h.stream
            GROUP BY h.tenant, h.stream)"""
    )
    db.execute("DROP TABLE head_v1")
    db.execute(_FILE)
    db.execute(_NAME_FILE)
    db.execute(_DAMAGE)


def work_and_runners(db: sqlite3.Connection) -> None:
    """Format 2 to 3: streams can describe work, which runners claim."""
    for statement in _WORK:
        db.execute(statement)
    db.execute("UPDATE file SET format = 3")


SCHEMA = Schema(
    version=3,
    statements=(
        """CREATE TABLE entry (
            position INTEGER PRIMARY KEY AUTOINCREMENT,
            tenant TEXT NOT NULL, stream TEXT NOT NULL, seq INTEGER NOT NULL,
            epoch INTEGER NOT NULL, kind TEXT NOT NULL, at INTEGER NOT NULL,
            crc INTEGER NOT NULL, body BLOB NOT NULL)""",
        "CREATE UNIQUE INDEX entry_by_seq ON entry (tenant, stream, seq)",
        _HEAD,
        """CREATE TABLE snapshot (
            tenant TEXT NOT NULL, stream TEXT NOT NULL, seq INTEGER NOT NULL,
            position INTEGER NOT NULL, epoch INTEGER NOT NULL, at INTEGER NOT NULL,
            crc INTEGER NOT NULL, body BLOB NOT NULL,
            PRIMARY KEY (tenant, stream))""",
        _FILE,
        _NAME_FILE,
        _DAMAGE,
        *_WORK,
        "UPDATE file SET format = 3",
    ),
    migrations=(heads_with_checksums, work_and_runners),
)
