"""The log in memory, for simulations and tests: the same promises, without a disk."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence

from murmurate.adapters.memory_work import Board
from murmurate.core.clock import Clock
from murmurate.core.errors import BodyTooLargeError, LogConflictError, LogUnavailableError
from murmurate.core.ports import (
    SNAPSHOT,
    Claim,
    Entry,
    Renewal,
    Stored,
    StreamInfo,
    Work,
    WorkInfo,
)

BODY_BYTES_MAX = 64 * 1024 * 1024


class _Stream:
    """One stream: `entries` starts at the seq `first`; the older ones are forgotten."""

    __slots__ = ("entries", "first", "snapshot")

    def __init__(self) -> None:
        self.first = 1
        self.entries: list[Stored] = []
        self.snapshot: Stored | None = None

    @property
    def head(self) -> int:
        return self.first + len(self.entries) - 1

    def behind(self, after: int) -> list[Stored]:
        snapshot = self.snapshot
        if snapshot is None or snapshot.seq <= after:
            return self.entries[max(0, after + 1 - self.first) :]
        return [snapshot, *self.entries[max(0, snapshot.seq + 1 - self.first) :]]


class MemoryLog:
    """A `Log` that lives as long as the object. Deterministic: an append never waits."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._tenants: dict[str, dict[str, _Stream]] = {}
        self._all: list[Stored | None] = []  # by position, from 1; None: forgotten
        self._board = Board()
        self._news = asyncio.Event()
        self._closed = False

    async def append(
        self,
        entries: Sequence[Entry],
        *,
        expected: Mapping[tuple[str, str], int] | None = None,
        fence: Claim | None = None,
        work: Sequence[Work] = (),
    ) -> list[int]:
        """Append all entries and change all work, or nothing; see `Log`."""
        self._check_open()
        for (tenant, name), seen in (expected or {}).items():
            stream = self._tenants.get(tenant, {}).get(name)
            head = stream.head if stream else 0
            if head != seen:
                raise LogConflictError(f"stream {name} of {tenant} ends at {head}, not at {seen}")
        for entry in entries:
            _check_size(entry.tenant, entry.stream, entry.body)
        self._board.change(work, fence=fence)
        at_ms = self._clock.unix_ms()
        epoch = fence.epoch if fence else 0
        seqs = [self._store(entry, at_ms, epoch) for entry in entries]
        self._wake_tails()
        return seqs

    async def read(self, tenant: str, stream: str, *, after: int = 0) -> AsyncGenerator[Stored]:
        """Yield the entries above `after` that exist when the reading starts; see `Log`."""
        self._check_open()
        known = self._tenants.get(tenant, {}).get(stream)
        for stored in known.behind(after) if known else ():
            yield stored

    async def tail(self, prefix: str, *, after: int) -> AsyncGenerator[Stored]:
        """Follow all streams of that prefix; see `Log`. Ends when the log is closed."""
        while not self._closed:
            news = self._news
            for stored in self._all[after:]:
                after += 1
                if stored and stored.stream.startswith(prefix):
                    yield stored
            await news.wait()

    async def streams(
        self, tenant: str, prefix: str, *, after: str = ""
    ) -> AsyncGenerator[StreamInfo]:
        """Yield the tenant's streams of that prefix, in order of name; see `Log`."""
        self._check_open()
        known = self._tenants.get(tenant, {})
        for name in sorted(name for name in known if name > after and name.startswith(prefix)):
            stream = known[name]
            if stream.entries or stream.snapshot:
                yield StreamInfo(tenant, name, stream.head)

    async def snapshot(self, tenant: str, stream: str, seq: int, body: bytes) -> None:
        """Let `body` stand for all entries up to `seq`; see `Log`."""
        self._check_open()
        _check_size(tenant, stream, body)
        known = self._tenants.get(tenant, {}).get(stream) or _Stream()
        old = known.snapshot
        if old and old.seq > seq:
            return
        if old and old.seq == seq:
            position, epoch = old.position, old.epoch
        elif known.first <= seq <= known.head:
            newest = known.entries[seq - known.first]
            position, epoch = newest.position, newest.epoch
        else:
            raise LogConflictError(f"stream {stream} of {tenant} has no entry {seq} to stand for")
        at_ms = self._clock.unix_ms()
        known.snapshot = Stored(tenant, stream, seq, position, epoch, SNAPSHOT, at_ms, body)

    async def forget(self, tenant: str, stream: str, *, before: int | None = None) -> None:
        """Delete old entries, or the whole stream; see `Log`."""
        self._check_open()
        known = self._tenants.get(tenant, {}).get(stream)
        if known is None:
            return
        end = known.head + 1
        cut = end if before is None else max(known.first, min(before, end))
        for stored in known.entries[: cut - known.first]:
            self._all[stored.position - 1] = None
        del known.entries[: cut - known.first]
        known.first = cut
        if before is None:
            known.snapshot = None

    async def claim(self, queue: str, runner: str, *, limit: int) -> list[Claim]:
        """Take work that is due and that nobody holds; see `Log`."""
        self._check_open()
        return self._board.claim(queue, runner, limit=limit, now_ms=self._clock.unix_ms())

    async def renew(self, runner: str) -> Renewal:
        """Say that the runner lives; see `Log`."""
        self._check_open()
        return self._board.renew(runner)

    async def beats(self) -> dict[str, int]:
        """Return every runner's count of renewals."""
        self._check_open()
        return dict(self._board.beats)

    async def held(self, runner: str) -> list[Claim]:
        """Return what a runner holds; see `Log`."""
        self._check_open()
        return self._board.held(runner)

    async def revoke(self, runner: str, *, beat: int | None = None) -> bool:
        """Take everything from a runner; see `Log`."""
        self._check_open()
        return self._board.revoke(runner, beat)

    async def work(self, tenant: str, queue: str, *, after: str = "") -> AsyncGenerator[WorkInfo]:
        """Yield the tenant's work of a queue; see `Log`."""
        self._check_open()
        for info in self._board.listed(tenant, queue):
            if info.stream > after:
                yield info

    async def close(self) -> None:
        """End all tails; what comes after is refused."""
        self._closed = True
        self._wake_tails()

    def _store(self, entry: Entry, at_ms: int, epoch: int = 0) -> int:
        streams = self._tenants.get(entry.tenant)
        if streams is None:
            streams = self._tenants[entry.tenant] = {}
        stream = streams.get(entry.stream)
        if stream is None:
            stream = streams[entry.stream] = _Stream()
        seq = stream.head + 1
        position = len(self._all) + 1
        place = (entry.tenant, entry.stream, seq, position)
        stored = Stored(*place, epoch, entry.kind, at_ms, entry.body)
        stream.entries.append(stored)
        self._all.append(stored)
        return seq

    def _wake_tails(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _check_open(self) -> None:
        if self._closed:
            raise LogUnavailableError("the log is closed")


def _check_size(tenant: str, stream: str, body: bytes) -> None:
    if len(body) > BODY_BYTES_MAX:
        raise BodyTooLargeError(
            f"a body of {len(body)} bytes for stream {stream} of {tenant} is over {BODY_BYTES_MAX}"
        )
