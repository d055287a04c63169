"""What readers ask of PostgreSQL, one statement each: a statement sees one state of the log.

Each row is compared with its checksum as it comes, as in `adapters/sqlite/queries.py`.
"""

from collections.abc import Sequence
from typing import Any

from murmurate.adapters.log_checksums import entry_checksum, head_checksum
from murmurate.adapters.postgres.database import Connection, Database
from murmurate.adapters.sqlite.damage import KNOWN_MAX, Damage, Reason
from murmurate.adapters.sqlite.queries import PAGE_BYTES, PAGE_ROWS, Head, Page, missing
from murmurate.core.ports import Claim, Stored, WorkInfo

_COLUMNS = "tenant, stream, seq, position, epoch, kind, at, body, crc"

_HELD = """SELECT tenant, stream, queue, epoch FROM log.work
    WHERE runner = $1 ORDER BY tenant, stream"""
# The entries of a page end with the one that fills it: `before` counts the bytes ahead of each, by
# the sizes alone, so that big bodies are not even fetched from where PostgreSQL keeps them.
_PAGE = f"""WITH h AS MATERIALIZED (
        SELECT seq, first, snapshot, crc FROM log.head WHERE tenant = $1 AND stream = $2),
    s AS MATERIALIZED (
        SELECT tenant, stream, seq, position, epoch, 'snapshot' AS kind, at, body, crc
        FROM log.snapshot WHERE tenant = $1 AND stream = $2
        AND ($4 OR (SELECT first FROM h) > $3::bigint + 1) AND (SELECT snapshot FROM h) > $3)
    SELECT 0 AS part, '' AS tenant, '' AS stream, seq, first AS position, snapshot AS epoch,
        '' AS kind, 0::bigint AS at, ''::bytea AS body, crc FROM h
    UNION ALL SELECT 1, {_COLUMNS} FROM s
    UNION ALL SELECT 2, {_COLUMNS} FROM (
        SELECT *, sum(octet_length(body)) OVER (ORDER BY seq) - octet_length(body) AS before
        FROM (SELECT * FROM log.entry WHERE tenant = $1 AND stream = $2 AND seq > greatest(
                $3::bigint, (SELECT seq FROM s), (SELECT first - 1 FROM h))
            ORDER BY seq LIMIT {PAGE_ROWS}) AS next
        ) AS counted WHERE before < {PAGE_BYTES}"""  # noqa: S608 - our own words
_NEWS = f"""WITH n AS MATERIALIZED (
        SELECT coalesce(max(position), 0) AS newest FROM log.entry)
    SELECT newest, counted.* FROM n LEFT JOIN (
        SELECT {_COLUMNS} FROM (
            SELECT *, sum(octet_length(body)) OVER (ORDER BY position) - octet_length(body)
                AS before
            FROM (SELECT * FROM log.entry WHERE position > $1 AND starts_with(stream, $2)
                ORDER BY position LIMIT {PAGE_ROWS}) AS next
            ) AS sized WHERE before < {PAGE_BYTES}
        ) AS counted ON true ORDER BY position"""  # noqa: S608
_STREAMS = f"""SELECT stream, seq FROM log.head
    WHERE tenant = $1 AND stream > $2 AND stream >= $3 AND stream < $4
    AND (seq >= first OR snapshot > 0) ORDER BY stream LIMIT {PAGE_ROWS}"""  # noqa: S608
_ALL_NAMES = f"""SELECT tenant, stream FROM log.head WHERE (tenant, stream) > ($1, $2)
    ORDER BY tenant, stream LIMIT {PAGE_ROWS}"""  # noqa: S608
_HEADLESS = f"""SELECT tenant, stream, min(seq), max(seq) FROM log.entry AS e
    WHERE NOT EXISTS (
        SELECT 1 FROM log.head AS h WHERE h.tenant = e.tenant AND h.stream = e.stream)
    GROUP BY tenant, stream LIMIT {KNOWN_MAX}"""  # noqa: S608
_WORK = f"""SELECT tenant, stream, queue, priority, due, runner, epoch FROM log.work
    WHERE tenant = $1 AND stream > $2 AND queue = $3 ORDER BY stream LIMIT {PAGE_ROWS}"""  # noqa: S608
_ANY_DUE = """SELECT EXISTS (
        SELECT 1 FROM log.work WHERE queue = $1 AND runner IS NULL AND due = 0)
    OR EXISTS (
        SELECT 1 FROM log.work WHERE queue = $1 AND runner IS NULL AND due > 0 AND due <= $2)"""
_LAST = "\U0010ffff"  # the highest code point, which no name contains: it ends a range of prefixes


