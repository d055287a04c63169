"""What the gateway needs of the rest, besides the `Model` below it."""

# Over 400 lines: every seam of the gateway stands here, and nothing else does.

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import date
from typing import Any, Protocol

import msgspec

from murmurate.core.ports import Entry
from murmurate.core.types import (
    Caller,
    Citation,
    FinishReason,
    Frozen,
    Once,
    Request,
    ToolCall,
    TraceRef,
    Usage,
)


class Readiness(Frozen, frozen=True):
    """Whether requests can be served, and what each part says."""

    ready: bool
    parts: dict[str, str]
    parts_here: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    """What is told only on this machine, over or beside the parts: it may quote files."""


class Meter(Protocol):
    """Counts for /metrics."""

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a finished request."""
        ...

    def first_token(self, model: str, seconds: float) -> None:
        """Note the time from the request's arrival to its first delta."""
        ...

    def in_flight(self, change: int) -> None:
        """Add to the number of requests under way."""
        ...

    def exposition(self) -> tuple[bytes, str]:
        """Return the metrics page and its content type."""
        ...


class Platform(Protocol):
    """The answers to questions about the service itself."""

    def models(self, tenant: str) -> Sequence[str]:
        """Return every name that `model` may have for that tenant."""
        ...

    def chat_models(self, tenant: str) -> Sequence[str]:
        """Return those that chat: agents and models, without embedders.

        An agent whose documents the tenant may not see is none of them.
        """
        ...

    def model_of(self, name: str) -> str:
        """Return the model behind a name that chats: an agent's own, or the one of that name."""
        ...

    async def readiness(self) -> Readiness:
        """Return what /readyz says."""
        ...

    async def trace(self, tenant: str, trace_id: str) -> Sequence[Any]:
        """Return the spans of a trace, or `NotFoundError`."""
        ...

    async def session(self, tenant: str, session_id: str) -> Sequence[Any]:
        """Return the messages of a session, or `NotFoundError`."""
        ...

    async def knowledge(self, caller: Caller) -> Sequence[Any]:
        """Return the state of every collection of the caller's tenant.

        What tells of all tenants together stands in it for operators alone.
        """
        ...

    async def search(
        self, tenant: str, collections: Sequence[str], question: str, *, limit: int
    ) -> Sequence[Any]:
        """Return the passages that may answer, best first. Empty: of all collections."""
        ...

    def ingest(
        self, tenant: str, collections: Sequence[str], *, paths: Sequence[str] = ()
    ) -> AsyncGenerator[Any]:
        """Read the folders of the tenant's collections again; yield progress. Both empty: all.

        `paths` names collections by what lies in their folders.
        """
        ...


class Ledger(Protocol):
    """Notes what is used, and adds it up."""

    def asked(self, tenant: str, key: str, model: str) -> None:
        """Note a request of a client."""
        ...

    def used(self, tenant: str, key: str, model: str, usage: Usage) -> object:
        """Note the tokens of one call."""
        ...

    async def sums(self, tenant: str, first: date, last: date, by: Sequence[str]) -> Sequence[Any]:
        """Return what a tenant used from the first day to the last, split.

        `by` are some of `day`, `hour`, `key` and `model`. `BadRequestError`: it would be too much.
        """
        ...


class RunEvent(Protocol):
    """Something that happened to a run; a value that can be encoded."""

    @property
    def kind(self) -> str:
        """What it was, such as `run.step`."""
        ...


class RunAnswer(Protocol):
    """What a run answered, in whole."""

    @property
    def text(self) -> str:
        """Its words."""
        ...

    @property
    def citations(self) -> Sequence[Citation]:
        """What they rest on."""
        ...

    @property
    def calls(self) -> Sequence[ToolCall]:
        """The tools that the client shall call."""
        ...

    @property
    def usage(self) -> Usage:
        """The tokens of all its model calls."""
        ...

    @property
    def reason(self) -> FinishReason:
        """Why it ended."""
        ...


