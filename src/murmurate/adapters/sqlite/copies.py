"""Whole files: copied while others write, kept beside the original, and put in its place."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from murmurate.adapters.sqlite.database import looking, translated
from murmurate.core.errors import LogUnavailableError

STEP_PAGES = 2048
ROOM_BYTES_MIN = 1024 * 1024
"""Left over beside a copy, for the journals of whoever works on it."""

Told = Callable[[int, int], None]
"""Hears how many bytes of how many are done."""

_NEXT = ".next."
_JOURNALS = ("-wal", "-shm")


def copy(path: Path, target: Path, *, told: Told = lambda _done, _total: None) -> None:
    """Write one state of a live database to `target`, whole or not at all, readable by its owner.

    Writers go on meanwhile: the copy sees what was committed when it began. What an interrupted
    copy left behind is overwritten.

    Raises:
        LogUnavailableError: There is no room for it, or it can't be written or read.
        LogCorruptError: A page of it can't be read.
    """
    size_bytes = path.stat().st_size + _size_bytes(_beside(path, "-wal"))
    check_room(target.parent, size_bytes, what=f"a copy of {path.name}")
    fresh = _beside(target, ".new")
    fresh.unlink(missing_ok=True)
    try:
        with translated(path), looking(path) as source:
            os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            # One transaction around all steps: else each commit of another would start it again.
            source.execute("BEGIN")
            source.execute("SELECT count(*) FROM sqlite_schema").fetchall()
            with closing(sqlite3.connect(fresh, isolation_level=None)) as into:
                into.execute("PRAGMA synchronous=OFF").fetchall()  # synced once, at the end
                [(page_bytes,)] = source.execute("PRAGMA page_size").fetchall()
                source.backup(
                    into,
                    pages=STEP_PAGES,
                    progress=lambda _, left, total: told(
                        (total - left) * page_bytes, total * page_bytes
                    ),
                )
                into.execute("PRAGMA journal_mode=DELETE").fetchall()  # a single file
        sync(fresh)
        fresh.replace(target)
        sync(target.parent)
    except OSError as cause:
        raise LogUnavailableError(f"{target} can't be written: {cause.strerror}") from cause
    finally:
        for leftover in (fresh, *(_beside(fresh, ending) for ending in (*_JOURNALS, "-journal"))):
            leftover.unlink(missing_ok=True)


def keep_before_upgrade(path: Path, version: int) -> Path:
    """Keep a copy `NAME.vN.bak` of a file that is about to be migrated, and no older one.

    Raises:
        LogUnavailableError: There is no room for it.
    """
    kept = _beside(path, f".v{version}.bak")
    copy(path, kept)
    for older in path.parent.glob(f"{path.name}.v*.bak"):
        if older != kept:
            older.unlink()
    return kept


def put_in_place(path: Path, fresh: Path, *, old: str) -> None:
    """Let `fresh` become `path`, and keep what stood there, with its WAL, as `NAME.OLD`.

    Killed at any point, either the old file stands there, or `finish` completes the change.
    """
    sync(fresh)
    chosen = _beside(path, f"{_NEXT}{old}")
    fresh.replace(chosen)
    sync(path.parent)
    finish(path)


def is_interrupted(path: Path, *, old: str) -> bool:
    """Say whether a `put_in_place` that was to keep `NAME.OLD` has not been completed."""
    return _beside(path, f"{_NEXT}{old}").exists()


def finish(path: Path, *, except_old: str | None = None) -> None:
    """Complete an interrupted `put_in_place`; nothing to do is fine.

    One that was to keep `NAME.EXCEPT_OLD` is left for the next `put_in_place` of the same kind.
    """
    for chosen in sorted(path.parent.glob(f"{path.name}{_NEXT}*")):
        if chosen.name == f"{path.name}{_NEXT}{except_old}":
            continue
        kept = path.name + "." + chosen.name.removeprefix(f"{path.name}{_NEXT}")
        # Linked, not moved: there is a file of the log's name at every moment. The WAL goes before
        # the new file comes, because SQLite would put any WAL of that name into it.
        for ending in ("", *_JOURNALS):
            original = _beside(path, ending)
            if original.exists() and ending != "-shm":
                link = path.with_name(kept + ending)
                if not link.exists():
                    _name_again(original, link)
        sync(path.parent)
        for ending in _JOURNALS:
            _beside(path, ending).unlink(missing_ok=True)
        chosen.replace(path)
        sync(path.parent)


def _name_again(path: Path, name: Path) -> None:
    """Give a file a second name; where the disk knows no such thing, a copy."""
    try:
        os.link(path, name)
    except OSError:
        fresh = _beside(name, ".new")
        shutil.copyfile(path, fresh)
        sync(fresh)
        fresh.replace(name)


def check_room(folder: Path, size_bytes: int, *, what: str) -> None:
    """Refuse before anything is written where there is no room for it.

    Raises:
        LogUnavailableError: There is not.
    """
    free = shutil.disk_usage(folder).free
    if free < size_bytes + ROOM_BYTES_MIN:
        raise LogUnavailableError(
            f"{folder} has {free / 1e6:.1f} MB free, but {what} needs {size_bytes / 1e6:.1f} MB and"
            f" {ROOM_BYTES_MIN / 1e6:.1f} MB to spare: make room, then try again"
        )


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _size_bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