class Queries:
    """The statements over one schema."""

    def __init__(self, database: Database) -> None:
        sql = database.sql
        self._page, self._news, self._streams = sql(_PAGE), sql(_NEWS), sql(_STREAMS)
        self._all_names, self._headless = sql(_ALL_NAMES), sql(_HEADLESS)
        self._work, self._any_due = sql(_WORK), sql(_ANY_DUE)
        self._beats = sql("SELECT name, beat FROM log.runner")
        self._held = sql(_HELD)

    async def page(
        self, db: Connection, key: tuple[str, str], after: int, *, beginning: bool
    ) -> Page:
        """Return the entries above `after` up to a page's size, and what is damaged behind them.

        At the `beginning` a newer snapshot comes first; midway only where the entries ahead were
        forgotten meanwhile.
        """
        rows = await db.fetch(self._page, *key, after, beginning)
        head = Head()
        for row in rows:
            if row["part"] == 0:
                counts = (row["seq"], row["position"], row["epoch"])
                head = Head(*counts)
                if row["crc"] != head_checksum(_encoded(key), *counts):
                    return Page(damage=Damage(*key, after + 1, after + 1, Reason.HEAD))
        entries: list[Stored] = []
        if (beginning or head.first > after + 1) and head.snapshot > after:
            entries, damage = checked([row for row in rows if row["part"] == 1])
            if damage or not entries or entries[0].seq != head.snapshot:
                seq = head.snapshot
                return Page(damage=Damage(*key, seq, seq, Reason.SNAPSHOT))
            after = entries[0].seq
        following = max(after + 1, head.first)
        behind, damage = checked(
            sorted((row for row in rows if row["part"] == 2), key=lambda row: row["seq"])
        )
        for stored in behind:
            if stored.seq != following:
                break
            entries.append(stored)
            following += 1
        damage = missing(key, following, head, behind=behind, damage=damage)
        return Page(tuple(entries), more=following <= head.seq, damage=damage)

    async def news_page(self, db: Connection, prefix: str, after: int) -> Page:
        """Return the entries of all streams of the prefix with a position above `after`."""
        rows = await db.fetch(self._news, after, prefix)
        newest = rows[0]["newest"]
        found = [row for row in rows if row["position"] is not None]
        entries, damage = checked(found)
        # Without more matches the next look starts behind all that was looked at.
        size_bytes = sum(len(row["body"]) for row in found)
        more = len(found) == PAGE_ROWS or size_bytes >= PAGE_BYTES
        through = found[-1]["position"] if more else max(after, newest)
        return Page(tuple(entries), more, damage, through)

    async def streams(
        self, db: Connection, tenant: str, prefix: str, after: str
    ) -> list[tuple[str, int]]:
        """Return a page of names above `after` with their heads' seqs."""
        rows = await db.fetch(self._streams, tenant, after, prefix, prefix + _LAST)
        return [(stream, seq) for stream, seq in rows]

    async def all_names(self, db: Connection, after: tuple[str, str]) -> list[tuple[str, str]]:
        """Return a page of (tenant, stream) of whatever has a head, above `after`."""
        return [(tenant, stream) for tenant, stream in await db.fetch(self._all_names, *after)]

    async def headless(self, db: Connection) -> list[Damage]:
        """Return the streams that have entries, but no head that leads to them."""
        rows = await db.fetch(self._headless)
        return [Damage(t, s, first, last, Reason.HEAD) for t, s, first, last in rows]

    async def work(self, db: Connection, tenant: str, queue: str, after: str) -> list[WorkInfo]:
        """Return the next pieces of a tenant's work in a queue."""
        return [WorkInfo(*row) for row in await db.fetch(self._work, tenant, after, queue)]

    async def is_any_due(self, db: Connection, queue: str, now_ms: int) -> bool:
        """Tell whether there is anything to claim."""
        return bool(await db.fetchval(self._any_due, queue, now_ms))

    async def beats(self, db: Connection) -> dict[str, int]:
        """Return every runner's count of renewals."""
        return {row["name"]: row["beat"] for row in await db.fetch(self._beats)}

    async def held(self, db: Connection, runner: str) -> list[Claim]:
        """Return what a runner holds."""
        return [
            Claim(row["tenant"], row["stream"], row["queue"], runner, row["epoch"])
            for row in await db.fetch(self._held, runner)
        ]


def checked(rows: Sequence[Any]) -> tuple[list[Stored], Damage | None]:
    """Return the rows up to the first damaged one, and which that is."""
    entries: list[Stored] = []
    for row in rows:
        stored = Stored(
            *(row[name] for name in ("tenant", "stream", "seq", "position", "epoch")),
            *(row[name] for name in ("kind", "at", "body")),
        )
        if row["crc"] != checksum(stored):
            place = (stored.tenant, stored.stream, stored.seq, stored.seq)
            return entries, Damage(*place, Reason.DAMAGED)
        entries.append(stored)
    return entries, None


def checksum(stored: Stored) -> int:
    """Return the checksum that an entry or snapshot must have."""
    names = (stored.tenant.encode(), stored.stream.encode())
    fields = (*names, stored.seq, stored.epoch, stored.kind.encode(), stored.at_ms)
    return entry_checksum(fields, stored.body)


def _encoded(key: tuple[str, str]) -> tuple[bytes, bytes]:
    return (key[0].encode(), key[1].encode())
