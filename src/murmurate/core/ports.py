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


class Claim(Frozen, frozen=True):
    """Work that a runner holds. As a fence of an append it proves that nobody else has it by now.

    `epoch` counts the holders of this work, from 1.
    """

    tenant: str
    stream: str
    queue: str
    runner: str
    epoch: int


class Offer(Frozen, frozen=True):
    """Let a runner claim the work that a stream describes, not before `due_ms` (since 1970).

    Higher priorities come first; within one, tenants take turns, however much each of them offers.
    None leaves known work the one that it has; new work gets 0.
    `holder` has new work at once, as epoch 1, and nobody else can claim it meanwhile.
    """

    tenant: str
    stream: str
    queue: str
    priority: int | None = None
    due_ms: int = 0
    holder: str | None = None


class Done(Frozen, frozen=True):
    """The work of a stream is over: nobody can claim it any more."""

    tenant: str
    stream: str


class Nudge(Frozen, frozen=True):
    """There is news in the stream of some work: who holds it shall look, or somebody claim it.

    Work that waits for its time is due at once; work that is not known is left alone.
    """

    tenant: str
    stream: str


Work = Offer | Done | Nudge

NEVER_MS = 2**62
"""Work that is due then waits for a `Nudge`."""


class WorkInfo(Frozen, frozen=True):
    """Work as the store knows it. `runner` holds it; None: it waits, until `due_ms` at least."""

    tenant: str
    stream: str
    queue: str
    priority: int
    due_ms: int
    runner: str | None
    epoch: int


class Renewal(Frozen, frozen=True):
    """What a runner hears when it says that it lives.

    It was not `known`: it is new, or it was revoked and holds nothing any more. `nudged` are the
    streams, with their tenants, that it holds and should look into.
    """

    known: bool
    nudged: tuple[tuple[str, str], ...] = ()


SNAPSHOT = "snapshot"
"""The kind of the first entry that `Log.read` yields where a snapshot stands for the older ones."""


class Log(Protocol):
    """The one place for everything that must survive: SQLite, Postgres, or memory in simulations.

    A stream belongs to a tenant: the same name under two tenants is two streams. A stream may
    describe work, such as the run of an agent: then it is offered, claimed by one runner at a time,
    and done. Who lives is told by beats, not by clocks, so that no two clocks need agree: a runner
    `renew`s; whoever sees its beat stand still for too long `revoke`s it.
    """

    async def append(
        self,
        entries: Sequence[Entry],
        *,
        expected: Mapping[tuple[str, str], int] | None = None,
        fence: Claim | None = None,
        work: Sequence[Work] = (),
    ) -> list[int]:
        """Append all entries and change all work, or nothing; return the entries' seqs, in order.

        All of it is on disk then. `expected` maps (tenant, stream) to the last seq that the writer
        has seen (0: none): when another was appended since, `LogConflictError` is raised. `fence`
        is work that the writer believes to hold: when it does not any more, or `work` offers or
        ends what another one holds, `FencedError` is raised. `LogConflictError`, too, when a
        `holder` is named for work that is known already. One failing append never hurts another
        that shares its commit. `LogUnavailableError`: the store cannot be written now, or too many
        appends wait already.
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

    async def claim(self, queue: str, runner: str, *, limit: int) -> list[Claim]:
        """Take up to `limit` pieces of work that are due and that nobody holds, the first first.

        The runner must have renewed before; one that was revoked gets nothing.
        """
        ...

    async def renew(self, runner: str) -> Renewal:
        """Say that the runner lives; enlist it when it is not known."""
        ...

    async def beats(self) -> dict[str, int]:
        """Return every runner's count of renewals."""
        ...

    async def held(self, runner: str) -> list[Claim]:
        """Return what a runner holds, in the order of tenants and streams.

        The answer to a claim can be lost on the way: then only this tells what was claimed.
        """
        ...

    async def revoke(self, runner: str, *, beat: int | None = None) -> bool:
        """Take everything from a runner, to be claimed by others; its fences hold no more.

        With `beat`, only if it has not renewed since that count. Returns whether it was revoked.
        """
        ...

    def work(self, tenant: str, queue: str, *, after: str = "") -> AsyncGenerator[WorkInfo]:
        """Yield the tenant's work of a queue in the order of its streams, above `after`."""
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
