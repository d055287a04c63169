"""Every seam that two or more stages share. Read it first: a stage sees the others only here.

A `Model` answers requests and nests; the `Log` keeps what must survive; `Knowledge` finds passages;
`Embedder` turns texts into vectors; `Tracer` and `EventLog` note what happened.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from murmurate.core.types import Delta, Frozen, Passage, Request, TraceRef


class Model(Protocol):
    """Anything that answers a request: an engine, a router, a cache, an agent, a remote server.

    One shape for all of them is what lets them nest: `Cached(Agents(Cached(Routed(Engine()))))`.
    """

    def answer(self, request: Request) -> AsyncGenerator[Delta]:
        """Yield deltas; the last one is `Finished`. Closing the generator cancels the work below.

        Hold it in `contextlib.aclosing`: without that the engine works on after the client left. A
        wrapper that has nothing to do with a request returns the generator below: each layer that
        only passes deltas on costs about a microsecond a delta.
        Errors (`MurmurateError`) are raised at the first or at any later `anext`.
        """
        ...


class Embeddings(Frozen, frozen=True):
    """Vectors, and how many tokens were read to make them."""

    vectors: tuple[tuple[float, ...], ...]
    tokens: int


class Embedder(Protocol):
    """Turns texts into vectors of unit length. Vectors of two embedders can't be compared."""

    @property
    def name(self) -> str:
        """The model's name, as clients know it."""
        ...

    @property
    def dimensions(self) -> int | None:
        """How many numbers a vector has; None until the first answer of one that did not say."""
        ...

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        """Return one vector a text, in order.

        Texts over the model's length are cut, or refused with `BadRequestError`.
        """
        ...


class Knowledge(Protocol):
    """Finds the passages of documents that may answer a question."""

    async def search(
        self, tenant: str, collections: Sequence[str], question: str, *, limit: int
    ) -> list[Passage]:
        """Return at most `limit` passages, best first. Unknown collections find nothing."""
        ...

    def version(self, tenant: str, collections: Sequence[str]) -> str:
        """Return a text that changes whenever a search there may find something else."""
        ...


class Entry(Frozen, frozen=True):
    """Something that must survive: to be appended to a stream such as `session/sess_…`."""

    tenant: str
    stream: str
    kind: str
    body: bytes


class Stored(Frozen, frozen=True):
    """An entry as the log keeps it.

    `seq` counts from 1 within the stream, without gaps; `position` grows over the whole log and has
    gaps; `at_ms` is the wall clock of the append.
    """

    tenant: str
    stream: str
    seq: int
    position: int
    epoch: int
    kind: str
    at_ms: int
    body: bytes


class StreamInfo(Frozen, frozen=True):
    """A stream and the seq of its last entry."""

    tenant: str
    stream: str
    head: int


SNAPSHOT = "snapshot"
"""The kind of the first entry that `Log.read` yields where a snapshot stands for the older ones."""


class Log(Protocol):
    """The one place for everything that must survive. SQLite, or memory in simulations.

    A stream belongs to a tenant: the same name under two tenants is two streams.
    """

    async def append(
        self, entries: Sequence[Entry], *, expected: Mapping[tuple[str, str], int] | None = None
    ) -> list[int]:
        """Append all entries or none; return their seqs, in order, once they are on disk.

        `expected` maps (tenant, stream) to the last seq that the writer has seen (0: none): when
        another was appended since, `LogConflictError` is raised and nothing is written. One
        failing append never hurts another that shares its commit. `LogUnavailableError`: the store
        cannot be written now, or too many appends wait already.
        """
        ...

    def read(self, tenant: str, stream: str, *, after: int = 0) -> AsyncGenerator[Stored]:
        """Yield the entries with a seq above `after`, oldest first.

        Where a snapshot newer than `after` exists, it comes first (kind `SNAPSHOT`, its seq) and
        only the entries behind it follow. Where one overtakes a reader, it comes midway: a
        `SNAPSHOT` always means "start over from here". `LogCorruptError` where one is damaged.
        """
        ...

    def tail(self, prefix: str, *, after: int) -> AsyncGenerator[Stored]:
        """Follow all streams whose name starts with `prefix`, over all tenants, without end.

        Yields entries with a position above `after` in commit order: first the stored ones, then
        new ones as they are committed. Close it to stop.
        """
        ...

    def streams(self, tenant: str, prefix: str, *, after: str = "") -> AsyncGenerator[StreamInfo]:
        """Yield the tenant's streams of that prefix with a name above `after`, in order of name."""
        ...

    async def snapshot(self, tenant: str, stream: str, seq: int, body: bytes) -> None:
        """Let `body` stand for all entries up to and including `seq`; the newest one counts.

        An entry of that seq must exist (`LogConflictError`); an older snapshot is ignored.
        """
        ...

    async def forget(self, tenant: str, stream: str, *, before: int | None = None) -> None:
        """Delete the entries with a seq below `before`, or the whole stream when None.

        A snapshot stays unless the whole stream goes; then `streams` leaves it out.

        A stream forgotten and written again goes on counting, so a seq never means two things.
        """
        ...

    async def close(self) -> None:
        """Commit what was accepted, then release the store; running tails end."""
        ...


class EventLog(Protocol):
    """Where stages say what happened, once per request and stage."""

    def event(self, name: str, **facts: str | int | float | bool | None) -> None:
        """Write one event, such as `request.done`. Never prompt content, never a secret."""
        ...


class Span(Protocol):
    """A piece of work under way."""

    @property
    def ref(self) -> TraceRef:
        """Where the spans of the work below hang."""
        ...

    def note(self, **attributes: str | int | float | bool) -> None:
        """Add facts (counts, names, verdicts; never prompt content)."""
        ...


class Tracer(Protocol):
    """Notes what happened. Costs about a microsecond and never blocks."""

    def span(
        self, parent: TraceRef, name: str, **attributes: str | int | float | bool
    ) -> AbstractContextManager[Span]:
        """Time the `with` block as a span below `parent`; an exception marks it as failed."""
        ...
