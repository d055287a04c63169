"""truth.db as one end of a copy: read as it is, or written beside its place and then put there."""

import sqlite3
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from murmurate.adapters.log_copy import PAGE_BYTES, PAGE_ROWS, Facts, Row, Table, mark_of
from murmurate.adapters.sqlite.copies import sync
from murmurate.adapters.sqlite.database import (
    check_version,
    looking,
    open_writer,
    roll_back,
    translated,
    version_of,
)
from murmurate.adapters.sqlite.format import SCHEMA
from murmurate.core.errors import LogUnavailableError, StateNotEmptyError

HALF = ".copying"
"""What a copy that is not finished is called behind the log's own name."""
_COPYING = "copying"

_SUMS = "SELECT (SELECT count(*) FROM {0}), (SELECT coalesce(sum(crc), 0) FROM {0})"
_MISSING = """SELECT (SELECT coalesce(sum(seq - first + 1), 0) FROM head)
    - (SELECT count(*) FROM entry)"""
_POSITION = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'entry'"


class SqliteSource:
    """The log of a state folder on which no service runs."""

    def __init__(self, path: Path) -> None:
        """Open it. `close()` it.

        Raises:
            LogUnavailableError: There is none, or it is of an older format.
            LogNewerError: A newer version wrote it.
            LogCorruptError: It is damaged.
        """
        self.name = str(path)
        self._path = path
        if not path.is_file():
            raise LogUnavailableError(f"{path}: there is no log")
        self._open = ExitStack()
        with translated(path):
            check_version(path, SCHEMA)
            self._db = self._open.enter_context(looking(path))
            self._db.text_factory = str
            version = version_of(self._db)
        if version != SCHEMA.version:
            self._open.close()
            raise LogUnavailableError(
                f"{path} has format {version}: start murmurate on it once, so that it is upgraded"
            )

    async def facts(self) -> Facts:
        """Return what the log is now; see `Store`."""
        with translated(self._path):
            return facts_of(self._db)

    async def page(self, table: Table, after: Row | None) -> list[Row]:
        """Return the next rows; see `Store`."""
        with translated(self._path):
            return page_of(self._db, table, after)

    async def close(self) -> None:
        """Close the file."""
        self._open.close()


