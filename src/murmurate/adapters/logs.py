"""Events as JSON lines in a file of bounded size."""

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

import msgspec

from murmurate.core.clock import Clock

FILE_BYTES_MAX = 16 * 1024 * 1024
FILES_KEPT = 3


class JsonLog:
    """The `EventLog` of a process: `{"at", "event", …}` a line; the oldest lines go first."""

    def __init__(self, path: Path, *, clock: Clock) -> None:
        self._clock = clock
        self._handler = RotatingFileHandler(
            path, maxBytes=FILE_BYTES_MAX, backupCount=FILES_KEPT, encoding="utf-8", delay=True
        )

    def event(self, name: str, **facts: str | int | float | bool | None) -> None:
        """Write one line; a full disk loses the line, never the request."""
        line = msgspec.json.encode({"at": self._clock.unix_ms(), "event": name, **facts}).decode()
        record = logging.LogRecord(name, logging.INFO, "", 0, line, None, None)
        self._handler.handle(record)

    def close(self) -> None:
        """Close the file."""
        self._handler.close()
