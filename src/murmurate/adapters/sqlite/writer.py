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
from copy import copy
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from murmurate.adapters.sqlite.appends import Appending, Appends
from murmurate.adapters.sqlite.database import translate
from murmurate.adapters.sqlite.folding import Folding, SyncLostError, keep_open
from murmurate.adapters.sqlite.turns import Turns
from murmurate.core.clock import Clock
from murmurate.core.errors import LogUnavailableError, MurmurateError
from murmurate.core.types import Frozen

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


class DiskFault(Frozen, frozen=True):
    """The disk has failed while something was written; `is_final` where only a restart helps."""

    detail: str
    is_final: bool = False


class GroupWriter:
    """Writes to a database from one event loop, many jobs a commit.

    `connection` belongs to the writer from now on. `committed` is called on the loop after each
    batch of results; `on_fault` on the writer's thread, when the disk fails.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        *,
        clock: Clock,
        queue_max: int,
        batch_max: int,
        committed: Callable[[], None],
        on_fault: Callable[[DiskFault], None],
    ) -> None:
        self._connection = connection
        self._connection.execute("PRAGMA busy_timeout=0").fetchall()  # `Turns` waits
        self._turns = Turns(path, clock=clock)
        self._folding = Folding(connection)
        self._lost: LogUnavailableError | None = None
        self._on_fault = on_fault
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
            self._fold(batch)
            batch, more = self._next_batch() if more else ([], False)
        self._end()

    def _end(self) -> None:
        # What another process still reads stays in the WAL until its own close.
        if self._lost is None:
            self._try_to(self._folding.fold)
        if self._lost is None:
            self._connection.close()
        else:
            keep_open(self._connection)
        self._turns.close()

    def _fold(self, batch: Sequence[_Job]) -> None:
        if self._lost is None:
            done = [job for job in batch if job.error is None]
            size_bytes = sum(job.size_bytes for job in done)
            self._try_to(lambda: self._folding.wrote(jobs=len(done), size_bytes=size_bytes))

    def _try_to(self, fold: Callable[[], object]) -> None:
        """Fold; where the disk has lost what was folded, write nothing more."""
        name = self._path.name
        try:
            fold()
        except SyncLostError as loss:
            detail = f"{name}: the disk has lost writes ({loss}); nothing acknowledged is lost"
            self._lost = LogUnavailableError(f"{detail}; restart murmurate", retry_s=1.0)
            self._on_fault(DiskFault(detail, is_final=True))
        except sqlite3.Error as cause:
            self._on_fault(DiskFault(f"{name}: its WAL grows, for it can't be folded in: {cause}"))

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

    def _commit(self, jobs: Sequence[_Job], *, again: bool = True) -> None:
        """Run the jobs in one transaction. If that is lost, find the culprit by halving."""
        if self._lost is not None:
            _fail(jobs, self._lost)
            return
        try:
            self._turns.begin(self._connection)
        except sqlite3.Error as cause:  # another process holds the lock, or the disk is gone
            _fail(jobs, translate(cause, self._path))
            return
        at_the_end = False
        try:
            self._perform(jobs)
            at_the_end = True
            self._connection.execute("COMMIT")
        except (sqlite3.Error, MemoryError) as cause:  # the second is how SQLITE_NOMEM comes
            with suppress(sqlite3.Error):  # SQLite may have rolled it back itself
                self._connection.execute("ROLLBACK")
            if at_the_end and _is_of_the_disk(cause):
                self._commit_again(jobs, cause, again=again)
            elif len(jobs) == 1:
                jobs[0].error = self._told(cause)
            else:
                middle = len(jobs) // 2
                self._commit(jobs[:middle])
                self._commit(jobs[middle:])

    def _commit_again(self, jobs: Sequence[_Job], cause: Exception, *, again: bool) -> None:
        """Write to the same place of the WAL what the disk may have lost, or kept, of a commit.

        What another commit writes there takes its place, also on a disk that has forgotten it.
        Until then it may come back: should all processes die now, SQLite finds it in the WAL.
        """
        self._on_fault(DiskFault(f"{self._path.name}: {cause} in a commit"))
        if again:
            self._commit(jobs, again=False)
            return
        unknown = f"{self._path.name}: {cause}: whether this was written is not known; read the"
        for job in jobs:
            job.value, job.error = (
                None,
                LogUnavailableError(
                    f"{unknown} stream before you append it again, with the head that you expect",
                    retry_s=1.0,
                ),
            )

    def _perform(self, jobs: Sequence[_Job]) -> None:
        appends = Appends(self._connection)
        for job in jobs:
            if isinstance(job.work, Appending):
                self._run(job, appends.add, job.work)
            else:
                appends.write()  # what comes between sees it, and may change what it rests on
                self._attempt(job, job.work)
        appends.write()

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


def _fail(jobs: Sequence[_Job], error: MurmurateError) -> None:
    """Give each job an error of its own: a traceback grows with each raise."""
    for job in jobs:
        job.value, job.error = None, copy(error)


def _is_of_the_disk(cause: Exception) -> bool:
    code = getattr(cause, "sqlite_errorcode", 0)
    return code & 0xFF == sqlite3.SQLITE_IOERR
