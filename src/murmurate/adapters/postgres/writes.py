"""What is written to PostgreSQL: many appends in a few statements, however many they are.

Each function runs inside a transaction that holds the writer's lock, so what it reads stays true
until the commit. Appends are decided here, one after the other, over what was read once for all of
them; then everything is written at once. One that fails was never written, so nothing is undone.
"""

from collections.abc import Mapping, Sequence
from typing import Any, assert_never

from murmurate.adapters.log_checksums import head_checksum
from murmurate.adapters.postgres.database import Connection, Database
from murmurate.adapters.postgres.queries import checksum
from murmurate.adapters.sqlite.damage import Damage, Reason
from murmurate.adapters.sqlite.queries import Head
from murmurate.core.errors import FencedError, LogConflictError, LogCorruptError, MurmurateError
from murmurate.core.ports import (
    SNAPSHOT,
    Claim,
    Done,
    Entry,
    Nudge,
    Offer,
    Stored,
    Work,
)
from murmurate.core.types import Frozen

Key = tuple[str, str]
Holder = tuple[str | None, int]
"""Who holds a piece of work, None for nobody, and its epoch."""
Row = tuple[Any, ...]

_HEADS = """SELECT h.tenant, h.stream, h.seq, h.first, h.snapshot, h.crc
    FROM unnest($1::text[], $2::text[]) AS k (tenant, stream)
    JOIN log.head AS h ON h.tenant = k.tenant AND h.stream = k.stream"""
_HOLDERS = """SELECT w.tenant, w.stream, w.runner, w.epoch
    FROM unnest($1::text[], $2::text[]) AS k (tenant, stream)
    JOIN log.work AS w ON w.tenant = k.tenant AND w.stream = k.stream"""
_RUNNERS = "SELECT name FROM log.runner WHERE name = ANY($1::text[])"
_PUT_HEADS = """INSERT INTO log.head (tenant, stream, seq, first, snapshot, crc)
    SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[],
        $6::bigint[])
    ON CONFLICT (tenant, stream) DO UPDATE SET seq = excluded.seq, first = excluded.first,
        snapshot = excluded.snapshot, crc = excluded.crc"""
# Positions are drawn in the order of the rows: a tail sees them in the order of the appends.
_APPEND = f"""WITH heads AS ({_PUT_HEADS}), entries AS (
    INSERT INTO log.entry (tenant, stream, seq, epoch, kind, at, crc, body)
    SELECT tenant, stream, seq, epoch, kind, at, crc, body
    FROM unnest($7::text[], $8::text[], $9::bigint[], $10::bigint[], $11::text[], $12::bigint[],
        $13::bigint[], $14::bytea[])
        WITH ORDINALITY AS e (tenant, stream, seq, epoch, kind, at, crc, body, place)
    ORDER BY place)
    SELECT pg_current_xact_id()::xid::text"""  # noqa: S608 - our own words
# New work stands behind the last turn of its tenant, or behind the one that was served last.
_OFFER = """INSERT INTO log.work SELECT $1, $2, $3, $4, 1 + greatest(0,
        (SELECT max(turn) FROM log.work WHERE queue = $3 AND priority = $4 AND tenant = $1),
        (SELECT served FROM log.lane WHERE queue = $3 AND priority = $4)), $5, $6, $7, false"""
_PUT_BACK = """UPDATE log.work SET queue = $3, priority = coalesce($4::bigint, priority),
    due = CASE WHEN nudged THEN 0 ELSE $5::bigint END, runner = NULL, nudged = false
    WHERE tenant = $1 AND stream = $2"""
_NUDGE = """UPDATE log.work SET nudged = (runner IS NOT NULL), due = 0
    WHERE tenant = $1 AND stream = $2"""
