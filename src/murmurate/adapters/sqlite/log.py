"""The log on SQLite: truth.db. Appends go to one writer thread, queries to a few reading ones."""

# Over 400 lines: the whole port in one place; its parts stand in files of their own.

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from murmurate.adapters.sqlite import queries, works
from murmurate.adapters.sqlite.appends import Appending
from murmurate.adapters.sqlite.beats import Beats
from murmurate.adapters.sqlite.copies import keep_before_upgrade
from murmurate.adapters.sqlite.damage import MENDED_AT_START, Damage, DamageBook, Reason
from murmurate.adapters.sqlite.database import open_reader, open_writer, translated
from murmurate.adapters.sqlite.folding import SyncLostError, fold, keep_open
from murmurate.adapters.sqlite.format import SCHEMA
from murmurate.adapters.sqlite.mend import ask_for_mending, mended
from murmurate.adapters.sqlite.queries import PAGE_ROWS, Page
from murmurate.adapters.sqlite.readers import Readers
from murmurate.adapters.sqlite.sharing import Sharing
from murmurate.adapters.sqlite.writer import DiskFault, GroupWriter
from murmurate.adapters.sqlite.writer import Work as Query
from murmurate.core.clock import Clock
from murmurate.core.errors import (
    BodyTooLargeError,
    LogCorruptError,
    LogUnavailableError,
    MurmurateError,
)
from murmurate.core.ports import Claim, Entry, Renewal, Stored, StreamInfo, Work, WorkInfo

BODY_BYTES_MAX = 64 * 1024 * 1024
POLL_S = 0.2
"""How often a tail looks for what other processes committed; its own process wakes it at once."""
READERS = 4
EXAMINE_PAUSE_S = 0.01
"""Between the steps of an examination, so that requests come first."""

_T = TypeVar("_T")


BEAT_S = 0.4
BEATS_IN_A_WAIT = 25


