"""Everything that a platform needs and does not compute itself, and its real adapters."""

import inspect
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from murmurate.adapters.fetcher import HttpFetcher
from murmurate.adapters.library import LibraryClient
from murmurate.adapters.logs import JsonLog, Seldom
from murmurate.adapters.minilm import DIMENSIONS, weights_folder
from murmurate.adapters.openai_http import OpenAIHttp
from murmurate.adapters.sandbox import SandboxClient
from murmurate.adapters.sqlite.damage import Damage
from murmurate.adapters.sqlite.log import SqliteLog
from murmurate.adapters.sqlite.telemetry import TelemetryStore
from murmurate.adapters.sqlite.writer import DiskFault
from murmurate.agents.ports import Sandbox
from murmurate.cache.ports import Shared
from murmurate.config import (
    Config,
    EmbeddingsConfig,
    EmbeddingsEngine,
    Engine,
    LogPlace,
    ModelConfig,
    Remote,
    log_place,
    redis_url,
    remote,
)
from murmurate.core.clock import Clock, SystemClock
from murmurate.core.errors import MissingPartError
from murmurate.core.fetch import Fetcher
from murmurate.core.ids import Ids, SystemChance
from murmurate.core.ports import Embedder, EventLog, Log, Tracer
from murmurate.core.reach import Reach
from murmurate.engines.ports import Engine as EnginePort
from murmurate.fleet.ends import TROUBLES, Trouble
from murmurate.gateway.scopes import OPERATOR_TENANT
from murmurate.knowledge.ports import Library
from murmurate.observe.sampling import Sampler
from murmurate.observe.spans import Recorder, SpanRecord

if TYPE_CHECKING:
    from murmurate.adapters.postgres.log import PostgresLog
    from murmurate.adapters.redis_answers import RedisAnswers


class Traces(Protocol):
    """Where finished spans can be read again."""

    async def spans(self, tenant: str, trace_id: str) -> Sequence[Any]:
        """Return the spans of a trace of that tenant; none when it is not known."""
        ...


class SharedAnswers(Shared, Protocol):
    """Answers that several servers share, and how well that goes."""

    hits: int
    misses: int


class LogCare(Protocol):
    """Knows and looks for damage in the log's file."""

    @property
    def damage(self) -> Sequence[object]:
        """What is known to be damaged or lost, one item a place."""
        ...

    @property
    def faults(self) -> int:
        """How often a write failed by the disk, or by a lost connection."""
        ...

    async def examine(self) -> None:
        """Read everything once, slowly, to find the rest."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """Everything that a running platform needs and does not compute itself.

    `log_care` looks after the log's file, where it has one.
    """

    clock: Clock
    ids: Ids
    runner: str
    """The name under which this server holds work; no other life of it has the same."""
    leads: bool = True
    """Whether it looks after the documents: of servers side by side, the first one does."""
    log: Log
    tracer: Tracer
    traces: Traces
    events: EventLog
    engines: Mapping[str, EnginePort]
    library: Library
    embedder: Embedder | None
    sandbox: Sandbox | None
    fetcher: Fetcher
    troubles: Callable[[], Mapping[str, Trouble]] = dict
    """Which of our processes do not work now, and why."""
    log_care: LogCare | None = None
    shared_answers: SharedAnswers | None = None
    close: Sequence[Callable[[], Any]] = ()


@dataclass(frozen=True, slots=True)
class Workers:
    """Where the other processes of this service listen."""

    engine_sockets: Mapping[str, str]
    engine_keys: Mapping[str, str]
    library: str
    sandbox: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server process stands: its state folder, its name as a runner, and its number."""

    state: Path
    runner: str
    number: int
    end: Callable[[str], object] = lambda _: None
    """Ends the process at once, closing nothing: closing would trust a disk that lost writes."""

    @property
    def events(self) -> Path:
        """The file of its events: a file that several processes rotate loses lines."""
        return self.state / ("server.log" if self.number == 0 else f"server-{self.number}.log")


async def outside(config: Config, place: Place, workers: Workers) -> Outside:
    """Return the real adapters of a server process."""
    state = place.state
    clock = SystemClock()
    ids = Ids(clock, SystemChance())
    telemetry = TelemetryStore(state / "telemetry.db")
    sampler = Sampler()

    def keep(span: SpanRecord) -> None:
        if sampler.keeps(span):
            telemetry.put(span)

    # Span ids need no secrecy, and a seeded generator makes them three times as fast.
    tracer = Recorder(clock=clock, ids=Ids(clock, random.Random()), sink=keep)  # noqa: S311
    library = _library(config.embeddings, workers, clock)
    sandbox = SandboxClient(workers.sandbox, clock=clock)
    fetcher = HttpFetcher(Reach.of(config.outgoing.allow, config.outgoing.ports))
    events = JsonLog(place.events, clock=clock)
    log = await _log(config, place, clock=clock, events=events)
    answers = open_redis(config, clock=clock, events=events)
    engines = {
        name: _engine(name, model, workers, clock=clock, tracer=tracer, ids=ids)
        for name, model in config.models.items()
    }
    return Outside(
        clock=clock,
        ids=ids,
        runner=place.runner,
        leads=place.number == 0,
        log=log,
        tracer=tracer,
        traces=telemetry,
        events=events,
        engines=engines,
        library=library,
        embedder=library if _has_embedder(config.embeddings) else None,
        sandbox=sandbox,
        fetcher=fetcher,
        troubles=lambda: read_troubles(state / TROUBLES),
        log_care=log,
        shared_answers=answers,
        close=(
            *(engine.close for engine in engines.values()),
            *(() if answers is None else (answers.close,)),
            *(part.close for part in (library, sandbox, fetcher, log, telemetry, events)),
        ),
    )


