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
"""How much is written, about, before it is folded in; SQLite's own measure."""
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
        self._pages = 0

    def wrote(self, *, jobs: int, size_bytes: int) -> None:
        """Count what was committed; fold where it has become much.

        Raises:
            SyncLostError: The disk has lost what was folded.
            sqlite3.Error: It could not be folded now: the WAL grows on until it can.
        """
        self._pages += 1 + jobs * _PAGES_A_JOB + size_bytes // _PAGE_BYTES
        if self._pages >= PAGES:
            self._pages = 0
            self.fold()

    def fold(self) -> None:
        """Fold what no reader needs any more; see `wrote`."""
        fold(self._connection, "PASSIVE")


def fold(connection: sqlite3.Connection, how: str) -> None:
    """Fold the WAL into the file; `how` is one of SQLite's words for how much.

    Raises:
        SyncLostError: The disk has lost what was folded.
        sqlite3.Error: It could not be folded now.
    """
    try:
        connection.execute(f"PRAGMA wal_checkpoint({how})").fetchall()
    except sqlite3.Error as cause:
        if cause.sqlite_errorcode in _NOT_SYNCED:
            raise SyncLostError(str(cause)) from cause
        raise


def keep_open(connection: sqlite3.Connection) -> None:
    """Hold a connection until the process ends: the last one to be closed would fold."""
    threading.Thread(target=_hold, args=(connection,), daemon=True).start()


def _hold(_connection: sqlite3.Connection) -> None:
    threading.Event().wait()
