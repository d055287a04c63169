"""Reads the rows of a SQLite file without SQLite, page by page, however damaged the rest is.

It knows the file format (sqlite.org/fileformat2.html) as far as tables and indexes need it. What
it yields may be damaged itself: the caller checks it.
"""

import struct
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

from murmurate.core.types import Frozen

PAGE_BYTES = 4096
"""SQLite's own choice; used where the header is damaged."""
MAGIC = b"SQLite format 3\0"
WAL_HEADER_BYTES = 32
VALUES_MAX = 16
"""No row of ours has more."""

_LEAF_TABLE, _LEAF_INDEX, _INNER_INDEX = 0x0D, 0x0A, 0x02
_CELLS_AT = {_LEAF_TABLE: 8, _LEAF_INDEX: 8, _INNER_INDEX: 12}
_FILE_HEADER_BYTES = 100
_FRAME_HEADER_BYTES = 24
_WAL_MAGIC = (0x377F0682, 0x377F0683)
_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}

Value = int | float | bytes | None


class Row(Frozen, frozen=True):
    """A row as it stands on a page. `rowid` is None in indexes and tables without row ids."""

    rowid: int | None
    values: tuple[Value, ...]


class Frame(Frozen, frozen=True):
    """A page in the WAL, where its content begins, and whether it ends a transaction."""

    page: int
    offset: int
    commits: bool


def frames_of(wal: Path) -> list[Frame]:
    """Return the frames of a WAL up to its last commit, as far as its own salts say.

    Checksums are not looked at: SQLite stops at the first wrong one, which may stand before much
    that was acknowledged.
    """
    if not wal.is_file() or wal.stat().st_size <= WAL_HEADER_BYTES:
        return []
    found: list[tuple[Frame, bytes]] = []
    with wal.open("rb") as file:
        header = file.read(WAL_HEADER_BYTES)
        is_whole = _header_is_whole(header)
        # Damage can turn a page's size into another valid one, with no frame where it leads to.
        page_bytes = _valid_page_bytes(int.from_bytes(header[8:12])) if is_whole else PAGE_BYTES
        offset = WAL_HEADER_BYTES
        while len(head := file.read(_FRAME_HEADER_BYTES)) == _FRAME_HEADER_BYTES:
            page, size = struct.unpack(">II", head[:8])
            offset += _FRAME_HEADER_BYTES
            found.append((Frame(page, offset, bool(size)), head[8:16]))
            offset += page_bytes
            file.seek(offset)
    if not found:
        return []
    # Behind the frames of this WAL may stand older ones, with other salts, that are done with.
    salts = header[16:24] if is_whole else found[0][1]
    frames = [frame if own == salts else None for frame, own in found]
    last = max((at for at, frame in enumerate(frames) if frame and frame.commits), default=-1)
    return [frame or Frame(0, 0, commits=False) for frame in frames[: last + 1]]