async def _log(
    config: Config, here: Place, *, clock: Clock, events: EventLog
) -> "SqliteLog | PostgresLog":
    """Open the log; what is done to its file is told to whoever watches the start, and kept."""
    state, seldom = here.state, Seldom(events, clock=clock)

    def damaged(damage: Damage) -> None:
        events.event("log.damaged", stream=damage.stream, tenant=damage.tenant, detail=str(damage))

    def tell(what: str) -> None:
        sys.stderr.write(f"murmurate: {what}\n")
        events.event("log.opened", detail=what)

    def failed(fault: DiskFault) -> None:
        seldom.event("log.fault", fault.detail)
        if fault.is_final:
            here.end(fault.detail)

    place = log_place(config.log)
    if place is None:
        path = state / "truth.db"
        return SqliteLog(path, clock=clock, on_damage=damaged, on_fault=failed, told=tell)
    log = await open_postgres(place, clock=clock, on_damage=damaged)
    events.event("log.opened", detail=log.name)
    if (state / "truth.db").exists() and await _is_new(log):
        tell(f"{log.name} is empty; `murmurate log copy {state} …` takes truth.db there")
    return log


async def _is_new(log: Log) -> bool:
    """Tell whether nobody has started on this log yet: the first start leaves a key in it."""
    async with aclosing(log.streams(OPERATOR_TENANT, "")) as names:
        async for _ in names:
            return False
    return True


async def open_postgres(
    place: LogPlace, *, clock: Clock, on_damage: Callable[[Damage], None]
) -> "PostgresLog":
    """Open the log in PostgreSQL, whose driver is loaded by nobody else.

    Raises:
        MissingPartError: The driver is not installed.
        LogNewerError: A newer version wrote the log.
        LogUnavailableError: The server is not there, refuses us, or is not as we need it.
    """
    try:
        from murmurate.adapters.postgres.database import Database  # noqa: PLC0415 - an extra
        from murmurate.adapters.postgres.log import PostgresLog  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as cause:
        raise MissingPartError(
            f"log.url needs {cause.name}, which is not installed: pip install 'murmurate[postgres]'"
        ) from cause
    database = Database(place.url, schema=place.schema, password=place.password)
    return await PostgresLog.open(database, clock=clock, on_damage=on_damage)


def open_redis(config: Config, *, clock: Clock, events: EventLog) -> "RedisAnswers | None":
    """Return the answers in Redis, where one is configured; nothing is asked of it yet.

    Raises:
        MissingPartError: The client is not installed.
    """
    url = redis_url(config.cache)
    if url is None:
        return None
    try:
        from murmurate.adapters.redis_answers import RedisAnswers  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as cause:
        raise MissingPartError(
            f"cache.redis_url needs {cause.name}, which is not installed:"
            " pip install 'murmurate[redis]'"
        ) from cause
    return RedisAnswers(url, clock=clock, events=events)


def read_troubles(path: Path) -> dict[str, Trouble]:
    """Return what the supervisor says of its processes; nothing where it says nothing."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Trouble])
    except (OSError, msgspec.DecodeError):
        return {}


def _library(embeddings: EmbeddingsConfig, workers: Workers, clock: Clock) -> LibraryClient:
    dimensions = _dimensions(embeddings)
    name = embeddings.name
    return LibraryClient(workers.library, clock=clock, embedder=name, dimensions=dimensions)


def _dimensions(embeddings: EmbeddingsConfig) -> int | None:
    is_own = embeddings.engine is EmbeddingsEngine.MINILM
    return DIMENSIONS if is_own else embeddings.dimensions


def _has_embedder(embeddings: EmbeddingsConfig) -> bool:
    """Whether there is an embedder: MiniLM is not offered where it is not installed."""
    match embeddings.engine:
        case EmbeddingsEngine.NONE:
            return False
        case EmbeddingsEngine.OPENAI:
            return True
        case EmbeddingsEngine.MINILM:
            try:
                weights_folder()
            except MissingPartError:
                return False
            return True


def _engine(
    name: str, model: ModelConfig, workers: Workers, *, clock: Clock, tracer: Tracer, ids: Ids
) -> OpenAIHttp:
    """Return the adapter of a model: to a worker of ours, or to the URL that the config names."""
    local = model.engine is not Engine.OPENAI
    here = Remote("http://engine/v1", workers.engine_keys[name]) if local else remote(model)
    return OpenAIHttp(
        name=model.upstream_name or name,
        remote=here,
        socket=workers.engine_sockets[name] if local else None,
        first_token_s=model.first_token_s,
        stall_s=model.stall_s,
        clock=clock,
        tracer=tracer,
        new_id=lambda: ids.new("call"),
    )


async def close(outside: Outside) -> None:
    """Close the adapters in order: first what asks, last what keeps."""
    for step in outside.close:
        result = step()
        if inspect.isawaitable(result):
            await result
