"""Opens SQLite files the one way we use them, and says their errors in our words."""

import sqlite3
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

from murmurate.core.errors import LogCorruptError, LogUnavailableError, MurmurateError
from murmurate.core.types import Frozen

BUSY_S = 5.0
"""How long a statement waits for another process that writes to the same file."""

_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_WAL_ATTEMPTS = 250
_WAL_PAUSE_S = 0.02


class Schema(Frozen, frozen=True):
    """The tables of a file; `version` grows with each change of them."""

    version: int
    statements: tuple[str, ...]


def open_writer(path: Path, schema: Schema, *, synchronous: str) -> sqlite3.Connection:
    """Open the file for writing, making its tables if it is new. Blocks; usable in any thread.

    Raises:
        LogUnavailableError: It cannot be opened, or a newer murmurate wrote it.
        LogCorruptError: It is not a SQLite file, or a damaged one.
    """
    with translated(path):
        connection = sqlite3.connect(
            path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
        )
        try:
            _switch_to_wal(connection)
            connection.execute(f"PRAGMA synchronous={synchronous}")
            connection.execute("PRAGMA journal_size_limit=67108864")  # the WAL shrinks to 64 MiB
            _make_tables(connection, path, schema)
        except BaseException:
            connection.close()
            raise
        return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """Open the file for reading only. Texts come back as bytes, so that damaged ones can be told.

    Raises:
        LogUnavailableError: It cannot be opened.
    """
    with translated(path):
        connection = sqlite3.connect(
            path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA query_only=ON")
        connection.text_factory = bytes
        return connection


@contextmanager
def reading(connection: sqlite3.Connection) -> Generator[None]:
    """See one state of the file in all queries of the `with` block."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        _roll_back(connection)


@contextmanager
def translated(path: Path) -> Generator[None]:
    """Raise SQLite's errors from the `with` block as errors of ours."""
    try:
        yield
    except sqlite3.Error as cause:
        raise translate(cause, path) from cause


def translate(cause: sqlite3.Error, path: Path) -> MurmurateError:
    """Return our error for one of SQLite's."""
    code = getattr(cause, "sqlite_errorcode", None)  # absent where Python itself objects
    if code is not None and code & 0xFF in _DAMAGE:  # the upper bits only say where it was seen
        return LogCorruptError(f"{path.name}: {cause}; restore it from a backup")
    return LogUnavailableError(f"{path.name}: {cause}; nothing was written", retry_s=1.0)


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:  # after some errors SQLite has done it itself
        connection.execute("ROLLBACK")


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    # SQLite does not wait here as it does elsewhere when another process opens the same new file.
    for _ in range(_WAL_ATTEMPTS):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as cause:
            if cause.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            time.sleep(_WAL_PAUSE_S)
        else:
            return
    raise LogUnavailableError(f"the database was locked for {_WAL_ATTEMPTS * _WAL_PAUSE_S:.0f} s")


def _make_tables(connection: sqlite3.Connection, path: Path, schema: Schema) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        with closing(connection.execute("PRAGMA user_version")) as rows:
            (version,) = rows.fetchone()
        _check_version(version, path, schema)
        if version == 0:
            for statement in schema.statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={schema.version}")
    except BaseException:
        _roll_back(connection)
        raise
    connection.execute("COMMIT")


def _check_version(version: int, path: Path, schema: Schema) -> None:
    if version not in {0, schema.version}:
        raise LogUnavailableError(
            f"{path.name} has schema {version}, but this murmurate knows schema {schema.version};"
            " run the version that wrote it"
        )
