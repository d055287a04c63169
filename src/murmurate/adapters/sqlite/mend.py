"""What is done before SQLite opens a log: an interrupted change is completed, damage is mended.

A file that is not sound is replaced by what `salvage` finds in it, and kept beside it.
"""

import struct
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from sqlite3 import SQLITE_ERROR, connect
from sqlite3 import Error as SqliteError

from murmurate.adapters.sqlite.copies import finish, put_in_place
from murmurate.adapters.sqlite.damage import Reason
from murmurate.adapters.sqlite.database import (
    check_version,
    is_damage,
    looking,
    translate,
    version_of,
)
from murmurate.adapters.sqlite.format import SCHEMA
from murmurate.adapters.sqlite.pages import MAGIC, WAL_HEADER_BYTES, frames_of
from murmurate.adapters.sqlite.queries import rows_of
from murmurate.adapters.sqlite.salvage import Salvaged, salvage
from murmurate.core.clock import Clock
from murmurate.core.errors import LogCorruptError, LogUnavailableError

CHECKED_AT_START_BYTES_MAX = 32 * 1024 * 1024
"""Up to this size a file is checked at each start, in about 50 ms; a bigger one if it must be."""
DAMAGED_FILES_KEPT = 3
_MX_FRAME_AT = 16  # in the header of the -shm file: how many frames of the WAL SQLite accepts

Told = Callable[[str], None]


def mended(path: Path, *, clock: Clock, told: Told) -> Salvaged | None:
    """Make the file one that SQLite can work on; return what was salvaged, None if it was sound.

    Raises:
        LogNewerError: A newer version wrote it. Nothing is changed.
        LogUnavailableError: It cannot be read, or there is no room to salvage it.
        LogCorruptError: Nothing of ours can be found in it. Nothing is changed.
    """
    try:
        finish(path)
        fault = _fault(path, clock=clock, told=told)
        if fault is None:
            return None
        return _salvaged(path, fault, clock=clock, told=told)
    except OSError as cause:
        raise LogUnavailableError(f"{path.name} can't be opened: {cause.strerror}") from cause


def ask_for_mending(path: Path) -> None:
    """Have the next start look at the whole file, whatever its size."""
    with suppress(OSError):
        _mark(path).touch()


def soundness(path: Path, *, wal: bool = True) -> str | None:
    """Return what SQLite finds wrong with a file, None for nothing. Reads all of it.

    Raises:
        SqliteError: It could not be read for another reason.
    """
    try:
        with looking(path, wal=wal) as db:
            [(word,), *_] = rows_of(db, "PRAGMA quick_check(1)", ())
    except SqliteError as cause:
        if is_damage(cause):
            return str(cause)
        raise
    # Where it has more to say than "ok", it says it in one text, over several lines.
    return None if word == b"ok" else word.decode(errors="replace").replace("\n", " ")


def _fault(path: Path, *, clock: Clock, told: Told) -> str | None:
    """Return why the file has to be salvaged, None where it has not."""
    wal = _wal(path)
    size_bytes = path.stat().st_size if path.exists() else 0
    if size_bytes == 0:
        if frames_of(wal):
            return "it is empty, but its WAL is not"
        if path.is_file():
            told(f"{path.name} was empty: a new log is begun")
        return None
    try:
        return _fault_of_tables(path) or _fault_of_content(path, clock=clock, told=told)
    except LogCorruptError as error:
        return error.detail
    except SqliteError as cause:
        # What we ask is right, so an error in it is one of the file.
        if is_damage(cause) or cause.sqlite_errorcode == SQLITE_ERROR:
            return str(cause)
        raise translate(cause, path) from cause


def _fault_of_tables(path: Path) -> str | None:
    """Look at what everything else rests on."""
    if _header_is_damaged(path):
        return "its header is damaged"
    check_version(path, SCHEMA)
    return "the description of its tables is damaged" if _schema_is_damaged(path) else None


def _fault_of_content(path: Path, *, clock: Clock, told: Told) -> str | None:
    wal = _wal(path)
    if frames_of(wal) and (strange := _strange_wal(path)):
        aside = path.with_name(f"{wal.name}.foreign-{_stamp(clock)}")
        wal.rename(aside)
        path.with_name(f"{path.name}-shm").unlink(missing_ok=True)
        told(f"{wal.name} {strange}: it is kept as {aside.name}, and not used")
    if _mark(path).exists():
        return "damage was found in it"
    is_small = path.stat().st_size <= CHECKED_AT_START_BYTES_MAX
    return (soundness(path) if is_small else None) or _broken_wal(path)


