"""What knowledge needs of the library process: parsers, the index, and the two searches."""

from collections.abc import Sequence
from typing import Protocol

from murmurate.core.types import Frozen
from murmurate.knowledge.rules import Rules


class FileSeen(Frozen, frozen=True):
    """A file that could be read; `path` is relative to the folder, with slashes.

    `ctime_ns` also changes when what the file is allowed to do does.
    """

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int = 0


class Problem(Frozen, frozen=True):
    """A file that is not searchable, or not in its newest form, and why."""

    path: str
    reason: str


class Listing(Frozen, frozen=True):
    """What stands in a folder, in order of path (compared part by part).

    A file that is not listed is gone, except for those at or below a path in `unseen` ("." is the
    folder itself), and from `ends_before` on: of them nothing is known.
    """

    files: tuple[FileSeen, ...]
    problems: tuple[Problem, ...]
    unseen: tuple[str, ...] = ()
    ends_before: str | None = None


class Extracted(Frozen, frozen=True):
    """The text of a file, and which bytes it came from. A form feed in the text ends a page."""

    text: str
    title: str
    sha256: str
    size: int
    mtime_ns: int


class Document(Frozen, frozen=True):
    """A document to index."""

    id: str
    path: str
    title: str
    sha256: str
    text: str


class Hit(Frozen, frozen=True):
    """A chunk that one of the searches found; `context` is its path of headings.

    `cosine` is None without vectors, `bm25` where no word of the question stands in the chunk;
    `late` says how well each word of the question is met by one of the chunk's (late interaction,
    -1 to 1), None without token states and for what is not among the best of a search; `page` is
    None where the document has no pages.
    """

    document: str
    collection: str
    path: str
    title: str
    context: str
    text: str
    start: int
    end: int
    line_first: int
    line_last: int
    cosine: float | None
    bm25: float | None
    late: float | None = None
    page: int | None = None


class Term(Frozen, frozen=True):
    """A content word of the question, as the index spells it, and how rare it is."""

    word: str
    idf: float


class Found(Frozen, frozen=True):
    """What a search found, in no order, and the question's words.

    `is_partial`: a part of the index was not loaded yet; asked again, it may find something else.
    """

    hits: tuple[Hit, ...]
    terms: tuple[Term, ...]
    is_partial: bool = False


class LibraryState(Frozen, frozen=True):
    """How far a collection's index is. `vectors_missing` says why there are no vectors at all.

    `embedder` and `dimensions` say what makes the vectors, None while it is loading or missing;
    `index_bytes` is what the whole index takes on disk, all collections together.
    """

    chunks: int
    chunks_pending: int
    vectors_missing: str | None
    embedder: str | None = None
    dimensions: int | None = None
    index_bytes: int = 0


class Library(Protocol):
    """The library process. Every call may be repeated: the second time changes nothing."""

    async def listing(self, folder: str, rules: Rules) -> Listing:
        """Return the files below `folder`. `FolderMissingError` when it is not there."""
        ...

    async def fingerprint(self, folder: str, rules: Rules) -> str:
        """Return a text that changes when a sync may find something to do in the folder.

        `FolderMissingError` when it is not there.
        """
        ...

    async def extract(self, folder: str, path: str, *, bytes_max: int) -> Extracted:
        """Read and parse one file. `DocumentUnreadableError` says why not.

        It has a `retry_s` where the reason may pass while the file stays as it is.
        """
        ...

    async def held(self, tenant: str, collection: str) -> dict[str, str]:
        """Return the indexed documents: their id and sha256."""
        ...

    async def put(self, tenant: str, collection: str, documents: Sequence[Document]) -> None:
        """Index documents, in place of their older versions; searchable by words on return.

        Vectors follow in the background, also after a restart.
        """
        ...

    async def drop(self, tenant: str, collection: str, ids: Sequence[str]) -> None:
        """Forget documents; unknown ids do no harm."""
        ...

    async def state(self, tenant: str, collection: str, *, wait_s: float) -> LibraryState:
        """Say how far the index is; waits up to `wait_s` until nothing is pending."""
        ...

    async def find(
        self, tenant: str, collections: Sequence[str], question: str, *, limit: int
    ) -> Found:
        """Return the best `limit` chunks by words, and as many by vectors."""
        ...
