"""Fakes of our ports for tests: virtual time, seeded chance, and whoever answers from a script."""

import asyncio
import random
import selectors
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from typing import Any, TypeVar

from murmurate.adapters.memory import MemoryLog
from murmurate.core.errors import KeyReusedError, MurmurateError, NotFoundError
from murmurate.core.fetch import Fetch, Fetched
from murmurate.core.ids import Ids
from murmurate.core.ports import Embeddings, Entry, Model
from murmurate.core.reach import Reach, Target
from murmurate.core.types import (
    Caller,
    CallPart,
    Citation,
    Delta,
    Finished,
    FinishReason,
    Frozen,
    Message,
    Once,
    Origin,
    OriginKind,
    Part,
    Passage,
    Request,
    ResultPart,
    Role,
    Text,
    TextPart,
    ToolCall,
    TraceRef,
    Usage,
)
from murmurate.gateway.ports import Readiness

_T = TypeVar("_T")

TRACE = TraceRef("0" * 31 + "1")
DONE = Finished(FinishReason.STOP)


class FakeClock:
    """Time that passes only when somebody sleeps or the test turns it."""

    def __init__(self, time_s: float = 1000.0) -> None:
        self.time_s = time_s
        self.slept_s: list[float] = []

    def now_s(self) -> float:
        return self.time_s

    def unix_ms(self) -> int:
        return round(self.time_s * 1000)

    async def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.time_s += seconds
        await asyncio.sleep(0)


class LoopClock(FakeClock):
    """The time of the running loop; see `run_skipping_time`."""

    def now_s(self) -> float:
        return asyncio.get_running_loop().time()

    def unix_ms(self) -> int:
        return round(self.now_s() * 1000)


def seeded_ids(clock: FakeClock | None = None, seed: int = 1) -> Ids:
    return Ids(clock or FakeClock(), random.Random(seed))


@dataclass
class FakeSpan:
    """A span that can be read back."""

    name: str
    parent: TraceRef
    attributes: dict[str, Any]
    error: BaseException | None = None

    @property
    def ref(self) -> TraceRef:
        return TraceRef(self.parent.trace_id, self.name)

    def note(self, **attributes: str | float | bool) -> None:
        self.attributes.update(attributes)


class RecordingTracer:
    """Keeps all spans, in the order in which they began."""

    def __init__(self) -> None:
        self.spans: list[FakeSpan] = []

    @contextmanager
    def span(
        self, parent: TraceRef, name: str, **attributes: str | float | bool
    ) -> Generator[FakeSpan]:
        span = FakeSpan(name, parent, dict(attributes))
        self.spans.append(span)
        try:
            yield span
        except BaseException as error:
            span.error = error
            raise

    def named(self, name: str) -> FakeSpan:
        return next(span for span in self.spans if span.name == name)


class RecordingLog:
    """An `EventLog` that can be read back."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def event(self, name: str, **facts: str | float | bool | None) -> None:
        self.events.append((name, facts))

    def named(self, name: str) -> list[dict[str, Any]]:
        return [facts for known, facts in self.events if known == name]


class RecordingMeter:
    """Counts like the gateway's `Meter`, readable."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, int]] = []
        self.firsts: list[str] = []
        self.under_way = 0

    def request(self, route: str, status: int, seconds: float) -> None:
        assert seconds >= 0
        self.requests.append((route, status))

    def first_token(self, model: str, seconds: float) -> None:
        assert seconds >= 0
        self.firsts.append(model)

    def in_flight(self, change: int) -> None:
        self.under_way += change

    def exposition(self) -> tuple[bytes, str]:
        return b"requests 1\n", "text/plain; version=0.0.4"


class Saying:
    """A `Model` that yields what it was given; an exception is raised, an event waited for."""

    def __init__(self, *script: Delta | BaseException | asyncio.Event) -> None:
        self.script = script
        self.asked: list[Request] = []
        self.closed_early = 0

    async def answer(self, request: Request) -> AsyncGenerator[Delta]:
        self.asked.append(request)
        whole = False
        try:
            for item in self.script:
                if isinstance(item, asyncio.Event):
                    await item.wait()
                elif isinstance(item, BaseException):
                    whole = True
                    raise item
                else:
                    yield item
            whole = True
        finally:
            self.closed_early += not whole


class InTurn:
    """A `Model` that gives each request to the next of its models; the last one keeps answering."""

    def __init__(self, *models: Model) -> None:
        self.models = list(models)
        self.asked: list[Request] = []

    def answer(self, request: Request) -> AsyncGenerator[Delta]:
        self.asked.append(request)
        model = self.models.pop(0) if len(self.models) > 1 else self.models[0]
        return model.answer(request)