class Pages:
    """All versions of all pages of a file and its WAL. Close it."""

    def __init__(self, path: Path, wal: Path) -> None:
        self._file = path.open("rb") if path.is_file() else None
        self._wal = wal.open("rb") if wal.is_file() else None
        size_bytes = path.stat().st_size if self._file else 0
        header = self._file.read(_FILE_HEADER_BYTES) if self._file else b""
        self._page_bytes = _page_bytes(header, size_bytes)
        self._usable_bytes = self._page_bytes
        self._frames: dict[int, list[int]] = {}
        for frame in frames_of(wal):
            if frame.page > 0:
                self._frames.setdefault(frame.page, []).append(frame.offset)
        # Not up to the highest number that a frame gives: that may be damaged.
        self._numbers = sorted({*range(1, size_bytes // self._page_bytes + 1), *self._frames})
        self._payload_bytes_max = len(self._numbers) * self._page_bytes

    def close(self) -> None:
        """Close both files."""
        for file in (self._file, self._wal):
            if file is not None:
                file.close()

    @property
    def size_bytes(self) -> int:
        """How much there is to look through."""
        return self._payload_bytes_max

    def rows(self) -> Generator[Row]:
        """Yield whatever reads like a row of a table or an index, oldest version of a page first.

        Interior pages of tables hold no rows, overflow pages are read with the row that they
        belong to, and all others are left out: on a free page may stand what was deleted.
        """
        for number in self._numbers:
            for page in self._versions(number):
                yield from self._rows_of(number, page)

    def _versions(self, number: int) -> Generator[bytes]:
        offset = (number - 1) * self._page_bytes
        if self._file is not None and offset >= 0 and (page := self._at(self._file, offset)):
            yield page
        for offset in self._frames.get(number, ()):
            if self._wal is not None and (page := self._at(self._wal, offset)):
                yield page

    def _newest(self, number: int) -> bytes:
        """Return a page, empty where there is none of that number."""
        page = b""
        for page in self._versions(number):  # noqa: B007 - the last one is what is wanted
            pass
        return page

    def _at(self, file: BinaryIO, offset: int) -> bytes:
        file.seek(offset)
        page = file.read(self._page_bytes)
        return page if len(page) == self._page_bytes else b""

    def _rows_of(self, number: int, page: bytes) -> Generator[Row]:
        begins = _FILE_HEADER_BYTES if number == 1 else 0
        kind = page[begins]
        if kind not in _CELLS_AT:
            return
        count = int.from_bytes(page[begins + 3 : begins + 5])
        pointers = begins + _CELLS_AT[kind]
        count = min(count, (self._usable_bytes - pointers) // 2)
        for at in range(pointers, pointers + 2 * count, 2):
            cell = int.from_bytes(page[at : at + 2])
            try:
                row = self._row(page, cell, kind)
            except (IndexError, ValueError, struct.error):
                continue
            if row is not None:
                yield row

    def _row(self, page: bytes, at: int, kind: int) -> Row | None:
        """Return the row of a cell.

        Raises:
            IndexError, ValueError, struct.error: It is none.
        """
        if kind == _INNER_INDEX:
            at += 4  # the child below
        size_bytes, at = _varint(page, at)
        rowid = None
        if kind == _LEAF_TABLE:
            rowid, at = _varint(page, at)
            rowid = rowid - (1 << 64) if rowid >> 63 else rowid
        if not 0 < size_bytes <= self._payload_bytes_max:
            return None
        return Row(rowid, _values(self._payload(page, at, size_bytes, kind)))

    def _payload(self, page: bytes, at: int, size_bytes: int, kind: int) -> bytes:
        """Return a row's bytes, also from the overflow pages where they don't fit on the page."""
        usable = self._usable_bytes
        most = usable - 35 if kind == _LEAF_TABLE else (usable - 12) * 64 // 255 - 23
        if size_bytes <= most:
            return page[at : at + size_bytes]
        least = (usable - 12) * 32 // 255 - 23
        local = least + (size_bytes - least) % (usable - 4)
        local = local if local <= most else least
        parts = [page[at : at + local]]
        left = size_bytes - local
        following = int.from_bytes(page[at + local : at + local + 4])
        while left > 0:
            overflow = self._newest(following)
            if not overflow:
                raise ValueError(following)
            parts.append(overflow[4 : 4 + min(left, usable - 4)])
            left -= usable - 4
            following = int.from_bytes(overflow[:4])
        return b"".join(parts)


def _values(record: bytes) -> tuple[Value, ...]:
    """Return the columns of a record.

    Raises:
        IndexError, ValueError, struct.error: It is none of ours.
    """
    header_bytes, at = _varint(record, 0)
    types: list[int] = []
    while at < header_bytes and len(types) <= VALUES_MAX:
        kind, at = _varint(record, at)
        types.append(kind)
    if at != header_bytes:
        raise ValueError(header_bytes)
    values: list[Value] = []
    for kind in types:
        value, at = _value(record, at, kind)
        values.append(value)
    if at != len(record):
        raise ValueError(len(record))
    return tuple(values)


def _value(record: bytes, at: int, kind: int) -> tuple[Value, int]:
    if kind == 0:
        return None, at
    if kind in {8, 9}:
        return kind - 8, at
    if kind in _INTEGER_BYTES:
        end = at + _INTEGER_BYTES[kind]
        return int.from_bytes(record[at:end], signed=True), end
    if kind == 7:
        return struct.unpack(">d", record[at : at + 8])[0], at + 8
    if kind < 12:
        raise ValueError(kind)
    end = at + (kind - 12) // 2
    if end > len(record):
        raise ValueError(kind)
    return record[at:end], end


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for step in range(9):
        byte = data[at + step]
        if step == 8:
            return (value << 8) | byte, at + 9
        value = (value << 7) | (byte & 0x7F)
        if byte < 0x80:
            return value, at + step + 1
    raise AssertionError("a varint has at most nine bytes")


def _page_bytes(header: bytes, size_bytes: int) -> int:
    """Return the size of a file's pages: what its header says, if all of the file bears it out.

    Damage can turn a size into another valid one, with which nothing would be found.
    """
    if not header.startswith(MAGIC) or len(header) != _FILE_HEADER_BYTES:
        return PAGE_BYTES
    stated = int.from_bytes(header[16:18])
    stated = 65536 if stated == 1 else stated
    pages = int.from_bytes(header[28:32])
    return _valid_page_bytes(stated) if stated * pages == size_bytes else PAGE_BYTES


def _valid_page_bytes(stated: int) -> int:
    is_valid = 512 <= stated <= 65536 and stated & (stated - 1) == 0
    return stated if is_valid else PAGE_BYTES


def _header_is_whole(header: bytes) -> bool:
    """Whether a WAL's header matches its own checksum."""
    magic = int.from_bytes(header[:4])
    if magic not in _WAL_MAGIC:
        return False
    words = struct.unpack(">6I" if magic & 1 else "<6I", header[:24])
    one = two = 0
    for first, second in zip(words[::2], words[1::2], strict=True):
        one = (one + first + two) & 0xFFFFFFFF
        two = (two + second + one) & 0xFFFFFFFF
    return (one, two) == struct.unpack(">II", header[24:32])
