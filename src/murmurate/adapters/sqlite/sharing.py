"""Several processes on one log: its file is only replaced by one that is alone with it."""

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

POLL_S = 0.05


class Sharing:
    """A lock beside the file: shared by all who have the log open, exclusive for who replaces it.

    A killed process holds it no more. `close` it when the log is closed.
    """

    def __init__(self, path: Path, when_alone: Callable[[], object]) -> None:
        """Do `when_alone` if nobody else has the log open; wait while somebody else does it.

        Raises:
            OSError: The lock can't be made.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._lock = os.open(path.with_name(f"{path.name}-lock"), flags, 0o600)
        try:
            if self._locked(fcntl.LOCK_EX):
                when_alone()
                fcntl.flock(self._lock, fcntl.LOCK_SH)
            while not self._locked(fcntl.LOCK_SH):
                time.sleep(POLL_S)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let others replace the file."""
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1

    def _locked(self, how: int) -> bool:
        try:
            fcntl.flock(self._lock, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