class RunFailure(Protocol):
    """Why a run was given up."""

    @property
    def code(self) -> str:
        """The error's stable code."""
        ...

    @property
    def detail(self) -> str:
        """What happened, to what, and what to do."""
        ...


class RunView(Protocol):
    """A run in whole; a value that can be encoded."""

    @property
    def status(self) -> str:
        """One of queued, running, waiting, finished, failed, cancelled."""
        ...

    @property
    def ended_ms(self) -> int | None:
        """When it ended, if it has."""
        ...

    @property
    def answer(self) -> RunAnswer | None:
        """What it came to, if it has finished."""
        ...

    @property
    def error(self) -> RunFailure | None:
        """Why it has failed, if it has."""
        ...


class Schedules(Protocol):
    """Runs that begin by themselves."""

    async def listing(self, tenant: str) -> Sequence[Any]:
        """Return the tenant's schedules."""
        ...


class Known(Protocol):
    """What an `Idempotency-Key` has begun."""

    @property
    def run(self) -> str:
        """The run."""
        ...

    @property
    def session(self) -> str | None:
        """Its session, if it has one."""
        ...


class Runs(Protocol):
    """Work that goes on without its client. What is another tenant's is `NotFoundError`."""

    async def submit(
        self,
        request: Request,
        *,
        priority: int = 0,
        deadline_s: float | None = None,
        webhook: str | None = None,
        once: Once | None = None,
        run_id: str | None = None,
        beside: Sequence[Entry] = (),
    ) -> str:
        """Begin a run; return its id once it is durable. `BadRequestError`: not with this URL.

        Whoever gives it a new `run_id` can write entries of its own `beside` it, in one append.
        `LogConflictError`: the same is begun at this moment.
        """
        ...

    async def sent_before(self, tenant: str, once: Once) -> Known | None:
        """Return the run that this key has begun. `KeyReusedError`: with something else."""
        ...

    async def listing(self, tenant: str, *, limit: int, batch: str | None) -> Sequence[Any]:
        """Return the newest runs, the newest first; or the lines of a batch."""
        ...

    async def show(self, tenant: str, run_id: str) -> RunView:
        """Return what is known of a run."""
        ...

    def events(self, tenant: str, run_id: str) -> AsyncGenerator[RunEvent]:
        """Yield what has happened and what happens, until the run is over."""
        ...

    async def cancel(self, tenant: str, run_id: str) -> None:
        """Let it end. `RunOverError`: it has."""
        ...

    async def resume(self, tenant: str, run_id: str) -> None:
        """Go on with one that failed or was cancelled. `RunOverError`: it did not."""
        ...


class BatchTerms(Frozen, frozen=True, kw_only=True):
    """How long a batch may take, and what else its client says of it."""

    window: str
    """As the client wrote it."""
    window_ms: int
    metadata: Mapping[str, str] | None = None
    output_expires_s: float | None = None


class FileInfo(Protocol):
    """A file, as its tenant's list has it."""

    @property
    def id(self) -> str:
        """Its id, `file-…`."""
        ...

    @property
    def filename(self) -> str:
        """How the client has named it."""
        ...

    @property
    def purpose(self) -> str:
        """What it is for."""
        ...

    @property
    def size_bytes(self) -> int:
        """How long it is."""
        ...

    @property
    def created_ms(self) -> int:
        """When it was there."""
        ...

    @property
    def expires_ms(self) -> int | None:
        """When it will be gone."""
        ...


class Upload(Protocol):
    """A file that arrives."""

    async def write(self, chunk: bytes) -> None:
        """Take some more bytes. `FileTooLargeError`, `FilesFullError`: there is no room."""
        ...

    async def keep(self, filename: str, purpose: str, *, expires_s: float | None) -> FileInfo:
        """Make it a file; it is durable when this returns."""
        ...


