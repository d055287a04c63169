"""Events as JSON lines in a file of bounded size."""

import io
import logging
import math
import re
import threading
import traceback
from contextlib import suppress
from pathlib import Path

import msgspec

from murmurate.core.clock import Clock
from murmurate.core.ports import EventLog

FILE_BYTES_MAX = 16 * 1024 * 1024
FILES_KEPT = 3
SELDOM_S = 1.0
KINDS_MAX = 64
TEXT_CHARS_MAX = 200
_PLAIN = re.compile(r"[\w %.,:-]*", re.ASCII)


class JsonLog:
    """The `EventLog` of a process: `{"at", "event", …}` a line; the oldest lines go first.

    Each line is one write without a buffer: what was said before a crash is there. `logging`'s own
    files take five times as long, as they look at the file system before each line.
    """

    def __init__(self, path: Path, *, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._file: io.FileIO | None = None
        self._bytes = 0
        self._turn = threading.Lock()

    def event(self, name: str, **facts: str | int | float | bool | None) -> None:
        """Write one line; a full disk loses the line, never the request."""
        line = msgspec.json.encode({"at": self._clock.unix_ms(), "event": name, **facts}) + b"\n"
        with self._turn, suppress(OSError):
            if self._file is None or self._bytes + len(line) > FILE_BYTES_MAX:
                self._file = self._next_file(len(line))
            self._bytes += self._file.write(line)

    def close(self) -> None:
        """Close the file."""
        with self._turn:
            if self._file is not None:
                self._file.close()
            self._file = None

    def _next_file(self, line_bytes: int) -> io.FileIO:
        """Open the file; where the line has no room in it, number it and those before it first."""
        if self._file is not None:
            self._file.close()
            self._file = None  # should it not open again, the next line tries that
        self._bytes = self._path.stat().st_size if self._path.exists() else 0
        if self._bytes and self._bytes + line_bytes > FILE_BYTES_MAX:
            for number in range(FILES_KEPT, 0, -1):
                older = self._path if number == 1 else self._numbered(number - 1)
                if older.exists():
                    older.replace(self._numbered(number))
            self._bytes = 0
        return io.FileIO(self._path, "a")

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


class Seldom:
    """Writes events that strangers can cause: one a second of each kind, and how many there were.

    The log must say that something goes on, and nobody may fill it from outside.
    """

    def __init__(self, log: EventLog, *, clock: Clock, pause_s: float = SELDOM_S) -> None:
        self._log = log
        self._clock = clock
        self._pause_s = pause_s
        self._said: dict[tuple[str, str], tuple[float, int]] = {}
        """By event and kind: when it was written last, and how often it came since."""

    def event(self, name: str, kind: str) -> None:
        """Write the event, or only count it; `kind` comes from a closed set, or is cut to one."""
        if (name, kind) not in self._said and len(self._said) >= KINDS_MAX:
            kind = "other"
        now_s = self._clock.now_s()
        at_s, left_out = self._said.get((name, kind), (-math.inf, 0))
        if now_s - at_s < self._pause_s:
            self._said[name, kind] = (at_s, left_out + 1)
            return
        self._said[name, kind] = (now_s, 0)
        self._log.event(name, kind=kind, left_out=left_out)


class Bridge(logging.Handler):
    """Hands what libraries log to our events, seldom and without their texts' details.

    Only the first plain words of the message's pattern count as its kind: what follows may be
    anything, a prompt too. For the same reason an exception is told by its type and place.
    """

    def __init__(self, seldom: Seldom) -> None:
        super().__init__(logging.WARNING)
        self._seldom = seldom

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record as an event named after its logger."""
        found = _PLAIN.match(str(record.msg))
        kind = found[0].rstrip()[:TEXT_CHARS_MAX] if found else ""
        if record.exc_info and record.exc_info[1] is not None:
            kind += f" ({place_of(record.exc_info[1])})"
        self._seldom.event(record.name, kind)


def place_of(fault: BaseException) -> str:
    """Return the type of an exception and the line that raised it, never its text."""
    frames = traceback.extract_tb(fault.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return type(fault).__name__ + where
