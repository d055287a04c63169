"""One state folder, one supervisor: a lock that ends with its process, however that ended."""

import fcntl
import os
from contextlib import suppress
from io import FileIO
from pathlib import Path

from murmurate.core.errors import ConfigError, StateInUseError


def lock_state(state: Path) -> FileIO:
    """Take the state folder, making it where there is none; hold on to what is returned.

    Raises:
        ConfigError: It is no folder that can be written.
        StateInUseError: Another supervisor has it.
    """
    try:
        for folder in (state, state / "index"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Unbuffered: on a full disk nothing is left that closing it would try to write again.
        lock = (state / "lock").open("a+b", buffering=0)
    except OSError as cause:
        raise ConfigError(
            f"server.state = {state}: expected a folder that can be written "
            f"({cause.strerror}: {cause.filename})"
        ) from cause
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as cause:
        who = owner(lock)
        lock.close()
        raise StateInUseError(
            f"another murmurate{who} runs on {state}: stop it, or choose --state FOLDER"
        ) from cause
    with suppress(OSError):  # a full disk: the lock holds without its owner's name
        lock.truncate(0)
        lock.write(b"%d\n" % os.getpid())
    return lock


def owner(lock: FileIO) -> str:
    """Return who holds the lock, as it wrote itself into the file; empty when it did not."""
    lock.seek(0)
    pid = lock.read(20).strip()
    return f" (process {pid.decode()})" if pid.isdigit() else ""


def is_locked(state: Path) -> bool:
    """Tell whether a supervisor has the folder now."""
    try:
        with (state / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
