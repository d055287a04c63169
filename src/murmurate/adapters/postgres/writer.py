"""Group commit on PostgreSQL: whatever waits while a commit is on its way goes with the next one.

One task of each server owns one connection. It takes all jobs that wait into one transaction; all
appends that follow each other are written by the same few statements.

Why no tail misses a commit, although several servers write: each transaction takes the same
advisory lock before its first statement, and holds it until it is committed and seen by all. So
there is one writer at a time over all servers, positions are drawn (by a sequence without cache)
inside the lock, and become visible in their order, never one below another.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from enum import Enum
from itertools import groupby
from typing import Any, TypeVar

import asyncpg

from murmurate.adapters.postgres.database import (
    LOST,
    Connection,
    Database,
    is_of_the_server,
    newer,
    roll_back,
)
from murmurate.adapters.postgres.format import BOUNDS, VERSION, lock
from murmurate.adapters.postgres.readers import hang_up
from murmurate.adapters.postgres.writes import Appending, Proof, Writes
from murmurate.core.clock import Clock
from murmurate.core.errors import LogUnavailableError, MurmurateError

WAITING_BYTES_MAX = 256 * 1024 * 1024
"""Beside the number of waiting jobs, their size is bounded: bodies wait in memory."""
BATCH_BYTES_MAX = 32 * 1024 * 1024
"""Beside their number, what goes into one commit is bounded: PostgreSQL holds a statement whole."""
PATIENCE_S = 3.0
"""How long a writer that has lost its server keeps its jobs waiting; then it refuses at once."""
RESOLVE_S = 15.0
"""How long it looks for a commit whose answer was lost, while another host may take over."""
COMMIT_S = 10.0
"""The longest a commit may take. A primary whose synchronous standby has gone waits for ever."""
RETRY_S = (0.05, 2.0)
"""Between attempts to connect: at first, and at most."""

_T = TypeVar("_T")
Deed = Callable[[Connection], Awaitable[_T]]
"""Writes something, and raises errors of ours only while it has written nothing."""


class _Job:
    """An append or another piece of writing, and who waits for it."""

    __slots__ = ("error", "future", "is_durable", "size_bytes", "value", "work")

    def __init__(
        self,
        work: Appending | Deed[Any],
        future: asyncio.Future[Any],
        size_bytes: int,
        *,
        is_durable: bool,
    ) -> None:
        self.work = work
        self.future = future
        self.is_durable = is_durable
        self.size_bytes = size_bytes
        self.value: Any = None
        self.error: Exception | None = None


class _NotReplicatedError(Exception):
    """PostgreSQL has warned that a standby may lack what was committed."""


class _Step(Enum):
    """How far a transaction has come."""

    BEGIN = "begin"
    PERFORM = "perform"
    COMMIT = "commit"


class GroupWriter:
    """Writes from one event loop, many jobs a commit. `committed` is called after each of them."""

    def __init__(
        self,
        database: Database,
        connection: Connection,
        *,
        clock: Clock,
        queue_max: int,
        batch_max: int,
        committed: Callable[[], None],
    ) -> None:
        """`connection` belongs to the writer from now on."""
        self._database = database
        self._connection: Connection | None = connection
        connection.add_log_listener(self._note_warning)
        self._warned = False
        self._clock = clock
        self._queue_max = queue_max
        self._batch_max = batch_max
        self._committed = committed
        self._writes = Writes(database)
        # The division fails where the format is another one: the servers of a newer version may
        # have changed it under us, and each statement of these sees what was committed before it.
        guard = database.sql(f"SELECT 1 / (format = {VERSION})::int FROM log.about")  # noqa: S608
        self._begin = f"BEGIN; {BOUNDS}; {lock(database)}; {guard}"
        self._jobs: deque[_Job] = deque()
        self._news = asyncio.Event()
        self._waiting = 0
        self._waiting_bytes = 0
        self._closed = False
        self.faults = 0
        """How often the connection was lost in a transaction."""
        self._down_since_s: float | None = None
        self._next_try_s = 0.0
        self._pause_s = RETRY_S[0]
        self._why_down: LogUnavailableError | None = None
        self._task = asyncio.create_task(self._run(), name=f"write {database.name}")

    async def do(
        self, work: Appending | Deed[Any], *, size_bytes: int = 0, is_durable: bool = True
    ) -> Any:  # noqa: ANN401 - what a deed returns
        """Return the seqs of an append, or what a deed returned, once it is committed.

        What need not be durable waits for no disk and no standby, where it comes alone.

        A deed may run again when a transaction is lost, so it only touches the connection.

        Raises:
            LogUnavailableError: Too much waits already, or the server is not there. The message
                says so where the connection was lost in a commit: whether it was written is open.
        """
        if self._closed:
            raise LogUnavailableError(f"{self._database.name} is closed")
        if self._waiting >= self._queue_max or self._waiting_bytes > WAITING_BYTES_MAX:
            raise LogUnavailableError(
                f"{self._waiting} writes to {self._database.name} wait already, with"
                f" {self._waiting_bytes} bytes; retry after 1 s",
                retry_s=1.0,
            )
        job = _Job(
            work, asyncio.get_running_loop().create_future(), size_bytes, is_durable=is_durable
        )
        self._waiting += 1
        self._waiting_bytes += size_bytes
        self._jobs.append(job)
        self._news.set()
        return await job.future

    async def close(self) -> None:
        """Commit what was accepted, end the task, close the connection."""
        self._closed = True
        self._news.set()
        await asyncio.shield(self._task)
        if self._connection is not None:
            await hang_up(self._connection)
            self._connection = None

    async def _run(self) -> None:
        while True:
            batch = self._next_batch()
            if batch:
                await self._commit(batch)
                self._answer(batch)
            elif self._closed:
                return
            else:
                self._news.clear()
                await self._news.wait()

    def _next_batch(self) -> list[_Job]:
        batch: list[_Job] = []
        size_bytes = 0
        while self._jobs and len(batch) < self._batch_max:
            size_bytes += self._jobs[0].size_bytes
            if batch and size_bytes > BATCH_BYTES_MAX:
                break
            batch.append(self._jobs.popleft())
        return batch

    async def _commit(self, jobs: Sequence[_Job], *, again: bool = True) -> None:
        """Run the jobs in one transaction. If that is refused, find the culprit by halving.

        What is lost before its commit was sent was not written, and is tried once more.
        """
        try:
            connection = await self._connected()
        except Exception as error:  # noqa: BLE001 - it goes to whoever waits: the task must live
            _fail(jobs, error)
            return
        step, proof = _Step.BEGIN, None
        try:
            await connection.execute(self._beginning(jobs))
            step = _Step.PERFORM
            proof = await self._perform(connection, jobs)
            step, self._warned = _Step.COMMIT, False
            done = await connection.execute("COMMIT", timeout=COMMIT_S)
            if done != "COMMIT":  # what PostgreSQL answers where it has rolled back instead
                _fail(jobs, LogUnavailableError(f"{self._database.name}: nothing was written"))
            elif self._warned:
                await self._resolve(jobs, proof, _NotReplicatedError(), again=again)
        except LOST as cause:
            self.faults += 1
            connection.terminate()
            self._connection = None
            if step is _Step.COMMIT:
                await self._resolve(jobs, proof, cause, again=again)
            elif again:
                await self._commit(jobs, again=False)
            else:
                _fail(jobs, self._not_written(cause))
        except Exception as cause:  # noqa: BLE001 - it goes to whoever waits: the task must live
            await roll_back(connection)
            if len(jobs) == 1 or step is not _Step.PERFORM or is_of_the_server(cause):
                _fail(jobs, self._not_written(cause))
                return
            middle = len(jobs) // 2
            await self._commit(jobs[:middle])
            await self._commit(jobs[middle:])

    def _beginning(self, jobs: Sequence[_Job]) -> str:
        if any(job.is_durable for job in jobs):
            return self._begin
        return f"{self._begin}; SET LOCAL synchronous_commit = off"

    async def _resolve(
        self, jobs: Sequence[_Job], proof: Proof | None, cause: Exception, *, again: bool
    ) -> None:
        """Find out whether a commit was made whose answer was lost; if not, make it once more."""
        unknown = self._unknown(cause)
        until_s = self._clock.now_s() + RESOLVE_S
        found = None
        while proof is not None:
            try:
                found = await self._was_committed(proof)
                break
            except Exception:  # noqa: BLE001 - whatever keeps us from looking may pass
                if self._clock.now_s() >= until_s:
                    break
                await self._clock.sleep(RETRY_S[0])
        if found is None:
            _fail(jobs, unknown)
        elif not found and again:
            await self._commit(jobs, again=False)
        elif not found:
            _fail(jobs, self._not_written(cause))

    async def _was_committed(self, proof: Proof) -> bool | None:
        """Look for the entry of a lost transaction; None where nobody can know.

        The writer's lock comes first: a server that still works on the lost one has ended by then.
        It changes a row as it is: only a commit that has written something waits until everything
        before it is on the disk, and on the standbys. So what was found is as durable as any other.
        """
        connection = await self._connected()
        try:
            touch = self._database.sql("UPDATE log.about SET format = format")
            await connection.execute(f"{self._begin}; {touch}")
            found = await self._writes.has(connection, proof)
            self._warned = False
            await connection.execute("COMMIT", timeout=COMMIT_S)
        except BaseException:
            connection.terminate()
            self._connection = None
            raise
        if self._warned:
            raise _NotReplicatedError
        return found

    async def _perform(self, connection: Connection, jobs: Sequence[_Job]) -> Proof | None:
        proof = None
        for _, group in groupby(jobs, key=lambda job: isinstance(job.work, Appending)):
            some = list(group)
            appends = [job.work for job in some if isinstance(job.work, Appending)]
            if appends:
                outcomes, written = await self._writes.append(connection, appends)
                proof = written or proof
                for job, outcome in zip(some, outcomes, strict=True):
                    _settle(job, outcome)
                continue
            for job in some:
                assert not isinstance(job.work, Appending)
                try:
                    _settle(job, await job.work(connection))
                except MurmurateError as error:
                    _settle(job, error)
        return proof

    async def _connected(self) -> Connection:
        """Return the connection; a new one, with patience, where it was lost.

        Raises:
            LogUnavailableError: The server is not there.
        """
        while self._connection is None or self._connection.is_closed():
            now_s = self._clock.now_s()
            if self._why_down is not None and now_s < self._next_try_s:
                if not self._is_patient(now_s):
                    raise self._why_down
                await self._clock.sleep(self._next_try_s - now_s)
            try:
                self._connection = await self._database.connect()
                self._connection.add_log_listener(self._note_warning)
            except LogUnavailableError as error:
                now_s = self._clock.now_s()
                if self._down_since_s is None:
                    self._down_since_s = now_s
                self._why_down = error
                self._next_try_s = now_s + self._pause_s
                self._pause_s = min(self._pause_s * 2, RETRY_S[1])
                if error.retry_s is None or not self._is_patient(now_s):
                    raise
        self._down_since_s = self._why_down = None
        self._pause_s = RETRY_S[0]
        return self._connection

    def _note_warning(self, _connection: Any, message: Any) -> None:  # noqa: ANN401 - the driver's
        """Hear what the server says beside its answers, before they reach us.

        A commit that was told to wait for no standby any more (`pg_cancel_backend`) is called done.
        """
        if message.severity_en == "WARNING":
            self._warned = True

    def _is_patient(self, now_s: float) -> bool:
        return self._down_since_s is None or now_s - self._down_since_s < PATIENCE_S

    def _unknown(self, cause: Exception) -> LogUnavailableError:
        detail = self._database.translate(cause)
        return LogUnavailableError(
            f"{detail.detail} (in the middle of a commit: whether this was written is not known;"
            " read the stream before you append it again, with the head that you expect)"
        )

    def _not_written(self, cause: Exception) -> Exception:
        if not isinstance(cause, (asyncpg.PostgresError, *LOST)):
            return cause
        if isinstance(cause, asyncpg.DivisionByZeroError):
            return newer(self._database.name)
        error = self._database.translate(cause)
        if type(error) is LogUnavailableError:
            return LogUnavailableError(
                f"{error.detail}; nothing was written", retry_s=error.retry_s
            )
        return error

    def _answer(self, batch: Sequence[_Job]) -> None:
        self._waiting -= len(batch)
        for job in batch:
            self._waiting_bytes -= job.size_bytes
            if job.future.done():  # its caller was cancelled; what is committed stays
                continue
            with suppress(asyncio.InvalidStateError):
                if job.error is None:
                    job.future.set_result(job.value)
                else:
                    job.future.set_exception(job.error)
        self._committed()


def _settle(job: _Job, outcome: object) -> None:
    job.value, job.error = None, None
    if isinstance(outcome, MurmurateError):
        job.error = outcome
    else:
        job.value = outcome


def _fail(jobs: Sequence[_Job], error: Exception) -> None:
    for job in jobs:
        job.value, job.error = None, error
