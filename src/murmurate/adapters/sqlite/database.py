"""Opens SQLite files the one way we use them, and says their errors in our words."""

import sqlite3
import time
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path

from murmurate.core.errors import (
    LogCorruptError,
    LogNewerError,
    LogUnavailableError,
    MurmurateError,
)
from murmurate.core.types import Frozen

BUSY_S = 5.0
"""How long a statement waits for another process that writes to the same file."""
APPLICATION_ID = 0x6D75726D
"""Stands in the header of our files: "murm"."""

# A constraint of ours can only be hurt where an index or a count is damaged.
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CONSTRAINT}
_WAL_ATTEMPTS = 250
_WAL_PAUSE_S = 0.02

Migration = Callable[[sqlite3.Connection], None]
"""Makes a file of one version into the next, inside the transaction of its caller."""


class Schema(Frozen, frozen=True):
    """The tables of a file; `version` grows with each change of them.

    The migration at index `n` leads from version `n + 1` to the next.
    """

    version: int
    statements: tuple[str, ...]
    migrations: tuple[Migration, ...] = ()


def open_writer(
    path: Path,
    schema: Schema,
    *,
    synchronous: str,
    before_upgrade: Callable[[int], None] = lambda _: None,
) -> sqlite3.Connection:
    """Open the file for writing; make its tables if it is new, migrate it if it is older.

    `before_upgrade` gets the old version while nobody else can write, before anything is changed.
    Making and migrating are one transaction: killed at any point, the file is as it was before.
    Blocks; usable in any thread.

    Raises:
        LogNewerError: A newer murmurate wrote it; nothing is changed.
        LogUnavailableError: It cannot be opened, or is another program's.
        LogCorruptError: It is not a SQLite file, or a damaged one.
    """
    with translated(path):
        check_version(path, schema)
        connection = sqlite3.connect(
            path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
        )
        try:
            _switch_to_wal(connection)
            connection.execute(f"PRAGMA synchronous={synchronous}")
            connection.execute("PRAGMA journal_size_limit=67108864")  # the WAL shrinks to 64 MiB
            # What is forgotten is gone from the disk as well, also from pages that wait for reuse.
            connection.execute("PRAGMA secure_delete=ON").fetchall()
            _bring_up_to_date(connection, schema, before_upgrade)
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
def looking(path: Path, *, wal: bool = True) -> Generator[sqlite3.Connection]:
    """Open the file in a way that cannot change it, not even by folding its WAL in at the end.

    Without `wal`, see what the file alone holds. Texts come back as bytes. SQLite's own errors
    are raised, also for what its own messages cannot say.
    """
    address = f"{path.absolute().as_uri()}?{'mode=ro' if wal else 'immutable=1'}"
    connection = sqlite3.connect(address, uri=True, timeout=BUSY_S, isolation_level=None)
    with closing(connection):
        connection.text_factory = bytes
        try:
            yield connection
        except UnicodeDecodeError as cause:  # Python cannot even say what SQLite says of it
            error = sqlite3.DatabaseError("its tables have names that are no text")
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error from cause


def version_of(db: sqlite3.Connection) -> int:
    """Return the version that stands in the header; 0 for a file without tables of ours."""
    with closing(db.execute("PRAGMA user_version")) as rows:
        (version,) = rows.fetchone()
    return version


def check_version(path: Path, schema: Schema) -> None:
    """Refuse a file of a newer murmurate or of another program, without changing a byte of it.

    Raises:
        LogNewerError: It is newer.
        LogUnavailableError: It is another program's.
        LogCorruptError: Its header contradicts its content.
        sqlite3.Error: It cannot be read.
    """
    if not path.is_file() or not path.stat().st_size:
        return
    with looking(path) as db:
        version = version_of(db)
        [(owner,)] = db.execute("PRAGMA application_id").fetchall()
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_schema").fetchall()}
        inside = version
        if b"file" in tables:
            rows = db.execute("SELECT format FROM file LIMIT 2").fetchall()
            inside = rows[0][0] if len(rows) == 1 else None
    if version > schema.version and inside == version:
        raise LogNewerError(
            f"{path.name} has format {version}, but this murmurate knows formats up to"
            f" {schema.version}; run the version that wrote it, or restore a backup of before the"
            " upgrade. Nothing was changed"
        )
    if version != inside or (owner not in {0, APPLICATION_ID} and b"entry" in tables):
        raise LogCorruptError(f"{path.name}: its header is damaged")
    if owner not in {0, APPLICATION_ID} or (not version and tables):
        raise LogUnavailableError(f"{path.name} is a SQLite file of another program: move it away")


@contextmanager
def reading(connection: sqlite3.Connection) -> Generator[None]:
    """See one state of the file in all queries of the `with` block."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        roll_back(connection)


@contextmanager
def translated(path: Path) -> Generator[None]:
    """Raise SQLite's errors from the `with` block as errors of ours."""
    try:
        yield
    except sqlite3.Error as cause:
        raise translate(cause, path) from cause
    except UnicodeDecodeError as cause:
        raise LogCorruptError(f"{path.name}: a text in it is none") from cause


def translate(cause: sqlite3.Error, path: Path) -> MurmurateError:
    """Return our error for one of SQLite's."""
    if is_damage(cause):
        return LogCorruptError(
            f"{path.name}: {cause}; what can be read of it is put into a new file at the next"
            " start, or restore a backup"
        )
    advice = ": make room" if _is_full(cause) else ""
    return LogUnavailableError(f"{path.name}: {cause}; nothing was written{advice}", retry_s=1.0)


def is_damage(cause: sqlite3.Error) -> bool:
    """Whether SQLite has met something in the file that cannot be."""
    code = getattr(cause, "sqlite_errorcode", None)  # absent where Python itself objects
    return code is not None and code & 0xFF in _DAMAGE  # the upper bits say where it was seen


def _is_full(cause: sqlite3.Error) -> bool:
    return getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def roll_back(connection: sqlite3.Connection) -> None:
    """End the transaction where there still is one: after some errors SQLite has done it itself."""
    if connection.in_transaction:
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


def _bring_up_to_date(
    connection: sqlite3.Connection, schema: Schema, before_upgrade: Callable[[int], None]
) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = version_of(connection)
        if version == 0:
            for statement in schema.statements:
                connection.execute(statement)
        elif version < schema.version:
            before_upgrade(version)
            for migration in schema.migrations[version - 1 :]:
                migration(connection)
        if version != schema.version:
            connection.execute(f"PRAGMA user_version={schema.version}")
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
    except BaseException:
        roll_back(connection)
        raise
    connection.execute("COMMIT")
