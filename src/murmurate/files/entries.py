"""What the log keeps of files, and what its entries amount to. Pure.

The content of a file is the stream `file/ID`, in pieces of one size. That there is a file says the
stream `files` of its tenant, which has one entry for each file added or removed: a content whose
upload broke off is in nobody's list.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum

import msgspec

from murmurate.core.errors import LogCorruptError
from murmurate.core.ids import Ids, made_ms
from murmurate.core.ports import SNAPSHOT, Entry, Stored
from murmurate.core.types import Frozen

INDEX = "files"
PREFIX = "file/"
PIECE_BYTES = 1024 * 1024
"""All pieces but the last are as long, so that a place in a file says which piece has it."""


class Kind(StrEnum):
    """The kinds of entries, in `file/ID` the first and the last, in `files` the others."""

    PIECE = "file.piece"
    ADDED = "file.added"
    REMOVED = "file.removed"
    ABANDONED = "file.abandoned"
    """Its upload broke off: whoever still writes it has lost the race with the sweep."""


class FileInfo(Frozen, frozen=True, omit_defaults=True):
    """A file as its tenant's list has it."""

    id: str
    filename: str
    purpose: str
    size_bytes: int
    sha256: str
    created_ms: int
    expires_ms: int | None = None

    def is_alive(self, now_ms: int) -> bool:
        """Tell whether it can still be read."""
        return self.expires_ms is None or now_ms < self.expires_ms


class Removed(Frozen, frozen=True):
    """The file that is no more."""

    id: str


class Index(Frozen, frozen=True):
    """The files of a tenant by id, the last entry that was read, and how many since a snapshot."""

    files: Mapping[str, FileInfo]
    head: int
    unfolded: int

    def alive(self, now_ms: int) -> list[FileInfo]:
        """Return what can be read now, the oldest first."""
        found = [info for info in self.files.values() if info.is_alive(now_ms)]
        return sorted(found, key=lambda info: (info.created_ms, info.id))


def new_id(ids: Ids) -> str:
    """Return the id of a new file, with a dash as OpenAI writes it."""
    return ids.new("file").replace("_", "-")


def id_made_ms(file_id: str) -> int:
    """Return when an id was made."""
    return made_ms(file_id.replace("-", "_"))


def stream_of(file_id: str) -> str:
    """Return the log's stream of a file's content."""
    return f"{PREFIX}{file_id}"


def id_of(stream: str) -> str:
    """Return the file that a stream belongs to."""
    return stream.removeprefix(PREFIX)


def added(tenant: str, info: FileInfo) -> Entry:
    """Return the entry with which a file is there."""
    return Entry(tenant, INDEX, Kind.ADDED.value, msgspec.json.encode(info))


def removed(tenant: str, file_id: str) -> Entry:
    """Return the entry with which a file is gone."""
    return Entry(tenant, INDEX, Kind.REMOVED.value, msgspec.json.encode(Removed(file_id)))


def folded(entries: Sequence[Stored]) -> Index:
    """Return what the entries of a list amount to. `LogCorruptError`: one can't be read."""
    files: dict[str, FileInfo] = {}
    head, unfolded = 0, 0
    for stored in entries:
        head, unfolded = stored.seq, unfolded + 1
        try:
            if stored.kind == SNAPSHOT:
                known = msgspec.json.decode(stored.body, type=tuple[FileInfo, ...])
                files, unfolded = {info.id: info for info in known}, 0
            elif stored.kind == Kind.ADDED:
                info = msgspec.json.decode(stored.body, type=FileInfo)
                files[info.id] = info
            elif stored.kind == Kind.REMOVED:
                files.pop(msgspec.json.decode(stored.body, type=Removed).id, None)
        except msgspec.MsgspecError as cause:
            raise LogCorruptError(f"entry {stored.seq} of the list of files is none") from cause
    return Index(files, head, unfolded)


def snapshot_of(index: Index) -> bytes:
    """Return what stands for all entries of a list so far."""
    return msgspec.json.encode(tuple(index.files.values()))
