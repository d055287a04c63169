"""Copies a whole log from one store to another: every table as it is, then both sides compared.

Seqs, positions, epochs and times stay what they were, so a forgotten stream goes on counting and a
reader that has noted a position goes on behind it. Rows are written in the order of their keys, a
page a transaction: what is the last one on the target says where an interrupted copy goes on.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Protocol

import msgspec

from murmurate.adapters.log_checksums import entry_checksum, head_checksum
from murmurate.core.errors import LogCorruptError, LogUnavailableError
from murmurate.core.ports import SNAPSHOT
from murmurate.core.types import Frozen

PAGE_ROWS = 1000
PAGE_BYTES = 8 * 1024 * 1024

Row = tuple[Any, ...]
Told = Callable[[str, int, int], None]
"""Hears what is being done, and how many entries of how many are done."""


class Table(Enum):
    """The tables of a log in the order of copying: columns, and how many of them are the key."""

    ENTRY = (
        "entry",
        ("position", "tenant", "stream", "seq", "epoch", "kind", "at", "crc", "body"),
        1,
    )
    HEAD = ("head", ("tenant", "stream", "seq", "first", "snapshot", "crc"), 2)
    SNAPSHOT = (
        "snapshot",
        ("tenant", "stream", "seq", "position", "epoch", "at", "crc", "body"),
        2,
    )
    WORK = (
        "work",
        ("tenant", "stream", "queue", "priority", "turn", "due", "runner", "epoch", "nudged"),
        2,
    )
    LANE = ("lane", ("queue", "priority", "served"), 2)
    RUNNER = ("runner", ("name", "beat"), 1)

    def __init__(self, title: str, columns: tuple[str, ...], keys: int) -> None:
        self.title = title
        self.columns = columns
        self.key_columns = columns[:keys]

    def key(self, row: Row) -> Row:
        """Return the key of a row."""
        return row[: len(self.key_columns)]


class Facts(Frozen, frozen=True):
    """What a store says of its log. `mark` changes with whatever is changed in the log.

    `missing` are the entries that should be there by what the heads say, but are not.
    """

    id: str
    last_position: int
    entries: int
    missing: int
    mark: str


class Store(Protocol):
    """One end of a copy."""

    @property
    def name(self) -> str:
        """Where it is, without any secret."""
        ...

    async def facts(self) -> Facts:
        """Return what the log is now."""
        ...

    async def page(self, table: Table, after: Row | None) -> list[Row]:
        """Return the next rows behind a key, up to a page's size; none at the end."""
        ...


class Target(Store, Protocol):
    """The end that is written."""

    async def begin(self, source_id: str, mark: str) -> bool:
        """Make it ready, or go on where a copy of the same state of that log was interrupted.

        One of an older state of it begins anew. Returns whether it goes on.

        Raises:
            StateNotEmptyError: There is something else.
        """
        ...

    async def last(self, table: Table) -> Row | None:
        """Return the key of the last row that is there."""
        ...

    async def put(self, table: Table, rows: Sequence[Row]) -> None:
        """Write rows behind those that are there; all of them or none, durable."""
        ...

    async def set_position(self, position: int) -> None:
        """Let the next entry have a higher position, whatever was forgotten."""
        ...

    async def finish(self, source_id: str) -> None:
        """Make it a log that can be opened."""
        ...


class Tally(Frozen, frozen=True):
    """What one side holds, by table, and one checksum over all of it."""

    rows: Mapping[str, int]
    sha256: str


class Copied(Frozen, frozen=True):
    """What a copy has done."""

    tally: Tally
    resumed: bool


async def copy(source: Store, target: Target, *, told: Told) -> Copied:
    """Copy everything, compare both sides, and only then let the target be used.

    Raises:
        StateNotEmptyError: The target holds something else.
        LogCorruptError: An entry of the source is damaged or lost; nothing is left out in silence.
        LogUnavailableError: The source was changed meanwhile, or one of both can't be used. Run it
            again: it goes on where it was.
    """
    facts = await source.facts()
    if facts.missing:
        raise LogCorruptError(
            f"{source.name}: {facts.missing} entries are lost; `murmurate doctor` names them:"
            " restore a backup first"
        )
    resumed = await target.begin(facts.id, facts.mark)
    done = (await target.facts()).entries
    for table in Table:
        after = await target.last(table)
        while rows := await source.page(table, after):
            for row in rows:
                check(table, row, where=source.name)
            await target.put(table, rows)
            after = table.key(rows[-1])
            done += len(rows) if table is Table.ENTRY else 0
            told("copying", done, facts.entries)
    await target.set_position(facts.last_position)
    ours = await tally(source, told=lambda count: told("checking", count, 2 * facts.entries))
    theirs = await tally(
        target, told=lambda count: told("checking", facts.entries + count, 2 * facts.entries)
    )
    same_place = (await target.facts()).last_position == facts.last_position
    if (await source.facts()).mark != facts.mark:
        raise LogUnavailableError(
            f"{source.name} was written to meanwhile: stop what runs on it, then copy again"
        )
    if ours != theirs or not same_place:
        raise LogCorruptError(
            f"{target.name} is not what {source.name} is ({said(theirs)} against {said(ours)}):"
            " remove it, then copy again"
        )
    await target.finish(facts.id)
    return Copied(ours, resumed)


async def tally(store: Store, *, told: Callable[[int], None] = lambda _: None) -> Tally:
    """Read everything and compare each row with its checksum."""
    digest = hashlib.sha256()
    counts: dict[str, int] = {}
    for table in Table:
        counts[table.title] = 0
        after: Row | None = None
        while rows := await store.page(table, after):
            for row in rows:
                check(table, row, where=store.name)
                digest.update(msgspec.msgpack.encode(row))
            counts[table.title] += len(rows)
            after = table.key(rows[-1])
            if table is Table.ENTRY:
                told(counts[table.title])
    return Tally(counts, digest.hexdigest())


def check(table: Table, row: Row, *, where: str) -> None:
    """Compare a row with its checksum, where it has one.

    Raises:
        LogCorruptError: It is not what was written.
    """
    values = dict(zip(table.columns, row, strict=True))
    key = _encoded(values)
    match table:
        case Table.ENTRY | Table.SNAPSHOT:
            kind = str(values.get("kind", SNAPSHOT)).encode()
            fields = (*key, values["seq"], values["epoch"], kind, values["at"])
            crc = entry_checksum(fields, values["body"])
        case Table.HEAD:
            crc = head_checksum(key, values["seq"], values["first"], values["snapshot"])
        case Table.WORK | Table.LANE | Table.RUNNER:
            return
    if crc != values["crc"]:
        stream = f"stream {values['stream']} of {values['tenant']}"
        raise LogCorruptError(
            f"{where}: {table.title} {values['seq']} of {stream} is damaged; restore a backup first"
        )


def said(tally: Tally) -> str:
    """Return it in words."""
    rows = tally.rows
    return (
        f"{rows['entry']} entries of {rows['head']} streams, {rows['snapshot']} snapshots,"
        f" {rows['work']} pieces of work, checksum {tally.sha256[:16]}"
    )


def mark_of(id_: str, last_position: int, *parts: object) -> str:
    """Return a text that changes with whatever is changed in a log."""
    return hashlib.sha256(msgspec.msgpack.encode([id_, last_position, *parts])).hexdigest()


def _encoded(values: Mapping[str, Any]) -> tuple[bytes, bytes]:
    return (str(values.get("tenant")).encode(), str(values.get("stream")).encode())
