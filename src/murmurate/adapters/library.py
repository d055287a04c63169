"""The library worker's messages, and the client that speaks them."""

from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

from murmurate.adapters.wire import Caller, Message
from murmurate.config import EMBEDDER_NAME
from murmurate.core.clock import Clock
from murmurate.core.errors import DocumentUnreadableError, WorkerUnreachableError
from murmurate.core.ports import Embeddings
from murmurate.knowledge.ports import Document, Extracted, Found, LibraryState, Listing
from murmurate.knowledge.rules import Rules

FIND_S = 10.0
EXTRACT_S = 600.0
"""The worker gives up on a file after 45 s; a sync has eight of them wait for it, and there may be
other syncs."""
LISTING_S = 300.0
INDEX_S = 300.0
EMBED_S = 60.0
STATE_S = 10.0
AGAIN_WITHIN_S = 2.0

_R = TypeVar("_R")


class List(Message[Listing], frozen=True, tag=True):
    """Say which files stand below a folder."""

    folder: str
    rules: Rules

    reply: ClassVar[Any] = Listing


class Fingerprint(Message[str], frozen=True, tag=True):
    """Say in short what stands below a folder, and which index it is compared with."""

    folder: str
    rules: Rules

    reply: ClassVar[Any] = str


class Extract(Message[Extracted], frozen=True, tag=True):
    """Read and parse one file."""

    folder: str
    path: str
    bytes_max: int

    reply: ClassVar[Any] = Extracted


class Held(Message[dict[str, str]], frozen=True, tag=True):
    """Say which documents are indexed: id and sha256."""

    tenant: str
    collection: str

    reply: ClassVar[Any] = dict[str, str]


class Put(Message[None], frozen=True, tag=True):
    """Index documents."""

    tenant: str
    collection: str
    documents: tuple[Document, ...]

    reply: ClassVar[Any] = None


class Drop(Message[None], frozen=True, tag=True):
    """Forget documents."""

    tenant: str
    collection: str
    ids: tuple[str, ...]

    reply: ClassVar[Any] = None


class State(Message[LibraryState], frozen=True, tag=True):
    """Say how far a collection is, after at most `wait_s`."""

    tenant: str
    collection: str
    wait_s: float

    reply: ClassVar[Any] = LibraryState


class Find(Message[Found], frozen=True, tag=True):
    """Search by words and by vectors."""

    tenant: str
    collections: tuple[str, ...]
    question: str
    limit: int

    reply: ClassVar[Any] = Found


class Embed(Message[Embeddings], frozen=True, tag=True):
    """Turn texts into vectors."""

    texts: tuple[str, ...]

    reply: ClassVar[Any] = Embeddings


class LibraryClient:
    """The library process as seen from the server: the ports `Library` and `Embedder`.

    A call that broke off because the worker died is made once more: it is started again at once,
    and every call may be repeated. Only `extract` is not, for its file may be what killed it.
    """

    def __init__(
        self,
        path: str,
        *,
        clock: Clock,
        embedder: str = EMBEDDER_NAME,
        dimensions: int | None = None,
        extract_s: float = EXTRACT_S,
    ) -> None:
        self._caller = Caller(path, clock=clock)
        self._clock = clock
        self._embedder = embedder
        self._extract_s = extract_s
        self._dimensions = dimensions

    @property
    def name(self) -> str:
        """The embedder's name; see `Embedder`."""
        return self._embedder

    @property
    def dimensions(self) -> int | None:
        """The numbers of a vector; see `Embedder`."""
        return self._dimensions

    async def listing(self, folder: str, rules: Rules) -> Listing:
        """Return the files below `folder`; see `Library`."""
        return await self._call(List(folder, rules), timeout_s=LISTING_S)

    async def fingerprint(self, folder: str, rules: Rules) -> str:
        """Return a text that changes with the folder; see `Library`."""
        return await self._call(Fingerprint(folder, rules), timeout_s=LISTING_S)

    async def extract(self, folder: str, path: str, *, bytes_max: int) -> Extracted:
        """Read and parse one file; see `Library`."""
        try:
            return await self._caller.call(
                Extract(folder, path, bytes_max), timeout_s=self._extract_s
            )
        except WorkerUnreachableError as error:
            if not isinstance(error.__cause__, TimeoutError):
                raise
            # Most of that it may have waited for others: it is not what ended a worker.
            detail = f"{path}: not read within {self._extract_s:g} s"
            raise DocumentUnreadableError(detail, retry_s=AGAIN_WITHIN_S) from error

    async def held(self, tenant: str, collection: str) -> dict[str, str]:
        """Return the indexed documents; see `Library`."""
        return await self._call(Held(tenant, collection), timeout_s=LISTING_S)

    async def put(self, tenant: str, collection: str, documents: Sequence[Document]) -> None:
        """Index documents; see `Library`."""
        await self._call(Put(tenant, collection, tuple(documents)), timeout_s=INDEX_S)

    async def drop(self, tenant: str, collection: str, ids: Sequence[str]) -> None:
        """Forget documents; see `Library`."""
        await self._call(Drop(tenant, collection, tuple(ids)), timeout_s=INDEX_S)

    async def state(self, tenant: str, collection: str, *, wait_s: float) -> LibraryState:
        """Say how far the index is; see `Library`."""
        return await self._call(State(tenant, collection, wait_s), timeout_s=STATE_S + wait_s)

    async def find(
        self, tenant: str, collections: Sequence[str], question: str, *, limit: int
    ) -> Found:
        """Search by words and by vectors; see `Library`."""
        message = Find(tenant, tuple(collections), question, limit)
        return await self._call(message, timeout_s=FIND_S)

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        """Return one vector a text; `MissingPartError` when the embedder is not installed."""
        made = await self._call(Embed(tuple(texts)), timeout_s=EMBED_S)
        if made.vectors:
            self._dimensions = len(made.vectors[0])
        return made

    async def close(self) -> None:
        """Hang up."""
        await self._caller.close()

    async def _call(self, message: Message[_R], *, timeout_s: float) -> _R:
        began_s = self._clock.now_s()
        try:
            return await self._caller.call(message, timeout_s=timeout_s)
        except WorkerUnreachableError:
            if self._clock.now_s() - began_s > AGAIN_WITHIN_S:
                raise
        return await self._caller.call(message, timeout_s=timeout_s)