class FakeKnowledge:
    """Finds the same passages for every question, and remembers what it was asked."""

    def __init__(self, *passages: Passage) -> None:
        self.passages = list(passages)
        self.asked: list[tuple[str, Sequence[str], str, int]] = []

    async def search(
        self, tenant: str, collections: Sequence[str], question: str, *, limit: int
    ) -> list[Passage]:
        self.asked.append((tenant, collections, question, limit))
        return self.passages[:limit]

    def version(self, tenant: str, collections: Sequence[str]) -> str:
        return f"{tenant}/{','.join(collections)}@{len(self.passages)}"


@dataclass(frozen=True)
class FakeOutcome:
    value: str | None
    error: str | None = None


class FakeSandbox:
    """Knows the values of some snippets; every other one fails."""

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        self.values = values or {}
        self.ran: list[str] = []

    async def run(self, code: str) -> FakeOutcome:
        self.ran.append(code)
        if code in self.values:
            return FakeOutcome(self.values[code])
        return FakeOutcome(None, "SyntaxError: invalid syntax")


class FakeEmbedder:
    """Gives every text the same direction, and counts its characters as tokens."""

    def __init__(self, *, numbers: int = 2) -> None:
        self.vector = (1.0, *([0.0] * (numbers - 1)))
        self.asked: list[Sequence[str]] = []

    name = "minilm"

    @property
    def dimensions(self) -> int | None:
        return len(self.vector)

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        self.asked.append(texts)
        return Embeddings(tuple(self.vector for _ in texts), sum(len(text) for text in texts))


class FakeFetcher:
    """Answers each fetch with the next of its answers, an error is raised; keeps what was sent."""

    def __init__(self, *answers: int | MurmurateError, reach: Reach | None = None) -> None:
        self.answers = list(answers)
        self.reach = reach or Reach()
        self.sent: list[Fetch] = []
        self.hold: asyncio.Event | None = None

    def target(self, url: str) -> Target:
        return self.reach.target(url)

    async def fetch(self, fetch: Fetch) -> Fetched:
        self.sent.append(fetch)
        if self.hold is not None:
            await self.hold.wait()
        answer = self.answers.pop(0) if self.answers else 200
        if isinstance(answer, MurmurateError):
            raise answer
        return Fetched(answer, {}, b"")


class RunNews(Frozen, frozen=True):
    """Something that happened to a run."""

    kind: str


class FakeFailure(Frozen, frozen=True):
    """Why a run failed."""

    code: str
    detail: str


class FakeAnswer(Frozen, frozen=True):
    """What a run came to."""

    text: str
    reason: FinishReason = FinishReason.STOP
    usage: Usage = Usage(3, 2)
    citations: tuple[Citation, ...] = ()
    calls: tuple[ToolCall, ...] = ()


class FakeRun(Frozen, frozen=True, omit_defaults=True):
    """A run as it is shown."""

    id: str
    status: str
    ended_ms: int | None = None
    answer: FakeAnswer | None = None
    error: FakeFailure | None = None


class KnownRun(Frozen, frozen=True):
    """What an `Idempotency-Key` has begun."""

    run: str
    session: str | None


