"""Finished spans in telemetry.db: lossy and bounded, never in the way of a request."""

import asyncio
import sqlite3
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from murmurate.adapters.sqlite.database import Schema, open_writer, translated
from murmurate.core.errors import LogCorruptError, LogUnavailableError
from murmurate.observe.spans import Attribute, SpanRecord

WRITE_EVERY_S = 0.25
TRACE_SPANS_MAX = 10_000
"""The most spans of one trace that are read."""

SCHEMA = Schema(
    version=1,
    statements=(
        """CREATE TABLE span (
            number INTEGER PRIMARY KEY,
            trace_id TEXT NOT NULL, span_id TEXT NOT NULL, parent_id TEXT, tenant TEXT,
            name TEXT NOT NULL, start_unix_ns INTEGER NOT NULL, duration_ns INTEGER NOT NULL,
            attributes TEXT NOT NULL, error TEXT)""",
        "CREATE INDEX span_by_trace ON span (trace_id)",
    ),
)

_COLUMNS = (
    "trace_id, span_id, parent_id, tenant, name, start_unix_ns, duration_ns, attributes, error"
)
_INSERT = f"INSERT INTO span ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608  constant
_SELECT = f"""SELECT {_COLUMNS} FROM span WHERE trace_id = ? AND tenant = ?
    ORDER BY start_unix_ns LIMIT {TRACE_SPANS_MAX}"""  # noqa: S608  constant
_EXTENT = "SELECT coalesce(min(number), 1), coalesce(max(number), 0) FROM span"
_DELETE = "DELETE FROM span WHERE trace_id IN (SELECT trace_id FROM span WHERE number <= ?)"


class TelemetryStore:
    """Takes spans at any rate and keeps the newest; what is too much is dropped and counted."""

    def __init__(self, path: Path, *, queue_max: int = 20_000, spans_max: int = 200_000) -> None:
        """Open or make the file; blocks for a moment. `close()` it.

        A damaged file is put aside as `NAME.damaged`: traces are no reason not to serve.

        Raises:
            LogUnavailableError: The file cannot be opened, or a newer version wrote it.
        """
        self._path = path
        self._queue_max = queue_max
        self._spans_max = spans_max
        self._waiting: deque[SpanRecord] = deque()
        self._refused = 0  # each counter is written by one thread alone
        self._lost = 0
        # NORMAL: after a power cut the last traces may be missing, but the file is whole.
        try:
            self._connection = open_writer(path, SCHEMA, synchronous="NORMAL")
        except LogCorruptError:
            _put_aside(path)
            self._connection = open_writer(path, SCHEMA, synchronous="NORMAL")
        self._turn = threading.Lock()  # the connection is used by two threads
        self._closing = threading.Event()
        self._readers = ThreadPoolExecutor(1, thread_name_prefix=f"read {path.name}")
        self._thread = threading.Thread(target=self._write, name=f"write {path.name}", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """How many spans were lost: the queue was full, or the disk refused them."""
        return self._refused + self._lost

    def put(self, span: SpanRecord) -> None:
        """Take a span; neither waits nor raises. The `sink` of a `Recorder`."""
        if len(self._waiting) >= self._queue_max or self._closing.is_set():
            self._refused += 1
        else:
            self._waiting.append(span)

    async def spans(self, tenant: str, trace_id: str) -> list[SpanRecord]:
        """Return the tenant's spans of that trace that have ended, by their start.

        Empty if there is none, or it is another tenant's.

        Raises:
            LogUnavailableError: The file cannot be read now.
        """
        if self._closing.is_set():
            raise LogUnavailableError(f"{self._path.name} is closed")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, self._read, tenant, trace_id)

    async def close(self) -> None:
        """Write what waits, then release the file."""
        self._closing.set()
        await asyncio.to_thread(self._release)

    def _write(self) -> None:
        while not self._closing.wait(WRITE_EVERY_S):
            with self._turn:
                self._flush()

    def _flush(self) -> None:
        spans = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if not spans:
            return
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for span in spans:
                self._insert(span)
            self._prune()
            self._connection.execute("COMMIT")
        except sqlite3.Error:  # full or locked: requests go on, the spans are counted as lost
            self._lost += len(spans)
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def _insert(self, span: SpanRecord) -> None:
        try:
            self._connection.execute(_INSERT, _row(span))
        except (ValueError, TypeError, OverflowError):  # half a surrogate, a number over 64 bits
            self._lost += 1

    def _prune(self) -> None:
        with closing(self._connection.execute(_EXTENT)) as rows:
            oldest, newest = rows.fetchone()
        # Whole traces go, so there are gaps, so there are never more spans than this says.
        if newest - oldest >= self._spans_max:
            self._connection.execute(_DELETE, (newest - self._spans_max * 9 // 10,))

    def _read(self, tenant: str, trace_id: str) -> list[SpanRecord]:
        with self._turn, translated(self._path):
            self._flush()
            with closing(self._connection.execute(_SELECT, (trace_id, tenant))) as rows:
                return [_span(row) for row in rows]

    def _release(self) -> None:
        self._thread.join()
        self._readers.shutdown()
        with self._turn:
            self._flush()
            self._connection.close()


def _put_aside(path: Path) -> None:
    """Keep the newest damaged file for whoever wants to know; its journals fit no other file."""
    path.replace(path.with_name(f"{path.name}.damaged"))
    for ending in ("-wal", "-shm"):
        path.with_name(path.name + ending).unlink(missing_ok=True)


def _row(span: SpanRecord) -> tuple[Any, ...]:
    return (
        span.trace_id,
        span.span_id,
        span.parent_id,
        span.tenant,
        span.name,
        span.start_unix_ns,
        span.duration_ns,
        msgspec.json.encode(span.attributes).decode(),
        span.error,
    )


def _span(row: tuple[Any, ...]) -> SpanRecord:
    trace_id, span_id, parent_id, tenant, name, start_ns, duration_ns, attributes, error = row
    return SpanRecord(
        trace_id,
        span_id,
        parent_id,
        tenant,
        name,
        start_ns,
        duration_ns,
        msgspec.json.decode(attributes, type=dict[str, Attribute]),
        error,
    )