_DONE = "DELETE FROM log.work WHERE tenant = $1 AND stream = $2"
_PUT_SNAPSHOT = """INSERT INTO log.snapshot VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
    ON CONFLICT (tenant, stream) DO UPDATE SET seq = excluded.seq, position = excluded.position,
        epoch = excluded.epoch, at = excluded.at, crc = excluded.crc, body = excluded.body"""

_ENTRY = "SELECT position, epoch FROM log.entry WHERE tenant = $1 AND stream = $2 AND seq = $3"
# The first is null where there is no such entry; a stream's head tells what was forgotten.
_WRITTEN = """SELECT
    (SELECT xmin::text = $4 FROM log.entry WHERE tenant = $1 AND stream = $2 AND seq = $3),
    coalesce((SELECT first > $3 FROM log.head WHERE tenant = $1 AND stream = $2), false)"""
_OLD_SNAPSHOT = _ENTRY.replace("log.entry", "log.snapshot")
_FORGET = "DELETE FROM log.entry WHERE tenant = $1 AND stream = $2 AND seq < $3"
_FORGET_SNAPSHOT = "DELETE FROM log.snapshot WHERE tenant = $1 AND stream = $2"


class Appending(Frozen, frozen=True):
    """An append on its way to the writer."""

    entries: Sequence[Entry]
    expected: Mapping[Key, int]
    fence: Claim | None
    work: Sequence[Work]
    at_ms: int


class Plan:
    """What a number of appends will have written, as far as they are decided."""

    def __init__(
        self, heads: dict[Key, Head | None], holders: dict[Key, Holder], runners: set[str]
    ) -> None:
        """Where a head is None, it is damaged."""
        self._heads = heads
        self._holders = holders
        self._runners = runners
        self.touched: dict[Key, Head] = {}
        self.rows: list[Row] = []
        self.changes: list[tuple[str, Row]] = []

    def add(self, appending: Appending) -> list[int]:
        """Take one append in, or raise and take nothing of it; return its seqs.

        Raises:
            FencedError: The fence does not hold, or another one holds some of the work.
            LogConflictError: A stream does not end where it was expected to.
            LogCorruptError: The count of a stream is damaged.
        """
        fence = appending.fence
        holders = {**self._holders} if appending.work else self._holders
        if fence is not None and _holder(holders, fence) != (fence.runner, fence.epoch):
            raise FencedError(f"{fence.stream} is not held by {fence.runner} any more")
        changes = [self._change(change, fence, holders) for change in appending.work]
        for key, seen in appending.expected.items():
            head = self._head(key).seq
            if head != seen:
                raise LogConflictError(f"stream {key[1]} of {key[0]} ends at {head}, not at {seen}")
        heads = {
            (it.tenant, it.stream): self._head((it.tenant, it.stream)) for it in appending.entries
        }
        # Nothing is refused from here on.
        epoch = 0 if fence is None else fence.epoch
        seqs: list[int] = []
        for entry in appending.entries:
            key = (entry.tenant, entry.stream)
            old = heads[key]
            heads[key] = Head(old.seq + 1, old.first, old.snapshot)
            self.rows.append(_row(entry, heads[key].seq, epoch, appending.at_ms))
            seqs.append(heads[key].seq)
        self._heads.update(heads)
        self.touched.update(heads)
        self._holders = holders
        self.changes += changes
        return seqs

    def _head(self, key: Key) -> Head:
        head = self._heads.get(key, Head())
        if head is None:
            raise damaged_head(key)
        return head

    def _change(
        self, change: Work, fence: Claim | None, holders: dict[Key, Holder]
    ) -> tuple[str, Row]:
        """Check a change of work against who holds it by then; return how to write it."""
        key = (change.tenant, change.stream)
        if isinstance(change, Nudge):
            return _NUDGE, key
        found = holders.get(key)
        own = fence is not None and key == (fence.tenant, fence.stream)
        if found is not None and found[0] is not None and not own:
            raise FencedError(f"{change.stream} is held by {found[0]}")
        match change:
            case Done():
                holders.pop(key, None)
                return _DONE, key
            case Offer() if found is None:
                if change.holder is not None and change.holder not in self._runners:
                    raise FencedError(f"{change.holder} is not enlisted, or was revoked")
                holder = (change.holder, 0 if change.holder is None else 1)
                holders[key] = holder
                lane = (change.queue, change.priority or 0)
                return _OFFER, (*key, *lane, change.due_ms, *holder)
            case Offer(holder=None) if found is not None:
                holders[key] = (None, found[1])
                return _PUT_BACK, (*key, change.queue, change.priority, change.due_ms)
            case Offer():
                raise LogConflictError(f"{change.stream} of {change.tenant} is offered already")
            case _:
                assert_never(change)