@dataclass
class FakeRuns:
    """Runs that end as the test says, and a note of what was asked of them."""

    log: MemoryLog | None = None
    """Where entries beside a run go."""
    ids: list[str] = field(default_factory=list[str])
    views: dict[str, FakeRun] = field(default_factory=dict[str, FakeRun])
    """What has become of a run; one that is not here is queued."""
    news: list[str] = field(default_factory=lambda: ["run.begun", "run.finished"])

    begun: list[tuple[Request, int]] = field(default_factory=list[tuple[Request, int]])
    asked: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    refusal: MurmurateError | None = None
    terms: list[tuple[float | None, str | None]] = field(
        default_factory=list[tuple[float | None, str | None]]
    )

    known: dict[tuple[str, str], tuple[Once, KnownRun]] = field(
        default_factory=dict[tuple[str, str], tuple[Once, KnownRun]]
    )

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
        self.begun.append((request, priority))
        self.terms.append((deadline_s, webhook))
        self.ids.append(run_id or f"run_{len(self.begun)}")
        if once is not None:
            session = None if request.session is None else request.session.id
            self.known[request.tenant, once.key] = (once, KnownRun(self.ids[-1], session))
        if beside:
            assert self.log is not None
            await self.log.append(beside)
        return self.ids[-1]

    async def sent_before(self, tenant: str, once: Once) -> KnownRun | None:
        asked, known = self.known.get((tenant, once.key), (once, None))
        if asked != once:
            raise KeyReusedError("with another body")
        return known

    async def listing(self, tenant: str, *, limit: int, batch: str | None = None) -> Sequence[Any]:
        own = [n for n, (it, _) in enumerate(self.begun) if it.tenant == tenant]
        return [{"id": self.ids[n]} for n in own[:limit]]

    async def show(self, tenant: str, run_id: str) -> FakeRun:
        return self.views.get(self._known(tenant, run_id)) or FakeRun(run_id, "queued")

    async def forget(self, tenant: str, run_id: str) -> bool:
        """Forget one that has ended, as `Archive`."""
        self.asked.append(("forget", self._known(tenant, run_id)))
        return (await self.show(tenant, run_id)).ended_ms is not None

    async def events(self, tenant: str, run_id: str) -> AsyncGenerator[RunNews]:
        self._known(tenant, run_id)
        for number, kind in enumerate(self.news):
            if number and self.refusal is not None:
                raise self.refusal
            yield RunNews(kind)

    async def cancel(self, tenant: str, run_id: str) -> None:
        self.asked.append(("cancel", self._known(tenant, run_id)))
        if self.refusal is not None:
            raise self.refusal
        self.views[run_id] = FakeRun(run_id, "cancelled", ended_ms=2_000_000)

    async def resume(self, tenant: str, run_id: str) -> None:
        self.asked.append(("resume", self._known(tenant, run_id)))
        if self.refusal is not None:
            raise self.refusal

    async def replay(
        self, tenant: str, run_id: str, *, model: str | None, trace: TraceRef
    ) -> object:
        self.asked.append((f"replay with {model}", self._known(tenant, run_id)))
        if self.refusal is not None:
            raise self.refusal
        return {"id": run_id, "same": True}

    def _known(self, tenant: str, run_id: str) -> str:
        for known, (request, _) in zip(self.ids, self.begun, strict=True):
            if run_id == known and request.tenant == tenant:
                return run_id
        raise NotFoundError(f"there is no run {run_id!r}")


class FakeLedger:
    """Notes what it is told, and what sums it is asked for."""

    def __init__(self) -> None:
        self.noted: list[tuple[str, str, str, Usage | None]] = []
        self.asked_for: list[tuple[str, str, str, tuple[str, ...]]] = []

    def asked(self, tenant: str, key: str, model: str) -> None:
        self.noted.append((tenant, key, model, None))

    def used(self, tenant: str, key: str, model: str, usage: Usage) -> None:
        self.noted.append((tenant, key, model, usage))

    async def sums(self, tenant: str, first: date, last: date, by: Sequence[str]) -> Sequence[Any]:
        self.asked_for.append((tenant, first.isoformat(), last.isoformat(), tuple(by)))
        return [{"used": {"requests": 1}}]


class FakeSchedules:
    """Knows one schedule of each tenant."""

    async def listing(self, tenant: str) -> Sequence[Any]:
        return [{"name": f"morning of {tenant}"}]


class FakeApprovals:
    """Knows one question of each tenant, and who answered it."""

    def __init__(self) -> None:
        self.decided: list[tuple[str, str, bool, str]] = []
        self.error: MurmurateError | None = None

    async def listing(self, tenant: str, *, limit: int) -> Sequence[Any]:
        return [{"id": f"run_of_{tenant}:2", "limit": limit}]

    async def decide(self, caller: Caller, name: str, *, approved: bool, reason: str) -> object:
        if self.error is not None:
            raise self.error
        self.decided.append((caller.key_id, name, approved, reason))
        return {"id": name}