class SqliteTarget:
    """A log to be: `truth.db.copying`, until it is whole."""

    def __init__(self, path: Path) -> None:
        """`path` is where the log will be. `close()` it."""
        self.name = str(path)
        self._path = path
        self._half = path.with_name(path.name + HALF)
        self._db: sqlite3.Connection | None = None

    async def begin(self, source_id: str, mark: str) -> bool:
        """Make it ready, or go on; see `Target`."""
        if self._path.exists() and self._path.stat().st_size:
            raise StateNotEmptyError(f"{self._path} exists: name another folder")
        mine = f"{_COPYING} {source_id} {mark}"
        with translated(self._half):
            db = self._opened()
            found = _id_of(db)
            if found in {mine, source_id}:  # of one that was only not put in its place yet, the id
                return True
            is_ours = found.startswith(f"{_COPYING} {source_id} ")
            if not is_ours and (found.startswith(_COPYING) or facts_of(db).entries):
                raise StateNotEmptyError(f"{self._half} is half a copy of another log: remove it")
            self._close()
            for ending in ("", "-wal", "-shm"):
                self._half.with_name(self._half.name + ending).unlink(missing_ok=True)
            self._opened().execute("UPDATE file SET id = ?", (mine,))
        return False

    async def facts(self) -> Facts:
        """Return what the log is now; see `Store`."""
        with translated(self._half):
            return facts_of(self._opened())

    async def page(self, table: Table, after: Row | None) -> list[Row]:
        """Return the next rows; see `Store`."""
        with translated(self._half):
            return page_of(self._opened(), table, after)

    async def last(self, table: Table) -> Row | None:
        """Return the key of the last row that is there; see `Target`."""
        key = ", ".join(table.key_columns)
        order = ", ".join(f"{name} DESC" for name in table.key_columns)
        query = f"SELECT {key} FROM {table.title} ORDER BY {order} LIMIT 1"  # noqa: S608 - our own words
        with translated(self._half), closing(self._opened().execute(query)) as rows:
            return rows.fetchone()

    async def put(self, table: Table, rows: Sequence[Row]) -> None:
        """Write rows; see `Target`."""
        columns = ", ".join(table.columns)
        marks = ", ".join("?" for _ in table.columns)
        statement = f"INSERT INTO {table.title} ({columns}) VALUES ({marks})"  # noqa: S608
        with translated(self._half):
            db = self._opened()
            db.execute("BEGIN IMMEDIATE")
            try:
                db.executemany(statement, rows)
                db.execute("COMMIT")
            except BaseException:
                roll_back(db)
                raise

    async def set_position(self, position: int) -> None:
        """Let the next entry have a higher position; see `Target`."""
        with translated(self._half):
            db = self._opened()
            db.execute("DELETE FROM sqlite_sequence WHERE name = 'entry'")
            db.execute("INSERT INTO sqlite_sequence VALUES ('entry', ?)", (position,))

    async def finish(self, source_id: str) -> None:
        """Put it in its place; see `Target`. Killed at any point, the next copy does it."""
        try:
            with translated(self._half):
                db = self._opened()
                db.execute("UPDATE file SET id = ?", (source_id,))
                db.execute("PRAGMA journal_mode=DELETE").fetchall()  # a single file
                self._close()
            sync(self._half)
            self._half.replace(self._path)
            sync(self._path.parent)
        except OSError as cause:
            raise LogUnavailableError(f"{self._path}: {cause.strerror}") from cause

    async def close(self) -> None:
        """Close the file."""
        self._close()

    def _opened(self) -> sqlite3.Connection:
        if self._db is None:
            self._db = open_writer(self._half, SCHEMA, synchronous="FULL")
        return self._db

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None


def facts_of(db: sqlite3.Connection) -> Facts:
    """Return what the log is now."""
    [heads] = _rows(db, _SUMS.format("head"))
    [snapshots] = _rows(db, _SUMS.format("snapshot"))
    [(missing,)] = _rows(db, _MISSING)
    [(entries,)] = _rows(db, "SELECT count(*) FROM entry")
    [(position,)] = _rows(db, _POSITION)
    id_ = _id_of(db)
    work = _rows(db, "SELECT * FROM work ORDER BY tenant, stream")
    lanes = _rows(db, "SELECT * FROM lane ORDER BY queue, priority")
    runners = _rows(db, "SELECT * FROM runner ORDER BY name")
    mark = mark_of(id_, position, heads, snapshots, work, lanes, runners)
    return Facts(id_, position, entries, missing, mark)


def page_of(db: sqlite3.Connection, table: Table, after: Row | None) -> list[Row]:
    """Return the next rows behind a key, up to a page's size."""
    columns, key = ", ".join(table.columns), ", ".join(table.key_columns)
    where = "" if after is None else f"WHERE ({key}) > ({', '.join('?' for _ in after)})"
    query = f"SELECT {columns} FROM {table.title} {where} ORDER BY {key} LIMIT {PAGE_ROWS}"  # noqa: S608
    found: list[Row] = []
    size_bytes = 0
    with closing(db.execute(query, after or ())) as rows:
        for row in rows:
            found.append((*row[:-1], bool(row[-1])) if table is Table.WORK else row)
            size_bytes += len(row[-1]) if table.columns[-1] == "body" else 0
            if size_bytes >= PAGE_BYTES:
                break
    return found


def _id_of(db: sqlite3.Connection) -> str:
    [(found,)] = _rows(db, "SELECT id FROM file")
    return found.decode() if isinstance(found, bytes) else found


def _rows(db: sqlite3.Connection, query: str) -> list[Any]:
    with closing(db.execute(query)) as rows:
        return rows.fetchall()