class Files(Protocol):
    """Files of clients. What is another tenant's is `NotFoundError`."""

    def upload(self, tenant: str) -> AbstractAsyncContextManager[Upload]:
        """Take a file in; unless it is kept before the block ends, nothing of it stays."""
        ...

    async def listing(
        self, tenant: str, *, purpose: str | None, newest_first: bool
    ) -> Sequence[FileInfo]:
        """Return the files of a tenant, in the order of time."""
        ...

    async def show(self, tenant: str, file_id: str) -> FileInfo:
        """Return what is known of a file."""
        ...

    def content(self, tenant: str, file_id: str) -> AsyncGenerator[bytes]:
        """Yield what it holds."""
        ...

    async def remove(self, tenant: str, file_id: str) -> None:
        """Delete it."""
        ...


class LineEndpoint(Protocol):
    """What the lines of a batch may ask for."""

    @property
    def scope(self) -> str:
        """What a key needs to ask for it."""
        ...


class BatchView(Protocol):
    """A batch as OpenAI shows it; a value that can be encoded."""

    @property
    def id(self) -> str:
        """Its id, `batch_…`."""
        ...


class Batches(Protocol):
    """Files of requests that are answered in the background; another tenant's are not there."""

    async def create(
        self, caller: Caller, *, endpoint: str, input_file_id: str, terms: BatchTerms
    ) -> BatchView:
        """Begin one. `BadRequestError`: not with this file. `BatchesFullError`: too many are."""
        ...

    async def show(self, tenant: str, batch_id: str) -> object:
        """Return where it stands."""
        ...

    async def listing(self, tenant: str, *, after: str | None, limit: int) -> object:
        """Return a page of the tenant's, the newest first."""
        ...

    async def cancel(self, tenant: str, batch_id: str) -> object:
        """Let it end. `BatchOverError`: it has."""
        ...


class Approvals(Protocol):
    """Calls that wait for a decision. What is another tenant's is `NotFoundError`."""

    async def listing(self, tenant: str, *, limit: int) -> Sequence[Any]:
        """Return those of the oldest runs first."""
        ...

    async def decide(self, caller: Caller, name: str, *, approved: bool, reason: str) -> object:
        """Decide `run:number`, or what `run` asks; return what it was.

        `ApprovalOwnError`: the caller began that run. `ApprovalDecidedError`: somebody was faster.
        """
        ...


class Replays(Protocol):
    """Runs done again, without their side effects."""

    async def replay(
        self, tenant: str, run_id: str, *, model: str | None, trace: TraceRef
    ) -> object:
        """Do a run again and return what is different. `RunOverError`: it is under way."""
        ...


class Archive(Protocol):
    """Where runs that have ended lie."""

    async def forget(self, tenant: str, run_id: str) -> bool:
        """Forget a run now, if it has ended; return whether it is gone."""
        ...


class PublicKey(Protocol):
    """One of an issuer's keys."""

    @property
    def id(self) -> str | None:
        """What tokens call it (`kid`)."""
        ...

    @property
    def algorithms(self) -> frozenset[str]:
        """How it may sign; a key of one kind never checks a signature of another."""
        ...

    def signed(self, token: str, algorithm: str) -> bool:
        """Tell whether this token, of one of its algorithms, was signed with it."""
        ...


@dataclass(frozen=True, slots=True)
class Published:
    """The keys that an issuer signs with, and when to look again if nothing else is the reason."""

    keys: tuple[PublicKey, ...]
    again_s: float


class Issuer(Protocol):
    """Who signs tokens."""

    async def published(self) -> Published:
        """Return its keys of now. `IssuerUnreachableError`: it does not answer as it should."""
        ...


class Action(Frozen, frozen=True):
    """What somebody asks for: a route, as the table of routes has it, and the scope it needs."""

    scope: str
    method: str
    route: str


class Resource(Frozen, frozen=True):
    """What it is asked of."""

    model: str | None = None
    """The agent, model or embedder; None where the route names none."""


class Decision(Frozen, frozen=True):
    """Whether it may be done; `reason` is for whoever asked."""

    allowed: bool
    reason: str = ""


class Policy(Protocol):
    """Decides who may do what, before anything of it is begun."""

    async def decide(self, caller: Caller, action: Action, resource: Resource) -> Decision:
        """Return the decision. `PolicyUnavailableError`: there is none, so it is not done."""
        ...
