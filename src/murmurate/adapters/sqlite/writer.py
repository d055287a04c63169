"""Group commit: what waits while the disk syncs goes to disk together with the next sync.

One thread owns the connection. It takes all jobs that wait and runs them in one transaction:
appends together, anything else in a savepoint of its own. It commits once and hands all results to
the event loop in one call.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from murmurate.adapters.sqlite.appends import Appending, Appends
from murmurate.adapters.sqlite.database import translate
from murmurate.core.errors import LogUnavailableError

WAITING_BYTES_MAX = 256 * 1024 * 1024
"""Beside the number of waiting jobs, their size is bounded: bodies wait in memory."""

_S = TypeVar("_S")
_T = TypeVar("_T")
Work = Callable[[sqlite3.Connection], _T]


class _Job:
    """A piece of writing and who waits for it; after the run also what came of it."""

    __slots__ = ("error", "future", "size_bytes", "value", "work")

    def __init__(
        self, work: Work[Any] | Appending, future: asyncio.Future[Any], size_bytes: int
    ) -> None:
        self.work = work
        self.future = future
        self.size_bytes = size_bytes
        self.value: Any = None
        self.error: Exception | None = None


class GroupWriter:
    """Writes to a database from one event loop, many jobs a commit.

    `connection` belongs to the writer from now on. `committed` is called on the loop after each
    batch of results.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        *,
        queue_max: int,
        batch_max: int,
        committed: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._path = path
        self._queue_max = queue_max
        self._batch_max = batch_max
        self._committed = committed
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._waiting = 0  # counted on the loop alone: accepted and not answered yet
        self._waiting_bytes = 0
        self._closed = False
        self._thread = threading.Thread(target=self._write, name=f"write {path.name}", daemon=True)
        self._thread.start()

    async def do(self, work: Work[_T], *, size_bytes: int = 0) -> _T:
        """Return what `work` returned, once it is committed. What it raises undoes it alone.

        `work` may run again when a transaction is lost, so it only touches the connection.

        Raises:
            LogUnavailableError: Too much waits already, the disk is full or the file is locked.
        """
        return await self._accept(work, size_bytes)

    async def append(self, appending: Appending, *, size_bytes: int) -> list[int]:
        """Return the seqs, once all is committed; see `do` and `Appends.add` for what it raises."""
        return await self._accept(appending, size_bytes)

    async def close(self) -> None:
        """Commit what was accepted, move it from the WAL into the file, end the thread."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def _accept(self, work: Work[Any] | Appending, size_bytes: int) -> asyncio.Future[Any]:
        if self._closed:
            raise LogUnavailableError(f"{self._path.name} is closed")
        if self._waiting >= self._queue_max or self._waiting_bytes > WAITING_BYTES_MAX:
            raise LogUnavailableError(
                f"{self._waiting} writes to {self._path.name} wait already, with"
                f" {self._waiting_bytes} bytes; retry after 1 s",
                retry_s=1.0,
            )
        job = _Job(work, asyncio.get_running_loop().create_future(), size_bytes)
        self._waiting += 1
        self._waiting_bytes += size_bytes
        self._jobs.put(job)
        return job.future

    def _write(self) -> None:
        batch, more = self._next_batch()
        while batch or more:
            self._commit(batch)
            self._hand_over(batch)
            batch, more = self._next_batch() if more else ([], False)
        # What another process still reads stays in the WAL until its own close.
        with suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        self._connection.close()

    def _next_batch(self) -> tuple[list[_Job], bool]:
        """Wait for a job, take what else waits; False when no more will come."""
        batch: list[_Job] = []
        job = self._jobs.get()
        while job is not None:
            batch.append(job)
            if len(batch) == self._batch_max:
                return batch, True
            try:
                job = self._jobs.get_nowait()
            except Empty:
                return batch, True
        return batch, False

    def _commit(self, jobs: Sequence[_Job]) -> None:
        """Run the jobs in one transaction. If that is lost, find the culprit by halving."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as cause:  # another process holds the lock, or the disk is gone
            for job in jobs:
                job.error = translate(cause, self._path)
            return
        try:
            appends = Appends(self._connection)
            for job in jobs:
                if isinstance(job.work, Appending):
                    self._run(job, appends.add, job.work)
                else:
                    appends.write()  # what comes between sees it, and may change what it rests on
                    self._attempt(job, job.work)
            appends.write()
            self._connection.execute("COMMIT")
        except (sqlite3.Error, MemoryError) as cause:  # the second is how SQLITE_NOMEM comes
            with suppress(sqlite3.Error):  # SQLite may have rolled it back itself
                self._connection.execute("ROLLBACK")
            if len(jobs) == 1:
                jobs[0].error = self._told(cause)
                return
            middle = len(jobs) // 2
            self._commit(jobs[:middle])
            self._commit(jobs[middle:])

    def _attempt(self, job: _Job, work: Work[Any]) -> None:
        """Run a job in a savepoint, so that its failure undoes nothing but itself.

        Raises:
            sqlite3.Error: The whole transaction is lost.
        """
        self._connection.execute("SAVEPOINT job")
        self._run(job, work, self._connection)
        if job.error is not None:
            self._connection.execute("ROLLBACK TO job")
        self._connection.execute("RELEASE job")

    def _run(self, job: _Job, work: Callable[[_S], Any], subject: _S) -> None:
        job.value, job.error = None, None
        try:
            job.value = work(subject)
        except Exception as cause:  # whatever it is goes to whoever waits: the thread must live
            if not self._connection.in_transaction:  # SQLite has rolled back: all of it is lost
                raise sqlite3.OperationalError(str(cause)) from cause
            job.error = self._told(cause)

    def _told(self, cause: Exception) -> Exception:
        return translate(cause, self._path) if isinstance(cause, sqlite3.Error) else cause

    def _hand_over(self, batch: list[_Job]) -> None:
        if batch:
            try:
                batch[0].future.get_loop().call_soon_threadsafe(self._answer, batch)
            except RuntimeError:  # the loop has ended without closing the log: nobody waits
                return

    def _answer(self, batch: list[_Job]) -> None:
        self._waiting -= len(batch)
        for job in batch:
            self._waiting_bytes -= job.size_bytes
            if job.future.done():  # its caller was cancelled; what is committed stays
                continue
            if job.error is None:
                job.future.set_result(job.value)
            else:
                job.future.set_exception(job.error)
        self._committed()
