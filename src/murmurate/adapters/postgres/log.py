"""The log on PostgreSQL: several servers share it, each writes through one connection."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress

import asyncpg

from murmurate.adapters.postgres.bell import Bell
from murmurate.adapters.postgres.database import LOST, Connection, Database
from murmurate.adapters.postgres.format import prepare
from murmurate.adapters.postgres.queries import Queries
from murmurate.adapters.postgres.readers import Readers, hang_up
from murmurate.adapters.postgres.works import Works
from murmurate.adapters.postgres.writer import GroupWriter
from murmurate.adapters.postgres.writes import Appending, Writes
from murmurate.adapters.sqlite.damage import Damage, DamageBook, Reason
from murmurate.adapters.sqlite.queries import PAGE_ROWS, Page
from murmurate.core.clock import Clock
from murmurate.core.errors import BadRequestError, BodyTooLargeError, LogCorruptError
from murmurate.core.ports import Claim, Entry, Renewal, Stored, StreamInfo, Work, WorkInfo

BODY_BYTES_MAX = 64 * 1024 * 1024
NAMES_BYTES_MAX = 2000
"""Tenant and stream together: an index of PostgreSQL takes no more than about 2,700."""
POLL_S = 0.2
"""How often a tail looks for itself, should no bell have rung."""
READERS = 4
EXAMINE_PAUSE_S = 0.01
"""Between the steps of an examination, so that requests come first."""


class PostgresLog:
    """A `Log` in a schema of a PostgreSQL database. Used from one event loop; `open()` it."""

    def __init__(
        self,
        database: Database,
        connection: Connection,
        *,
        clock: Clock,
        queue_max: int = 4096,
        batch_max: int = 512,
        on_damage: Callable[[Damage], None] = lambda _: None,
    ) -> None:
        """`connection` leads to a schema that is prepared; it belongs to the log from now on."""
        self._database = database
        self._clock = clock
        self._news = asyncio.Event()
        self._closed = False
        self._queries = Queries(database)
        self._works = Works(database)
        self._writes = Writes(database)
        self._readers = Readers(database, count=READERS)
        self._book = DamageBook([], on_damage)
        self._bell = Bell(database, clock=clock, heard=self._wake_tails)
        self._writer = GroupWriter(
            database,
            connection,
            clock=clock,
            queue_max=queue_max,
            batch_max=batch_max,
            committed=self._tell,
        )

    @classmethod
    async def open(
        cls,
        database: Database,
        *,
        clock: Clock,
        queue_max: int = 4096,
        batch_max: int = 512,
        on_damage: Callable[[Damage], None] = lambda _: None,
    ) -> "PostgresLog":
        """Open the log, making or migrating its tables. `close()` it.

        Raises:
            LogNewerError: A newer version wrote it.
            LogUnavailableError: The server is not there, refuses us, or is not as we need it.
        """
        connection = await database.connect()
        try:
            await prepare(connection, database)
        except (*LOST, asyncpg.PostgresError) as cause:
            await hang_up(connection)
            raise database.translate(cause) from None
        except BaseException:
            await hang_up(connection)
            raise
        return cls(
            database,
            connection,
            clock=clock,
            queue_max=queue_max,
            batch_max=batch_max,
            on_damage=on_damage,
        )

    @property
    def name(self) -> str:
        """Where the log is, without any secret."""
        return f"{self._database.name}, schema {self._database.schema}"

    @property
    def damage(self) -> Sequence[Damage]:
        """What was found to be damaged or lost since the start."""
        return self._book.known

    @property
    def faults(self) -> int:
        """How often the connection was lost in a write."""
        return self._writer.faults

    async def append(
        self,
        entries: Sequence[Entry],
        *,
        expected: Mapping[tuple[str, str], int] | None = None,
        fence: Claim | None = None,
        work: Sequence[Work] = (),
    ) -> list[int]:
        """Append all entries and change all work, or nothing, durable; see `Log`.

        Where the connection is lost in the middle of a commit, it is not known whether anything
        was written: the `LogUnavailableError` says so. Read the stream to find out, and append
        again with `expected`.

        Raises:
            BodyTooLargeError: A body is over 64 MiB.
            BadRequestError: A name is too long, or has a zero byte.
            LogCorruptError: The stream's count is damaged, so that no seq is certain.
        """
        size_bytes = 0
        for entry in entries:
            _check_names(entry.tenant, entry.stream, entry.kind)
            _check_size(entry.tenant, entry.stream, entry.body)
            size_bytes += len(entry.body)
        for change in work:
            _check_names(change.tenant, change.stream)
        appending = Appending(
            tuple(entries), expected or {}, fence, tuple(work), self._clock.unix_ms()
        )
        return await self._writer.do(appending, size_bytes=size_bytes)

    async def read(self, tenant: str, stream: str, *, after: int = 0) -> AsyncGenerator[Stored]:
        """Yield the entries above `after`, page by page, each checked; see `Log`."""
        beginning, more = True, True
        while more:
            page = await self._page(tenant, stream, after, beginning=beginning)
            for stored in page.entries:
                after = stored.seq
                yield stored
            self._check(page)
            beginning, more = False, page.more

    async def tail(self, prefix: str, *, after: int) -> AsyncGenerator[Stored]:
        """Follow all streams of that prefix; see `Log`. Ends when the log is closed."""
        # Nothing is missed by going on from the highest position seen: see `writer.py`.
        while not self._closed:
            news, seen = self._news, after
            page = await self._readers.do(
                lambda db, seen=seen: self._queries.news_page(db, prefix, seen)
            )
            for stored in page.entries:
                yield stored
            self._check(page)
            after = page.through
            if not page.more:
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await news.wait()

    async def streams(
        self, tenant: str, prefix: str, *, after: str = ""
    ) -> AsyncGenerator[StreamInfo]:
        """Yield the tenant's streams of that prefix that have something to read; see `Log`."""
        more = True
        while more:
            rows = await self._readers.do(
                lambda db, seen=after: self._queries.streams(db, tenant, prefix, seen)
            )
            for after, head in rows:  # noqa: PLR1704 - the listing goes on behind each
                yield StreamInfo(tenant, after, head)
            more = len(rows) == PAGE_ROWS

    async def snapshot(self, tenant: str, stream: str, seq: int, body: bytes) -> None:
        """Let `body` stand for all entries up to `seq`; see `Log`.

        Raises:
            LogConflictError: There is no entry of that seq (any more).
            BodyTooLargeError: The body is over 64 MiB.
        """
        _check_size(tenant, stream, body)
        key, at_ms = (tenant, stream), self._clock.unix_ms()
        await self._writer.do(
            lambda db: self._writes.snapshot(db, key, seq, body=body, at_ms=at_ms),
            size_bytes=len(body),
        )

    async def forget(self, tenant: str, stream: str, *, before: int | None = None) -> None:
        """Delete old entries, or the whole stream with its snapshot; see `Log`."""
        await self._writer.do(lambda db: self._writes.forget(db, (tenant, stream), before))
        self._book.forget(tenant, stream, before)

    async def claim(self, queue: str, runner: str, *, limit: int) -> list[Claim]:
        """Take work that is due and that nobody holds; see `Log`."""
        now_ms = self._clock.unix_ms()
        if not await self._readers.do(lambda db: self._queries.is_any_due(db, queue, now_ms)):
            return []  # looking costs no commit
        return await self._writer.do(
            lambda db: self._works.claim(db, queue, runner, limit=limit, now_ms=now_ms)
        )

    async def renew(self, runner: str) -> Renewal:
        """Say that the runner lives; see `Log`."""
        return await self._writer.do(lambda db: self._works.renew(db, runner), is_durable=False)

    async def beats(self) -> dict[str, int]:
        """Return every runner's count of renewals."""
        return await self._readers.do(self._queries.beats)

    async def held(self, runner: str) -> list[Claim]:
        """Return what a runner holds; see `Log`."""
        return await self._readers.do(lambda db: self._queries.held(db, runner))

    async def revoke(self, runner: str, *, beat: int | None = None) -> bool:
        """Take everything from a runner; see `Log`."""
        return await self._writer.do(lambda db: self._works.revoke(db, runner, beat))

    async def work(self, tenant: str, queue: str, *, after: str = "") -> AsyncGenerator[WorkInfo]:
        """Yield the tenant's work of a queue; see `Log`."""
        more = True
        while more:
            found = await self._readers.do(
                lambda db, seen=after: self._queries.work(db, tenant, queue, seen)
            )
            for info in found:
                after = info.stream
                yield info
            more = len(found) == PAGE_ROWS

    async def examine(self) -> None:
        """Read everything once, slowly, so that damage is known before somebody needs the place.

        Raises:
            LogUnavailableError: The server cannot be asked now.
        """
        after, more = ("", ""), True
        while more:
            names = await self._readers.do(lambda db, seen=after: self._queries.all_names(db, seen))
            for tenant, stream in names:
                await self._examine_stream(tenant, stream)
            after = names[-1] if names else after
            more = len(names) == PAGE_ROWS
        for damage in await self._readers.do(self._queries.headless):
            self._book.note(damage)

    async def close(self) -> None:
        """Commit what was accepted, end the tails, close all connections."""
        self._closed = True
        self._wake_tails()
        await self._writer.close()
        await self._bell.close()
        await self._readers.close()

    async def _page(self, tenant: str, stream: str, after: int, *, beginning: bool) -> Page:
        return await self._readers.do(
            lambda db: self._queries.page(db, (tenant, stream), after, beginning=beginning)
        )

    async def _examine_stream(self, tenant: str, stream: str) -> None:
        """Read a stream to its end, going on behind each damaged place."""
        after, beginning, more = 0, True, True
        while more:
            page = await self._page(tenant, stream, after, beginning=beginning)
            after = page.entries[-1].seq if page.entries else after
            beginning, more = False, page.more
            if page.damage is not None:
                self._book.note(page.damage)
                after = page.damage.last
                more = page.damage.reason is not Reason.HEAD
            await self._clock.sleep(EXAMINE_PAUSE_S)

    def _check(self, page: Page) -> None:
        """Raise what is wrong behind a page's entries."""
        if page.damage is not None:
            self._book.note(page.damage)
            raise LogCorruptError(
                f"{page.damage}; other streams are served. Restore a backup of the database, or go"
                " on without"
            )

    def _tell(self) -> None:
        self._wake_tails()
        self._bell.ring()

    def _wake_tails(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def _check_names(tenant: str, stream: str, kind: str = "") -> None:
    size_bytes = len(tenant.encode()) + len(stream.encode())
    if size_bytes > NAMES_BYTES_MAX or "\0" in f"{tenant}{stream}{kind}":
        raise BadRequestError(
            f"a name of {size_bytes} bytes, beginning with {stream[:60]!r}: expected at most"
            f" {NAMES_BYTES_MAX}, and no zero byte, as the log is in PostgreSQL"
        )


def _check_size(tenant: str, stream: str, body: bytes) -> None:
    if len(body) > BODY_BYTES_MAX:
        raise BodyTooLargeError(
            f"a body of {len(body)} bytes for stream {stream} of {tenant} is over {BODY_BYTES_MAX}"
        )
