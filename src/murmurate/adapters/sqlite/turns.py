"""Several processes that write to one file take turns, so that none of them waits for long.

SQLite lets whoever comes at the right moment have its lock, and that is mostly the one that has
just let go of it. So whoever wants it stands in a queue first: only the first of the queue asks
SQLite, and whoever has committed queues up again behind it.
"""

import fcntl
import os
import sqlite3
import time
from pathlib import Path

from murmurate.adapters.sqlite.database import BUSY_S
from murmurate.core.clock import Clock

POLL_S = 0.0005
POLITE_S = 1.0
"""How long to stand in the queue: a process that hangs at its head holds nobody up for ever."""


class Turns:
    """The queue before a file: an empty file beside it, locked by who is first. `close()` it."""

    def __init__(self, path: Path, *, clock: Clock, busy_s: float = BUSY_S) -> None:
        """Make the queue's file; wait `busy_s` for SQLite's lock at most.

        Raises:
            OSError: It can't be made.
        """
        self._clock = clock
        self._busy_s = busy_s
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._queue = os.open(path.with_name(f"{path.name}-queue"), flags, 0o600)

    def begin(self, connection: sqlite3.Connection) -> None:
        """Begin a transaction that writes; blocks while others do. SQLite itself must not wait.

        Raises:
            sqlite3.Error: Somebody has held the lock for too long, or the file cannot be used.
        """
        start_s = self._clock.now_s()
        is_first = self._wait_in_line(start_s + POLITE_S)
        try:
            while not _began(connection, is_last=self._clock.now_s() - start_s > self._busy_s):
                time.sleep(POLL_S)
        finally:
            if is_first:
                fcntl.flock(self._queue, fcntl.LOCK_UN)

    def close(self) -> None:
        """Leave the queue for good."""
        os.close(self._queue)

    def _wait_in_line(self, until_s: float) -> bool:
        """Return once we are first, or without that when it takes too long."""
        while True:
            try:
                fcntl.flock(self._queue, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:  # another is first; or the disk knows no such locks
                if self._clock.now_s() >= until_s:
                    return False
            else:
                return True
            time.sleep(POLL_S)


def _began(connection: sqlite3.Connection, *, is_last: bool) -> bool:
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as cause:
        if is_last or cause.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
        return False
    return True