@dataclass
class FakePlatform:
    """Answers the gateway's questions about the service from plain attributes."""

    chats: Sequence[str] = ("tiny",)
    embedders: Sequence[str] = ("minilm",)
    own_chats: dict[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    ready: bool = True
    parts_here: dict[str, str] = field(default_factory=dict[str, str])
    traces: dict[tuple[str, str], list[Any]] = field(
        default_factory=dict[tuple[str, str], list[Any]]
    )
    sessions: dict[tuple[str, str], list[Any]] = field(
        default_factory=dict[tuple[str, str], list[Any]]
    )
    progress: Sequence[Any] = ()
    ingested: list[Sequence[str]] = field(default_factory=list[Sequence[str]])
    closed_early: int = 0

    def models(self, tenant: str) -> Sequence[str]:
        return [*self.chat_models(tenant), *self.embedders]

    def chat_models(self, tenant: str) -> Sequence[str]:
        return [*self.chats, *self.own_chats.get(tenant, ())]

    def model_of(self, name: str) -> str:
        return {"assistant": "tiny"}.get(name, name)

    async def readiness(self) -> Readiness:
        parts = {"model tiny": "ready" if self.ready else "not reachable"}
        return Readiness(self.ready, parts, self.parts_here)

    async def trace(self, tenant: str, trace_id: str) -> Sequence[Any]:
        return self._found(self.traces, tenant, trace_id)

    async def session(self, tenant: str, session_id: str) -> Sequence[Any]:
        return self._found(self.sessions, tenant, session_id)

    async def knowledge(self, caller: Caller) -> Sequence[Any]:
        return [{"collection": "docs", "tenant": caller.tenant}]

    async def search(
        self, tenant: str, collections: Sequence[str], question: str, *, limit: int
    ) -> Sequence[Any]:
        return [{"tenant": tenant, "in": list(collections), "question": question, "limit": limit}]

    async def ingest(
        self, tenant: str, collections: Sequence[str], *, paths: Sequence[str] = ()
    ) -> AsyncGenerator[Any]:
        self.ingested.append([*collections, *paths])
        try:
            for step in self.progress:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                yield step
        except (asyncio.CancelledError, GeneratorExit):
            self.closed_early += 1
            raise

    @staticmethod
    def _found(kept: Mapping[tuple[str, str], list[Any]], tenant: str, name: str) -> Sequence[Any]:
        if (tenant, name) not in kept:
            raise NotFoundError(f"there is no {name!r}")
        return kept[tenant, name]


def message(role: Role, text: str) -> Message:
    kinds = {
        Role.SYSTEM: OriginKind.SYSTEM,
        Role.USER: OriginKind.USER,
        Role.ASSISTANT: OriginKind.MODEL,
        Role.TOOL: OriginKind.TOOL,
    }
    return Message(role, (TextPart(text, Origin(kinds[role])),))


def user(text: str) -> Message:
    return message(Role.USER, text)


def assistant(text: str, *calls: ToolCall) -> Message:
    parts: list[Part] = [TextPart(text, Origin(OriginKind.MODEL))] if text else []
    parts += [CallPart(call.id, call.name, call.arguments) for call in calls]
    return Message(Role.ASSISTANT, tuple(parts))


def result(call_id: str, text: str) -> Message:
    return Message(Role.TOOL, (ResultPart(call_id, text, Origin(OriginKind.TOOL)),))


def ask(*messages: str | Message, **fields: Any) -> Request:
    turns = tuple(user(it) if isinstance(it, str) else it for it in messages or ("hello",))
    defaults: dict[str, Any] = {"id": "req_1", "tenant": "a", "model": "tiny", "trace": TRACE}
    return Request(messages=turns, **{**defaults, **fields})


def passage(text: str = "The limit is 12 hours.", **fields: Any) -> Passage:
    defaults: dict[str, Any] = {
        "document": "doc_1",
        "collection": "docs",
        "path": "limits.md",
        "start": 10,
        "end": 10 + len(text),
        "line_first": 3,
        "line_last": 3,
        "score": 0.5,
        "confidence": 0.9,
    }
    return Passage(text=text, **{**defaults, **fields})


async def all_of(model: Model, request: Request) -> list[Delta]:
    return [delta async for delta in model.answer(request)]


def answered(model: Model, request: Request) -> list[Delta]:
    """Return all deltas of an answer, in an event loop of its own."""
    return asyncio.run(all_of(model, request))


def text_of(deltas: Sequence[Delta]) -> str:
    return "".join(delta.text for delta in deltas if isinstance(delta, Text))


async def until(true: Callable[[], bool]) -> None:
    """Let the other tasks run until something holds; fails after two seconds."""
    async with asyncio.timeout(2):
        while not true():
            await asyncio.sleep(0)


def run_skipping_time(story: Coroutine[Any, Any, _T]) -> _T:
    """Run in a loop whose clock jumps to the next timer instead of waiting for it."""

    def loop() -> asyncio.AbstractEventLoop:
        selector = _SkippingSelector()
        made = asyncio.SelectorEventLoop(selector)
        own_time = made.time
        made.time = lambda: own_time() + selector.skipped_s
        return made

    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(story)


class _SkippingSelector(selectors.DefaultSelector):
    skipped_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout:
            self.skipped_s += max(timeout, 0.0)
            timeout = 0
        return super().select(timeout)