class SqliteLog:
    """A `Log` in one file that several processes may share. Used from one event loop."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock,
        queue_max: int = 4096,
        batch_max: int = 512,
        on_damage: Callable[[Damage], None] = lambda _: None,
        on_fault: Callable[[DiskFault], None] = lambda _: None,
        told: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Open or make the file; blocks for a moment. `close()` it.

        An older file is migrated, after a copy of it was kept; a damaged one is replaced by what
        can be read of it. Both are `told` in a line, and may take a while where the file is big.
        `on_damage` is called once for each place that turns out to be damaged; `on_fault`, on any
        thread, when the disk fails in a write: after a final fault end the process without `close`,
        and start again.

        Raises:
            LogNewerError: A newer version wrote the file.
            LogUnavailableError: The file cannot be opened, or there is no room for its copy.
            LogCorruptError: Nothing of the file can be read.
        """
        self._path = path
        self._clock = clock
        self._told = told
        self._news = asyncio.Event()
        self._closed = False
        self._sharing = shared(path, lambda: mended(path, clock=clock, told=told))
        try:
            connection = self._open_writer()
        except BaseException:
            self._sharing.close()
            raise
        self._on_fault = on_fault
        self._faults = 0
        self._beats = Beats(path)
        self._readers = Readers(path, count=READERS)
        with translated(path), closing(open_reader(path)) as reader:
            self._book = DamageBook(queries.known_damage(reader), on_damage)
        self._writer = GroupWriter(
            connection,
            path,
            clock=clock,
            queue_max=queue_max,
            batch_max=batch_max,
            committed=self._wake_tails,
            on_fault=self._note_fault,
        )

    @property
    def damage(self) -> Sequence[Damage]:
        """What is known to be damaged or lost; at most `KNOWN_MAX` places."""
        return self._book.known

    @property
    def faults(self) -> int:
        """How often the disk failed in a write."""
        return self._faults

    async def append(
        self,
        entries: Sequence[Entry],
        *,
        expected: Mapping[tuple[str, str], int] | None = None,
        fence: Claim | None = None,
        work: Sequence[Work] = (),
    ) -> list[int]:
        """Append all entries and change all work, or nothing, fsynced; see `Log`.

        A damaged entry does not keep a stream from going on; a damaged count does.

        Raises:
            BodyTooLargeError: A body is over 64 MiB.
            LogCorruptError: The stream's count is damaged, so that no seq is certain.
        """
        size_bytes = 0
        for entry in entries:
            _check_size(entry.tenant, entry.stream, entry.body)
            size_bytes += len(entry.body)
        appending = Appending(tuple(entries), expected or {}, fence, self._clock.unix_ms())
        try:
            if not work:
                return await self._writer.append(appending, size_bytes=size_bytes)
            both = partial(works.append, appending=appending, work=tuple(work))
            return await self._writer.do(both, size_bytes=size_bytes)
        except LogCorruptError:
            ask_for_mending(self._path)
            raise

    async def read(self, tenant: str, stream: str, *, after: int = 0) -> AsyncGenerator[Stored]:
        """Yield the entries above `after`, page by page, each checked; see `Log`."""
        beginning, more = True, True
        while more:
            page = await self._page(tenant, stream, after, beginning=beginning)
            for stored in page.entries:
                after = stored.seq
                yield stored
            await self._check(page)
            beginning, more = False, page.more

    async def tail(self, prefix: str, *, after: int) -> AsyncGenerator[Stored]:
        """Follow all streams of that prefix; see `Log`. Ends when the log is closed."""
        # Nothing can be missed by going on from the highest position seen: SQLite has one writer
        # at a time over all processes, an AUTOINCREMENT position is drawn inside the write
        # transaction (BEGIN IMMEDIATE holds the lock until the commit), and a deleted one is never
        # drawn again. So positions become visible in their order, never one below another.
        while not self._closed:
            news = self._news
            page = await self._readers.do(partial(queries.news_page, prefix=prefix, after=after))
            for stored in page.entries:
                yield stored
            await self._check(page)
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
            listing = partial(queries.stream_names, tenant=tenant, prefix=prefix, after=after)
            rows = await self._whole(listing)
            for name, head in rows:
                if name <= after:
                    raise LogCorruptError(
                        f"{self._path.name}: the names of streams are out of order"
                    )
                after = name
                yield StreamInfo(tenant, name, head)
            more = len(rows) == PAGE_ROWS

    async def snapshot(self, tenant: str, stream: str, seq: int, body: bytes) -> None:
        """Let `body` stand for all entries up to `seq`; see `Log`.

        Raises:
            LogConflictError: There is no entry of that seq (any more).
            BodyTooLargeError: The body is over 64 MiB.
        """
        _check_size(tenant, stream, body)
        work = partial(
            queries.snapshot, key=(tenant, stream), seq=seq, body=body, at_ms=self._clock.unix_ms()
        )
        await self._writer.do(work, size_bytes=len(body))

    async def forget(self, tenant: str, stream: str, *, before: int | None = None) -> None:
        """Delete old entries, or the whole stream with its snapshot; see `Log`."""
        await self._writer.do(partial(queries.forget, key=(tenant, stream), before=before))
        self._book.forget(tenant, stream, before)

    async def claim(self, queue: str, runner: str, *, limit: int) -> list[Claim]:
        """Take work that is due and that nobody holds; see `Log`."""
        now_ms = self._clock.unix_ms()
        if not await self._readers.do(partial(works.is_any_due, queue=queue, now_ms=now_ms)):
            return []  # looking costs no commit
        claiming = partial(works.claim, queue=queue, runner=runner, limit=limit, now_ms=now_ms)
        return await self._writer.do(claiming)

    async def renew(self, runner: str) -> Renewal:
        """Say that the runner lives; see `Log`. Without news it writes nothing to truth.db.

        With news it may wait until others have let go of the database: it goes on to beat
        meanwhile, for so long as a commit may take.
        """
        await self._beats.add(runner)
        news = asyncio.ensure_future(self._heard(runner))
        try:
            for _ in range(BEATS_IN_A_WAIT):
                await asyncio.wait({news}, timeout=BEAT_S)
                if news.done():
                    break
                await self._beats.add(runner)
            return await news
        finally:
            news.cancel()

    async def _heard(self, runner: str) -> Renewal:
        if await self._readers.do(partial(works.has_no_news, runner=runner)):
            return Renewal(known=True, nudged=())
        return await self._writer.do(partial(works.renew, runner=runner))

    async def beats(self) -> dict[str, int]:
        """Return every runner's count of renewals."""
        return await self._readers.do(lambda db: self._beats.of(works.enlisted(db)))

    async def held(self, runner: str) -> list[Claim]:
        """Return what a runner holds; see `Log`."""
        return await self._readers.do(partial(works.held, runner=runner))

    async def revoke(self, runner: str, *, beat: int | None = None) -> bool:
        """Take everything from a runner; see `Log`.

        A beat that comes while this is committed is not heard: the next one tells its runner.
        """

        def revoked(db: sqlite3.Connection) -> bool:
            has_beaten = beat is not None and self._beats.of([runner]) != {runner: beat}
            return not has_beaten and works.revoke(db, runner)

        done = await self._writer.do(revoked)
        if done:
            await self._readers.do(lambda _: self._beats.forget(runner))
        return done

    async def work(self, tenant: str, queue: str, *, after: str = "") -> AsyncGenerator[WorkInfo]:
        """Yield the tenant's work of a queue; see `Log`."""
        more = True
        while more:
            page = partial(works.page, tenant=tenant, queue=queue, after=after)
            found = await self._readers.do(page)
            for info in found:
                after = info.stream
                yield info
            more = len(found) == PAGE_ROWS

    async def examine(self) -> None:
        """Read everything once, slowly, so that damage is known before somebody needs the place.

        Raises:
            LogUnavailableError: The file cannot be read now.
            LogCorruptError: What goes over all streams cannot be read; the next start mends it.
        """
        after = (b"", b"")
        more = True
        while more:
            names = await self._whole(partial(queries.all_names, after=after))
            for tenant, stream in names:
                await self._examine_stream(queries.text_of(tenant), queries.text_of(stream))
            # In a damaged tree the names may come in another order, and then again and again.
            before, after = after, names[-1] if names else after
            is_further = [*map(queries.text_of, after)] > [*map(queries.text_of, before)]
            more = len(names) == PAGE_ROWS and is_further
        for damage in await self._whole(queries.headless):
            await self._note(damage)

    async def close(self) -> None:
        """Commit what was accepted, end the tails, close all connections and threads."""
        self._closed = True
        self._wake_tails()
        await self._writer.close()
        await self._readers.close()
        self._beats.close()
        self._sharing.close()

    async def _whole(self, query: Query[_T]) -> _T:
        """Ask what goes over many streams; where that can't be read, the next start mends it."""
        try:
            return await self._readers.do(query)
        except LogCorruptError:
            ask_for_mending(self._path)
            raise

    async def _page(self, tenant: str, stream: str, after: int, *, beginning: bool) -> Page:
        try:
            return await self._readers.do(
                partial(
                    queries.page, tenant=tenant, stream=stream, after=after, beginning=beginning
                )
            )
        except LogCorruptError:
            seq = after + 1
            return Page(damage=Damage(tenant, stream, seq, seq, Reason.UNREADABLE))

    async def _examine_stream(self, tenant: str, stream: str) -> None:
        """Read a stream to its end, going on behind each damaged place."""
        after, beginning, more = 0, True, True
        while more:
            page = await self._page(tenant, stream, after, beginning=beginning)
            after = page.entries[-1].seq if page.entries else after
            beginning, more = False, page.more
            if page.damage is not None:
                await self._note(page.damage)
                after = page.damage.last
                more = page.damage.reason not in {Reason.HEAD, Reason.UNREADABLE}
            await self._clock.sleep(EXAMINE_PAUSE_S)

    async def _check(self, page: Page) -> None:
        """Raise what is wrong behind a page's entries."""
        if page.damage is not None:
            await self._note(page.damage)
            raise LogCorruptError(
                f"{page.damage}; other streams are served. `murmurate doctor` names all damage:"
                " restore a backup, or go on without"
            )

    async def _note(self, damage: Damage) -> None:
        """Remember a damaged place, also over the next start; ask for mending where that helps."""
        if not self._book.note(damage):
            return
        if damage.reason in MENDED_AT_START:
            ask_for_mending(self._path)
        with suppress(MurmurateError):  # a file that takes no note is known to be damaged anyway
            keeping = partial(queries.keep_damage, damage=damage, at_ms=self._clock.unix_ms())
            await self._writer.do(keeping)

    def _open_writer(self) -> sqlite3.Connection:
        path = self._path
        keep = self._keep_before_upgrade
        connection = open_writer(path, SCHEMA, synchronous="FULL", before_upgrade=keep)
        with translated(path):
            _settle(connection, path)
        return connection

    def _note_fault(self, fault: DiskFault) -> None:
        self._faults += 1
        if fault.is_final:
            self._readers.lose(fault.detail)
        self._on_fault(fault)

    def _keep_before_upgrade(self, version: int) -> None:
        self._told(f"{self._path.name}: format {version} becomes {SCHEMA.version}; keeping a copy")
        kept = keep_before_upgrade(self._path, version)
        self._told(f"{self._path.name}: the old file is kept as {kept.name}")

    def _wake_tails(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def shared(path: Path, when_alone: Callable[[], object]) -> Sharing:
    """Open the lock beside the log; `LogUnavailableError` where it can't be made."""
    try:
        return Sharing(path, when_alone)
    except OSError as cause:
        raise LogUnavailableError(f"{path.name} can't be opened: {cause.strerror}") from cause


def _settle(connection: sqlite3.Connection, path: Path) -> None:
    """Move what is in the WAL into the file before anything is built on it.

    It may be of a commit whose fsync failed: then it is read from memory, and is not on the disk.
    Somebody else who has the file open has done this already, and keeps us from it.
    """
    connection.execute("PRAGMA busy_timeout=0").fetchall()
    try:
        fold(connection, "TRUNCATE")
    except SyncLostError as loss:
        keep_open(connection)
        raise LogUnavailableError(f"{path.name}: the disk does not keep it: {loss}") from loss


def _check_size(tenant: str, stream: str, body: bytes) -> None:
    if len(body) > BODY_BYTES_MAX:
        raise BodyTooLargeError(
            f"a body of {len(body)} bytes for stream {stream} of {tenant} is over {BODY_BYTES_MAX}"
        )