class Proof(Frozen, frozen=True):
    """An entry, and the transaction that wrote it: where it is, all of the transaction is."""

    tenant: str
    stream: str
    seq: int
    transaction: str


class Writes:
    """The statements over one schema."""

    def __init__(self, database: Database) -> None:
        self._sql = {
            statement: database.sql(statement)
            for statement in (
                *(_HEADS, _HOLDERS, _RUNNERS, _PUT_HEADS, _APPEND),
                *(_OFFER, _PUT_BACK, _NUDGE, _DONE, _PUT_SNAPSHOT),
                *(_ENTRY, _WRITTEN, _OLD_SNAPSHOT, _FORGET, _FORGET_SNAPSHOT),
            )
        }

    async def append(
        self, db: Connection, appends: Sequence[Appending]
    ) -> tuple[list[list[int] | MurmurateError], Proof | None]:
        """Write all that can be written; return of each its seqs, or why nothing of it was.

        The proof is None where no entry was written.
        """
        plan = await self._plan(db, appends)
        outcomes: list[list[int] | MurmurateError] = []
        for appending in appends:
            try:
                outcomes.append(plan.add(appending))
            except (FencedError, LogConflictError, LogCorruptError) as error:
                outcomes.append(error)
        proof = None
        if plan.rows:
            heads = columns(_head_rows(plan.touched))
            rows = columns(plan.rows)
            transaction = await db.fetchval(self._sql[_APPEND], *heads, *rows)
            assert isinstance(transaction, str), "it returns a row"
            tenant, stream, seq, *_ = plan.rows[-1]
            proof = Proof(tenant, stream, seq, transaction)
        for statement, many in _runs(plan.changes):
            await db.executemany(self._sql[statement], many)
        return outcomes, proof

    async def has(self, db: Connection, proof: Proof) -> bool | None:
        """Tell whether the transaction of a proof was committed; None where nobody can know."""
        place = (proof.tenant, proof.stream, proof.seq)
        row = await db.fetchrow(self._sql[_WRITTEN], *place, proof.transaction)
        assert row is not None, "a query without FROM returns a row"
        is_ours, is_forgotten = row
        return None if is_ours is None and is_forgotten else bool(is_ours)

    async def snapshot(
        self, db: Connection, key: Key, seq: int, *, body: bytes, at_ms: int
    ) -> None:
        """Write a snapshot, unless there is a newer one."""
        head = await self._head(db, key)
        if head.snapshot > seq:
            return
        origin = _OLD_SNAPSHOT if head.snapshot == seq else _ENTRY
        found = await db.fetchrow(self._sql[origin], *key, seq)
        if found is None:
            raise LogConflictError(f"stream {key[1]} of {key[0]} has no entry {seq} to stand for")
        position, epoch = found
        crc = checksum(Stored(*key, seq, position, epoch, SNAPSHOT, at_ms, body))
        await db.execute(self._sql[_PUT_SNAPSHOT], *key, seq, position, epoch, at_ms, crc, body)
        await self._put_head(db, key, Head(head.seq, head.first, seq))

    async def forget(self, db: Connection, key: Key, before: int | None) -> None:
        """Delete the entries below `before`, or all with the snapshot."""
        head = await self._head(db, key)
        if head == Head():
            return
        end = head.seq + 1
        cut = end if before is None else max(head.first, min(before, end))
        await db.execute(self._sql[_FORGET], *key, cut)
        if before is None:
            await db.execute(self._sql[_FORGET_SNAPSHOT], *key)
        kept = 0 if before is None else head.snapshot
        await self._put_head(db, key, Head(head.seq, cut, kept))

    async def _plan(self, db: Connection, appends: Sequence[Appending]) -> Plan:
        """Read what the appends depend on."""
        keys = {(it.tenant, it.stream) for one in appends for it in one.entries}
        keys.update(key for one in appends for key in one.expected)
        places = {(it.tenant, it.stream) for one in appends for it in one.work}
        places.update((it.fence.tenant, it.fence.stream) for it in appends if it.fence is not None)
        runners = {
            it.holder
            for one in appends
            for it in one.work
            if isinstance(it, Offer) and it.holder is not None
        }
        holders: dict[Key, Holder] = {}
        if places:
            rows = await db.fetch(self._sql[_HOLDERS], *columns(sorted(places)))
            holders = {(tenant, stream): (who, epoch) for tenant, stream, who, epoch in rows}
        if runners:
            rows = await db.fetch(self._sql[_RUNNERS], sorted(runners))
            runners = {name for (name,) in rows}
        return Plan(await self._heads(db, keys), holders, runners)

    async def _heads(self, db: Connection, keys: set[Key]) -> dict[Key, Head | None]:
        """Return the heads that there are; None for one that is damaged."""
        if not keys:
            return {}
        rows = await db.fetch(self._sql[_HEADS], *columns(sorted(keys)))
        return {
            (tenant, stream): Head(*counts)
            if crc == head_checksum((tenant.encode(), stream.encode()), *counts)
            else None
            for tenant, stream, *counts, crc in rows
        }

    async def _head(self, db: Connection, key: Key) -> Head:
        head = (await self._heads(db, {key})).get(key, Head())
        if head is None:
            raise damaged_head(key)
        return head

    async def _put_head(self, db: Connection, key: Key, head: Head) -> None:
        """Write a head with its checksum."""
        await db.execute(self._sql[_PUT_HEADS], *columns(_head_rows({key: head})))


