"""Appends that share a transaction: each is checked to its end, then all are written at once.

One that fails has written nothing yet, so none needs a savepoint; and each stream is looked up
once and its head is written once, however many entries it gets.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from murmurate.adapters.log_checksums import entry_checksum
from murmurate.adapters.sqlite.queries import Head, intact_head, put_heads
from murmurate.core.errors import FencedError, LogConflictError, LogCorruptError
from murmurate.core.ports import Claim, Entry
from murmurate.core.types import Frozen

# One query for both: at fifty runs a step, a second one would add a tenth to what a step costs.
_PLACE = """SELECT work.runner, work.epoch, head.seq, head.first, head.snapshot, head.crc
    FROM (SELECT ? AS tenant, ? AS stream) AS place
    LEFT JOIN work USING (tenant, stream) LEFT JOIN head USING (tenant, stream)"""
_INSERT = """INSERT INTO entry (tenant, stream, seq, epoch, kind, at, crc, body)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""

_Row = tuple[str, str, int, int, str, int, int, bytes]


class Appending(Frozen, frozen=True):
    """An append on its way to the writer's thread."""

    entries: Sequence[Entry]
    expected: Mapping[tuple[str, str], int]
    fence: Claim | None
    at_ms: int


class Appends:
    """Appends in a transaction, which the caller began and commits.

    Between an `add` and the next `write` nobody else may write in it.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._places: dict[tuple[str, str], _Place] = {}
        self._rows: list[_Row] = []

    def add(self, appending: Appending) -> list[int]:
        """Check all of it and number its entries, or add nothing; return their seqs.

        Raises:
            FencedError: The fence does not hold.
            LogConflictError: A stream does not end where it was expected to.
            LogCorruptError: The count of a stream is damaged, so that no seq is certain.
        """
        fence, at_ms = appending.fence, appending.at_ms
        epoch = 0
        if fence is not None:
            epoch = fence.epoch
            if self._place((fence.tenant, fence.stream)).holder != (fence.runner, epoch):
                raise FencedError(f"{fence.stream} is not held by {fence.runner} any more")
        for key, seen in appending.expected.items():
            end = self._place(key).intact_end()
            if end != seen:
                raise LogConflictError(f"stream {key[1]} of {key[0]} ends at {end}, not at {seen}")
        ends: dict[_Place, int] = {}
        rows: list[_Row] = []
        for entry in appending.entries:
            tenant, stream, kind, body = entry.tenant, entry.stream, entry.kind, entry.body
            place = self._place((tenant, stream))
            seq = ends[place] = (ends[place] if place in ends else place.intact_end()) + 1
            fields = (tenant.encode(), stream.encode(), seq, epoch, kind.encode(), at_ms)
            crc = entry_checksum(fields, body)
            rows.append((tenant, stream, seq, epoch, kind, at_ms, crc, body))
        for place, end in ends.items():  # from here on nothing can fail
            place.end = end
        self._rows += rows
        return [row[2] for row in rows]

    def write(self) -> None:
        """Write what was added, and forget what was looked up.

        After an error nobody knows how much of it was written: roll back.

        Raises:
            sqlite3.Error, MemoryError: Nothing else, as all values were looked at before.
        """
        if self._rows:
            self._db.executemany(_INSERT, self._rows)
            grown = [place for place in self._places.values() if place.has_grown()]
            put_heads(self._db, [place.new_head() for place in grown])
        self._rows.clear()
        self._places.clear()

    def _place(self, key: tuple[str, str]) -> "_Place":
        place = self._places.get(key)
        if place is None:
            [row] = self._db.execute(_PLACE, key).fetchall()
            place = self._places[key] = _Place(key, row)
        return place


class _Place:
    """A stream: who holds its work, its head as it was, and where it ends with what was added."""

    __slots__ = ("_damage", "_head", "_key", "end", "holder")

    def __init__(self, key: tuple[str, str], row: Sequence[Any]) -> None:
        runner, epoch, seq, first, snapshot, crc = row
        self.holder: tuple[str | None, int | None] = (runner, epoch)
        self._key = key
        self._head = Head()
        self._damage: LogCorruptError | None = None
        if seq is not None:
            try:
                self._head = intact_head(key, (seq, first, snapshot, crc))
            except LogCorruptError as damage:  # hurts those who count on it, not a fence
                self._damage = damage
        self.end = self._head.seq

    def intact_end(self) -> int:
        if self._damage is not None:
            raise LogCorruptError(str(self._damage))  # each of several appends gets its own
        return self.end

    def has_grown(self) -> bool:
        return self.end != self._head.seq

    def new_head(self) -> tuple[tuple[str, str], Head]:
        return self._key, Head(self.end, self._head.first, self._head.snapshot)
