"""The WAL is folded into the file now and then, and a disk that then loses writes is not believed.

SQLite would do it by itself at a commit, and would not say when the disk fails. That must be known:
where an fsync of the file fails, Linux may have forgotten what it was to write, and the next fsync
says that all is well. Parts of the WAL that were folded in before may be among it, and SQLite would
not fold them again. Only its recovery begins at the front: when nobody has the file open any more,
and without a last folding at the end. So after that failure nothing is folded, nothing is closed,
and the process must end; the WAL still has everything that was acknowledged.
"""

import sqlite3
import threading

PAGES = 1000
"""How many pages are written, about, before they are folded in; SQLite's own measure."""
_GUESS_OFF = 4
"""So much less than was guessed may be written, at most: SQLite tells only when it folds."""
_PAGE_BYTES = 4096
_PAGES_A_JOB = 4
"""A leaf each of the entries, of their index, of the heads and of the work."""

_NOT_SYNCED = {sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC}


class SyncLostError(Exception):
    """The file is not what SQLite believes it to be: use it no more, and do not close it."""


class Folding:
    """Folds the WAL of one connection, on the thread that writes."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        connection.execute("PRAGMA wal_autocheckpoint=0").fetchall()
        self._guessed = 0
        self._due = float(PAGES)

    def wrote(self, *, jobs: int, size_bytes: int) -> None:
        """Count what was committed; fold where it has become much.

        Raises:
            SyncLostError: The disk has lost what was folded.
            sqlite3.Error: It could not be folded now: the WAL grows on until it can.
        """
        self._guessed += 1 + jobs * _PAGES_A_JOB + size_bytes // _PAGE_BYTES
        if self._guessed >= self._due:
            guessed, self._guessed = self._guessed, 0
            written = self.fold()
            self._due = min(max(guessed / max(written, 1), 1.0), _GUESS_OFF) * PAGES

    def fold(self) -> int:
        """Fold what no reader needs any more; see `wrote`. Return how many pages there were."""
        return fold(self._connection, "PASSIVE")


def fold(connection: sqlite3.Connection, how: str) -> int:
    """Fold the WAL into the file; `how` is one of SQLite's words for how much.

    Return how many pages the WAL had.

    Raises:
        SyncLostError: The disk has lost what was folded.
        sqlite3.Error: It could not be folded now.
    """
    try:
        [(_, pages, _)] = connection.execute(f"PRAGMA wal_checkpoint({how})").fetchall()
    except sqlite3.Error as cause:
        if cause.sqlite_errorcode in _NOT_SYNCED:
            raise SyncLostError(str(cause)) from cause
        raise
    return pages


def keep_open(connection: sqlite3.Connection) -> None:
    """Hold a connection until the process ends: the last one to be closed would fold."""
    threading.Thread(target=_hold, args=(connection,), daemon=True).start()


def _hold(_connection: sqlite3.Connection) -> None:
    threading.Event().wait()