def _head_rows(heads: Mapping[Key, Head]) -> list[Row]:
    """Return heads as their table has them."""
    return [
        (*key, *counts, head_checksum((key[0].encode(), key[1].encode()), *counts))
        for key, head in sorted(heads.items())
        for counts in [(head.seq, head.first, head.snapshot)]
    ]


def damaged_head(key: Key) -> LogCorruptError:
    """Return the error for a stream whose count is damaged."""
    return LogCorruptError(str(Damage(*key, 0, 0, Reason.HEAD)))


def columns(rows: Sequence[Row]) -> list[list[Any]]:
    """Return rows as lists of their columns, as `unnest` takes them."""
    return [list(column) for column in zip(*rows, strict=True)]


def _row(entry: Entry, seq: int, epoch: int, at_ms: int) -> Row:
    stored = Stored(entry.tenant, entry.stream, seq, 0, epoch, entry.kind, at_ms, entry.body)
    place = (entry.tenant, entry.stream, seq, epoch, entry.kind, at_ms)
    return (*place, checksum(stored), entry.body)


def _holder(holders: Mapping[Key, Holder], fence: Claim) -> Holder | None:
    return holders.get((fence.tenant, fence.stream))


def _runs(changes: Sequence[tuple[str, Row]]) -> list[tuple[str, list[Row]]]:
    """Return the changes in their order, those of one kind that follow each other together."""
    runs: list[tuple[str, list[Row]]] = []
    for statement, values in changes:
        if not runs or runs[-1][0] != statement:
            runs.append((statement, []))
        runs[-1][1].append(values)
    return runs
