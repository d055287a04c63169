"""What to read, drop and leave: a folder's listing against what the log holds. Pure."""

from collections.abc import Container, Iterable, Mapping
from hashlib import blake2b

from murmurate.core.types import Frozen
from murmurate.knowledge.ports import FileSeen, Listing, Problem
from murmurate.knowledge.rules import FILE_BYTES_MAX


class Known(Frozen, frozen=True):
    """A document as the log holds it, without its text. `seq` is its entry's."""

    id: str
    path: str
    sha256: str
    size: int
    mtime_ns: int
    seq: int


class Changes(Frozen, frozen=True):
    """What a sync has to do."""

    read: tuple[FileSeen, ...]
    drop: tuple[Known, ...]
    unchanged: int
    problems: tuple[Problem, ...]


class IndexChanges(Frozen, frozen=True):
    """What the index lacks of the log, and what it holds beyond it."""

    put: tuple[Known, ...]
    drop: tuple[str, ...]


def document_id(collection: str, path: str) -> str:
    """Return the id of a path, the same for ever."""
    return blake2b(f"{collection}\0{path}".encode(), digest_size=16).hexdigest()


def changes(
    listing: Listing,
    known: Mapping[str, Known],
    *,
    file_bytes_max: int = FILE_BYTES_MAX,
    kept: Container[str] = (),
) -> Changes:
    """Compare a listing with the known documents (by path); those in `kept` are there all the same.

    A file of the same size and time of change is taken as unchanged. One that has grown too large
    is reported and keeps its last text, as does one that could not be looked at.
    """
    read: list[FileSeen] = []
    problems: list[Problem] = []
    unchanged = 0
    listed: set[str] = set()
    for file in listing.files:
        listed.add(file.path)
        before = known.get(file.path)
        if before and (before.size, before.mtime_ns) == (file.size, file.mtime_ns):
            unchanged += 1
        elif file.size > file_bytes_max:
            limit_mb = file_bytes_max >> 20
            problems.append(Problem(file.path, f"{file.size >> 20} MB; the limit is {limit_mb}"))
        else:
            read.append(file)
    unseen = frozenset(listing.unseen)
    drop = tuple(
        document
        for path, document in known.items()
        if path not in listed
        and path not in kept
        and not _is_below(path, unseen)
        and not (listing.ends_before and _parts(path) >= _parts(listing.ends_before))
    )
    return Changes(tuple(read), drop, unchanged, tuple(problems))


def renamed(plan: Changes) -> tuple[tuple[Known, ...], tuple[Known, ...]]:
    """Part the documents to drop: those whose file seems to have got another name, and the rest.

    A renamed file keeps its size and time of change.
    """
    fresh = {(file.size, file.mtime_ns) for file in plan.read}
    moved: list[Known] = []
    gone: list[Known] = []
    for known in plan.drop:
        (moved if (known.size, known.mtime_ns) in fresh else gone).append(known)
    return tuple(moved), tuple(gone)


def index_changes(
    known: Iterable[Known], held: Mapping[str, str], *, left_out: Container[str] = ()
) -> IndexChanges:
    """Compare the known documents with what the index holds (id and sha256).

    It gets none of those in `left_out` (by path); what it holds of them stays.
    """
    by_id = {document.id: document for document in known}
    put = tuple(d for d in by_id.values() if held.get(d.id) != d.sha256 and d.path not in left_out)
    return IndexChanges(put, tuple(id_ for id_ in held if id_ not in by_id))


def _is_below(path: str, folders: frozenset[str]) -> bool:
    """Say whether the path, or a folder that it lies in, is one of these."""
    parts = _parts(path)
    return "." in folders or any(
        "/".join(parts[:depth]) in folders for depth in range(1, len(parts) + 1)
    )


def _parts(path: str) -> list[str]:
    return path.split("/")