def _header_is_damaged(path: Path) -> bool:
    """Whether a field that never changes has changed; SQLite takes some of these as it finds them.

    See "The Database Header" in sqlite.org/fileformat2.html. Of other files, SQLite has its say.
    """
    with path.open("rb") as file:
        header = file.read(100)
    if len(header) < 100:
        return True  # SQLite would take it for an empty one
    if not header.startswith(MAGIC):
        return False
    numbers = struct.unpack(">25I", header)
    return not (
        header[18] == header[19] in {1, 2}  # a rollback journal, as in a copy, or a WAL
        and header[20:24] == bytes((0, 64, 32, 32))
        and numbers[11] in {0, 4}  # the schema's format
        and numbers[13] == numbers[16] == 0  # no vacuuming by itself
        and numbers[14] in {0, 1}  # UTF-8
        and header[72:92] == bytes(20)
    )


def _schema_is_damaged(path: Path) -> bool:
    """Whether the tables of a file of today's format are described in other words than ours."""
    query = "SELECT type, name, tbl_name, sql FROM sqlite_schema"
    with looking(path) as db:
        if version_of(db) != SCHEMA.version:
            return False
        found = {tuple(map(_text, row)) for row in rows_of(db, query, ())}
    with closing(connect(":memory:", isolation_level=None)) as db:
        for statement in SCHEMA.statements:
            db.execute(statement)
        return found != set(rows_of(db, query, ()))


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="replace")


def _strange_wal(path: Path) -> str | None:
    """Tell whether a WAL of another file lies here: SQLite itself would apply it."""
    own = _id(path, wal=False)
    if own is None:  # also a young file whose tables all stand in the WAL still
        return None
    if _id(path, wal=True) not in {own, None}:
        return "belongs to another log"
    small = path.stat().st_size <= CHECKED_AT_START_BYTES_MAX
    if small and soundness(path) is not None and soundness(path, wal=False) is None:
        return "does not fit"
    return None


def _broken_wal(path: Path) -> str | None:
    """Tell whether SQLite stops in the middle of the WAL, before commits that were acknowledged.

    One commit behind the place may be one that a crash tore. Two cannot: the second one began
    after the first was on the disk.
    """
    frames = frames_of(_wal(path))
    if not frames:
        return None
    generation = _wal_header(path)
    with looking(path) as db:
        rows_of(db, "SELECT count(*) FROM sqlite_schema", ())
        shared = path.with_name(f"{path.name}-shm")
        head = shared.read_bytes()[: _MX_FRAME_AT + 4] if shared.exists() else b""
    if len(head) < _MX_FRAME_AT + 4 or _wal_header(path) != generation:
        return None  # another process works with it, and has begun the WAL anew
    (accepted,) = struct.unpack_from("=I", head, _MX_FRAME_AT)
    unseen = sum(frame.commits for frame in frames[accepted:])
    return f"its WAL is damaged before {unseen} commits" if unseen > 1 else None


def _wal_header(path: Path) -> bytes:
    with _wal(path).open("rb") as file:
        return file.read(WAL_HEADER_BYTES)


def _id(path: Path, *, wal: bool) -> bytes | None:
    try:
        with looking(path, wal=wal) as db:
            found = rows_of(db, "SELECT id FROM file", ())
    except SqliteError:
        return None
    return found[0][0] if found else None


def _salvaged(path: Path, fault: str, *, clock: Clock, told: Told) -> Salvaged:
    if path.exists() and path.stat().st_size > CHECKED_AT_START_BYTES_MAX:  # else it is done soon
        told(f"{path.name} is damaged; what can be read of it is put into a new file")
    fresh = path.with_name(f"{path.name}.salvaged")
    saved = salvage(path, _wal(path), fresh, now_ms=clock.unix_ms())
    if saved is None:
        raise LogCorruptError(
            f"{path.name} is damaged ({fault}), and nothing of a log can be found in it: restore a"
            " backup, or move it away to begin a new log"
        )
    old = f"damaged-{_stamp(clock)}"
    put_in_place(path, fresh, old=old)
    _mark(path).unlink(missing_ok=True)
    for older in sorted(path.parent.glob(f"{path.name}.damaged-*Z"))[:-DAMAGED_FILES_KEPT]:
        for ending in ("", "-wal"):
            older.with_name(older.name + ending).unlink(missing_ok=True)
    missing = "nothing is missing"
    if saved.damage:
        missing = f"{len(saved.damage)} places are damaged or lost (`murmurate doctor` names them)"
    if any(place.reason is Reason.RECOUNTED for place in saved.damage):
        missing += ", and streams of which nothing is left can't be named"
    told(
        f"{path.name} was damaged ({fault}): {saved.entries} entries of {saved.streams} streams"
        f" were saved, {missing}; the damaged file is kept as {path.name}.{old}"
    )
    return saved


def _stamp(clock: Clock) -> str:
    return datetime.fromtimestamp(clock.unix_ms() / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")


def _wal(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _mark(path: Path) -> Path:
    return path.with_name(f"{path.name}.check")
