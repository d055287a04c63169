"""Config in, running platform out: the only place that names concrete classes.

`service()` wires the stages over whatever outside it is given: real adapters in a server
(`outside()`), fakes with a virtual clock in the simulation. Read the last lines of `chain()` first.
"""

# Over 400 lines: it names every concrete class once, and is read from top to bottom.

import asyncio
import inspect
import random
import re
import sys
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from murmurate.adapters.fetcher import HttpFetcher
from murmurate.adapters.files import write_private
from murmurate.adapters.library import LibraryClient
from murmurate.adapters.logs import JsonLog
from murmurate.adapters.minilm import DIMENSIONS, weights_folder
from murmurate.adapters.openai_http import OpenAIHttp
from murmurate.adapters.sandbox import SandboxClient
from murmurate.adapters.sqlite.damage import Damage
from murmurate.adapters.sqlite.log import SqliteLog
from murmurate.adapters.sqlite.telemetry import TelemetryStore
from murmurate.agents.ports import Sandbox
from murmurate.agents.service import Agents
from murmurate.agents.tools import built_in
from murmurate.cache.exact import ExactCache
from murmurate.cache.service import Cached, Policy
from murmurate.config import (
    Config,
    EmbeddingsConfig,
    EmbeddingsEngine,
    Engine,
    KnowledgeConfig,
    LogPlace,
    ModelConfig,
    Remote,
    documents_path,
    listen_address,
    log_place,
    remote,
    webhook_keys,
)
from murmurate.core.clock import Clock, SystemClock
from murmurate.core.errors import (
    MissingPartError,
    MurmurateError,
    NotFoundError,
)
from murmurate.core.fetch import Fetcher
from murmurate.core.ids import Ids
from murmurate.core.journal import Journals
from murmurate.core.ports import Embedder, EventLog, Log, Model, Tracer
from murmurate.core.reach import Reach
from murmurate.core.types import Caller, Citation, Passage, Request, SessionRef, Usage
from murmurate.engines.defaults import WithTemperature
from murmurate.engines.ports import Engine as EnginePort
from murmurate.fleet.ends import TROUBLES, Trouble
from murmurate.gateway.administration import Administration
from murmurate.gateway.background import Background
from murmurate.gateway.completions import Completions, Embeddings
from murmurate.gateway.keyring import Keys
from murmurate.gateway.keys import digest
from murmurate.gateway.management import Management
from murmurate.gateway.ports import Readiness
from murmurate.gateway.quota import Rate
from murmurate.gateway.registry import OnSecret, Registry
from murmurate.gateway.requests import Requests
from murmurate.gateway.scopes import OPERATOR_TENANT, is_operator
from murmurate.gateway.service import Gateway, Handlers, Limits
from murmurate.gateway.timetable import Timetable
from murmurate.jobs.deadlines import DEADLINES, Deadlines
from murmurate.jobs.errands import Errand, Errands
from murmurate.jobs.hooks import Hooks
from murmurate.jobs.journal import OpenJournals
from murmurate.jobs.notices import HOOKS
from murmurate.jobs.replay import Asked, Replays, is_replay
from murmurate.jobs.retention import Retention
from murmurate.jobs.runner import Runner
from murmurate.jobs.schedules import SCHEDULES, Schedules
from murmurate.jobs.service import Runs
from murmurate.knowledge.ports import Library
from murmurate.knowledge.quote import quote
from murmurate.knowledge.rules import Rules
from murmurate.knowledge.service import Collections, Source
from murmurate.observe.metrics import Metrics
from murmurate.observe.sampling import Sampler
from murmurate.observe.spans import Recorder, SpanRecord
from murmurate.router.lanes import Load, QueueLimits
from murmurate.router.service import Backend, Routed
from murmurate.sync.service import Sessions

if TYPE_CHECKING:
    from murmurate.adapters.postgres.log import PostgresLog

NOT_READ = "not read yet"
NOT_READABLE = "can't be read"
READY = "ready"
OTHER_DOCUMENTS = "documents of other tenants"
FIRST_PASS_WAIT_S = 2.0
FIRST_PASS_WAIT_S_MAX = 60.0
HEALTH_KEPT_S = 1.0
EXAMINE_EVERY_S = 24 * 3600.0
KEY_FORM = re.compile(r"mur_[A-Za-z0-9_-]{20,64}")
READY_WAIT_S = 60.0
"""How long /readyz waits for the first pass over the documents; after that it is ready without."""


class Traces(Protocol):
    """Where finished spans can be read again."""

    async def spans(self, tenant: str, trace_id: str) -> Sequence[Any]:
        """Return the spans of a trace of that tenant; none when it is not known."""
        ...


class LogCare(Protocol):
    """Knows and looks for damage in the log's file."""

    @property
    def damage(self) -> Sequence[object]:
        """What is known to be damaged or lost, one item a place."""
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
    close: Sequence[Callable[[], Any]] = ()


@dataclass(slots=True)
class Service:
    """A composed platform: the ASGI application, and what runs beside it."""

    app: Gateway
    platform: "Platform"
    collections: Collections
    runner: Runner
    errands: Sequence[Errands]
    schedules: Schedules
    retention: Retention
    metrics: Metrics
    outside: Outside
    opened: "OpenedKeys"


def service(config: Config, outside: Outside, opened: "OpenedKeys") -> Service:
    """Wire the stages from the bottom up."""
    metrics = Metrics()
    collections = collections_of(config, outside)
    journals = OpenJournals(outside.log)
    sessions = chain(config, outside, collections, metrics, journals=journals)
    runner = Runner(
        sessions,
        journals,
        name=outside.runner,
        log=outside.log,
        clock=outside.clock,
        tracer=outside.tracer,
        events=outside.events,
        at_a_time=config.runs.at_a_time,
    )
    hooks = hooks_of(config, outside)
    runs = Runs(
        sessions,
        runner,
        journals,
        log=outside.log,
        clock=outside.clock,
        ids=outside.ids,
        is_run=lambda request: request.session is not None and request.model in config.agents,
        hooks=hooks,
    )
    schedules = schedules_of(config, outside, sessions, tenants=opened.tenants)
    errands = errands_of(outside, runner, hooks=hooks, schedules=schedules)
    platform = Platform(config, outside, sessions, collections, tenants=opened.tenants)
    replays = Replays(
        sessions, journals, log=outside.log, ids=outside.ids, models=platform.chat_models
    )
    metrics.watch("murmurate_runs", "Runs worked on in the background.", lambda: runner.working)
    metrics.watch("murmurate_log_damaged", "Damaged or lost places.", platform.log_damaged)
    app = gateway(config, outside, opened, Inside(platform, runs, replays, schedules, metrics))
    return Service(
        app,
        platform,
        collections,
        runner,
        errands,
        schedules,
        retention_of(config, outside, tenants=opened.tenants),
        metrics,
        outside,
        opened,
    )


def collections_of(config: Config, outside: Outside) -> Collections:
    """Return all documents, by collection."""
    return Collections(
        outside.library,
        log=outside.log,
        clock=outside.clock,
        tracer=outside.tracer,
        sources={name: source_of(k) for name, k in config.knowledge.items()},
    )


def retention_of(
    config: Config, outside: Outside, *, tenants: Callable[[], Collection[str]]
) -> Retention:
    """Return who forgets the runs that ended long ago."""
    return Retention(
        log=outside.log,
        clock=outside.clock,
        events=outside.events,
        kept_s=config.runs.kept_days * 86_400,
        tenants=lambda: {OPERATOR_TENANT, *tenants()},
    )


def hooks_of(config: Config, outside: Outside) -> Hooks:
    """Return who tells of the ends of runs."""
    return Hooks(
        outside.fetcher,
        webhook_keys(config.webhooks),
        log=outside.log,
        clock=outside.clock,
        events=outside.events,
    )


def schedules_of(
    config: Config, outside: Outside, sessions: Sessions, *, tenants: Callable[[], Collection[str]]
) -> Schedules:
    """Return who begins runs at their times."""

    async def has_session(tenant: str, session_id: str) -> bool:
        try:
            await sessions.history(tenant, SessionRef(session_id))
        except NotFoundError:
            return False
        return True

    return Schedules(
        config.schedules,
        log=outside.log,
        clock=outside.clock,
        ids=outside.ids,
        events=outside.events,
        has_session=has_session,
        tenants=lambda: {OPERATOR_TENANT, *tenants()},
    )


def errands_of(
    outside: Outside, runner: Runner, *, hooks: Hooks, schedules: Schedules
) -> list[Errands]:
    """Return who does the small work of each queue."""
    deadlines = Deadlines(outside.log, outside.clock)
    queues: dict[str, Errand] = {
        HOOKS: hooks.deliver,
        DEADLINES: deadlines.end,
        SCHEDULES: schedules.fire,
    }
    shared: dict[str, Any] = {"log": outside.log, "clock": outside.clock, "events": outside.events}
    return [Errands(runner, errand, queue=queue, **shared) for queue, errand in queues.items()]


@dataclass(frozen=True, slots=True)
class Inside:
    """What the gateway opens to clients."""

    platform: "Platform"
    runs: Runs
    replays: Replays
    schedules: Schedules
    metrics: Metrics


def gateway(config: Config, outside: Outside, opened: "OpenedKeys", inside: Inside) -> Gateway:
    """Return the application that clients talk to."""
    limits = limits_of(config)
    body_bytes_max = config.server.body_bytes_max
    embedders = {} if outside.embedder is None else {config.embeddings.name: outside.embedder}
    requests = Requests(platform=inside.platform, ids=outside.ids)
    handlers = Handlers(
        completions=Completions(
            inside.runs,
            requests=requests,
            body_bytes_max=body_bytes_max,
            clock=outside.clock,
            ids=outside.ids,
            meter=inside.metrics,
            log=outside.events,
        ),
        embeddings=Embeddings(embedders, body_bytes_max=body_bytes_max),
        management=Management(inside.platform, meter=inside.metrics, body_bytes_max=body_bytes_max),
        administration=Administration(
            opened.keys,
            opened.registry,
            rate=limits.rate,
            clock=outside.clock,
            ids=outside.ids,
            on_secret=opened.on_secret,
        ),
        background=Background(
            inside.runs,
            replays=inside.replays,
            requests=requests,
            body_bytes_max=body_bytes_max,
        ),
        timetable=Timetable(inside.schedules),
    )
    return Gateway(
        handlers,
        keys=opened.keys,
        limits=limits,
        hosts={listen_address(config.server.listen)[0], *map(str.lower, config.server.hosts)},
        clock=outside.clock,
        ids=outside.ids,
        tracer=outside.tracer,
        meter=inside.metrics,
        log=outside.events,
    )


def limits_of(config: Config) -> Limits:
    """Return what a client may ask of the gateway at most."""
    limit = config.limits["default"]
    return Limits(
        requests_max=config.server.requests_max,
        rate=Rate(per_s=limit.requests_per_minute / 60, burst=limit.burst),
        body_s=config.http.body_s,
        write_s=config.http.unread_s,
        bodies_bytes_max=config.http.bodies_bytes_max,
    )


def source_of(knowledge: KnowledgeConfig) -> Source:
    """Return where a collection's documents are, and which files are documents."""
    rules = Rules(
        include=knowledge.include,
        exclude=knowledge.exclude,
        files_max=knowledge.files_max,
        file_bytes_max=knowledge.file_bytes_max,
    )
    folder = str(documents_path(knowledge.folder))
    return Source(folder, rules, watch=knowledge.watch, tenants=knowledge.tenants)


def chain(
    config: Config,
    outside: Outside,
    collections: Collections,
    metrics: Metrics,
    *,
    journals: Journals,
) -> Sessions:
    """Return the request path. Outermost what a client meets first, innermost the engines."""

    def metered(request: Request, usage: Usage) -> None:
        metrics.tokens(request.model, usage.tokens_in, usage.tokens_out)

    clock, tracer = outside.clock, outside.tracer
    cache = config.cache
    store = ExactCache(ttl_s=cache.ttl_s, entries_max=cache.entries_max, bytes_max=cache.bytes_max)
    queue = QueueLimits(config.router.urgent_queue_max, config.router.batch_queue_max)
    tools = built_in(collections, outside.sandbox, tracer)
    backends = _backends(config, outside)
    routed = Routed(backends, queue=queue, clock=clock, tracer=tracer, on_usage=metered)
    for name in backends:
        watch_load(metrics, routed, name)
    watch_cache(metrics, store)

    def cached(below: Model, policy: Policy) -> Cached:
        def but_no_replay(request: Request) -> str | None:
            return None if is_replay(journals, request) else policy(request)

        return Cached(below, store=store, clock=clock, tracer=tracer, policy=but_no_replay)

    plain = cached(Asked(routed, journals), lambda r: plain_policy(config, r))
    agents = Agents(
        plain,
        agents=config.agents,
        tools=tools,
        quoter=_citation,
        journals=journals,
        tracer=tracer,
    )
    answers = cached(agents, lambda r: agent_policy(config, collections, r))
    return Sessions(
        answers,
        log=outside.log,
        journals=journals,
        clock=clock,
        ids=outside.ids,
        tracer=tracer,
        writer=outside.runner[-8:],
    )


def _backends(config: Config, outside: Outside) -> dict[str, Backend]:
    return {
        name: Backend(_tempered(engine, config.models[name]), config.models[name].slots)
        for name, engine in outside.engines.items()
    }


def _tempered(engine: Model, model: ModelConfig) -> Model:
    return engine if model.temperature is None else WithTemperature(engine, model.temperature)


def watch_load(metrics: Metrics, routed: Routed, model: str) -> None:
    """Show how many requests of a model run and wait."""
    shown: dict[str, Callable[[Load], int]] = {
        "running": lambda load: load.running,
        "urgent_waiting": lambda load: load.urgent_waiting,
        "batch_waiting": lambda load: load.batch_waiting,
    }
    for state, read in shown.items():
        metrics.watch(
            "murmurate_model_requests",
            "Requests of a model, by state.",
            lambda read=read: read(routed.loads()[model]),
            model=model,
            state=state,
        )


def watch_cache(metrics: Metrics, store: ExactCache) -> None:
    """Show how well the cache does, and what it takes."""
    metrics.watch("murmurate_cache_hits", "Answers from the cache.", lambda: store.counts.hits)
    metrics.watch("murmurate_cache_misses", "Answers not in it.", lambda: store.counts.misses)
    metrics.watch("murmurate_cache_bytes", "Memory of the cache.", lambda: store.size_bytes)


def plain_policy(config: Config, request: Request) -> str | None:
    """Cache a model's answer only where asking again would give the same: at temperature 0."""
    temperature = request.sampling.temperature
    if temperature is None:
        temperature = config.models[request.model].temperature
    return "" if temperature == 0 else None


def agent_policy(config: Config, collections: Collections, request: Request) -> str | None:
    """An agent's answer holds as long as its documents; plain models are cached further in."""
    agent = config.agents.get(request.model)
    if agent is None:
        return None
    if agent.knowledge and config.server.workers > 1:
        return None  # another server may read new documents, and this one does not hear of it
    inner = msgspec.structs.replace(request, model=agent.model)
    if plain_policy(config, inner) is None:
        return None
    return collections.version(request.tenant, agent.knowledge)


def _citation(question: str, passages: Sequence[Passage]) -> Citation | None:
    """Return the quotation that answers, as the agents' `Quoter`."""
    found = quote(question, passages)
    return None if found is None else found.citation


class Platform:
    """Answers questions about the service itself (the gateway's `Platform` port)."""

    def __init__(
        self,
        config: Config,
        outside: Outside,
        sessions: Sessions,
        collections: Collections,
        *,
        tenants: Callable[[], Collection[str]] = tuple,
    ) -> None:
        """`tenants` says who has keys: they may have documents that are configured no more."""
        self._config = config
        self._tenants = tenants
        self._outside = outside
        self._sessions = sessions
        self._collections = collections
        self._began_s = outside.clock.now_s()
        self._healthy: dict[str, bool] = {}
        self._healthy_until_s = 0.0
        begins = NOT_READ if outside.leads else READY
        self._first_pass: dict[str, str] = dict.fromkeys(config.knowledge, begins)

    def chat_models(self, tenant: str) -> Sequence[str]:
        """Return agents first, then models; no agent that answers from what is not the tenant's."""
        own = set(self._collections_of(tenant))
        agents = (name for name, it in self._config.agents.items() if own.issuperset(it.knowledge))
        return [*agents, *self._outside.engines]

    def models(self, tenant: str) -> Sequence[str]:
        """Return every name, embedders last."""
        embedders = [] if self._outside.embedder is None else [self._config.embeddings.name]
        return [*self.chat_models(tenant), *embedders]

    def _collections_of(self, tenant: str) -> list[str]:
        return [name for name, it in self._config.knowledge.items() if tenant in it.tenants]

    async def readiness(self) -> Readiness:
        """Ready: every local engine answers, and the documents have been read, or tried to be."""
        parts: dict[str, str] = {}
        ready = True
        for name, healthy in (await self._engines_healthy()).items():
            parts[f"model {name}"] = READY if healthy else "not reachable"
            ready = ready and healthy
        waiting = self._outside.clock.now_s() - self._began_s < READY_WAIT_S
        for name, state in self._first_pass.items():
            if OPERATOR_TENANT in self._config.knowledge[name].tenants:
                parts[f"documents {name}"] = state
            elif parts.get(OTHER_DOCUMENTS, READY) == READY:  # anybody may read this: no names
                parts[OTHER_DOCUMENTS] = state if state in {READY, NOT_READ} else NOT_READABLE
            ready = ready and (state != NOT_READ or not waiting)
        # It says how many places, never whose: /readyz is open to everybody. All else is served.
        damaged = self.log_damaged()
        parts["log"] = f"{damaged} places are damaged: murmurate doctor" if damaged else READY
        # What does not need them is served all the same, so they are said and no reason to be not.
        troubles = {f"process {name}": t for name, t in self._outside.troubles().items()}
        parts |= {name: trouble.how for name, trouble in troubles.items()}
        here = {
            name: f"{trouble.how}; its last words: {trouble.words}"
            for name, trouble in troubles.items()
            if trouble.words
        }
        return Readiness(ready, parts, here)

    def log_damaged(self) -> int:
        """Return how many places of the log are known to be damaged."""
        return 0 if self._outside.log_care is None else len(self._outside.log_care.damage)

    async def examine_log(self) -> None:
        """Look for damage in the log, once a day, as long as the service runs."""
        care = self._outside.log_care
        while care is not None:
            try:
                await care.examine()
            except MurmurateError as error:
                self._outside.events.event("log.not_examined", detail=str(error))
            await self._outside.clock.sleep(EXAMINE_EVERY_S)

    async def _engines_healthy(self) -> dict[str, bool]:
        """Ask our own engines, at most once a second: /readyz is open to everybody.

        A remote upstream is left alone: its outage is not ours to be restarted for.
        """
        now_s = self._outside.clock.now_s()
        if now_s >= self._healthy_until_s:
            local = {
                name: engine
                for name, engine in self._outside.engines.items()
                if self._config.models[name].engine is not Engine.OPENAI
            }
            well = await asyncio.gather(*(engine.health() for engine in local.values()))
            self._healthy = dict(zip(local, well, strict=True))
            # A bad word is not kept: whoever waits for readiness asks again soon.
            self._healthy_until_s = now_s + (HEALTH_KEPT_S if all(well) else 0.0)
        return self._healthy

    async def trace(self, tenant: str, trace_id: str) -> Sequence[Any]:
        """Return the spans of one of the tenant's traces."""
        spans = await self._outside.traces.spans(tenant, trace_id)
        if not spans:
            raise NotFoundError(f"there is no trace {trace_id[:64]!r}")
        return spans

    async def session(self, tenant: str, session_id: str) -> Sequence[Any]:
        """Return the newest messages of one of the tenant's sessions."""
        return await self._sessions.history(tenant, SessionRef(session_id))

    async def knowledge(self, caller: Caller) -> Sequence[Any]:
        """Return the state of every collection of the tenant; the index's size to operators."""
        found = await self._collections.status(caller.tenant)
        if is_operator(caller):
            return found
        return [msgspec.structs.replace(it, index_bytes=None) for it in found]

    async def ingest(
        self, tenant: str, collections: Sequence[str], *, paths: Sequence[str] = ()
    ) -> AsyncGenerator[Any]:
        """Read the tenant's folders again and say how far it is."""
        names = [*collections, *(self._holder(tenant, path) for path in paths)]
        for name in self._own(tenant, dict.fromkeys(names)):
            async with aclosing(self._collections.sync(tenant, name)) as steps:
                async for step in steps:
                    yield step

    async def search(
        self, tenant: str, collections: Sequence[str], question: str, *, limit: int
    ) -> Sequence[Any]:
        """Return the passages of documents that may answer, best first; no names: of all."""
        names = list(self._own(tenant, dict.fromkeys(collections)))
        return await self._collections.search(tenant, names, question, limit=limit)

    def _own(self, tenant: str, collections: Collection[str]) -> Collection[str]:
        """Return the collections, when they are the tenant's; none means all that are."""
        own = self._collections_of(tenant)
        for name in collections:
            if name not in own:
                known = ", ".join(own) or "none is configured"
                raise NotFoundError(f"there is no collection {name!r}; there are: {known}")
        return collections or own

    def _holder(self, tenant: str, path: str) -> str:
        """Return the tenant's collection that has this path in its folder; no file is looked at."""
        for name in self._collections_of(tenant):
            if Path(path).is_relative_to(documents_path(self._config.knowledge[name].folder)):
                return name
        raise NotFoundError(
            f"{path}: no collection's folder has it; put it into one, or configure its folder "
            "as [knowledge.NAME] folder = …"
        )

    async def follow(self) -> None:
        """Read every collection, then again whenever its folder changes, until cancelled."""
        tenants = {tenant for it in self._config.knowledge.values() for tenant in it.tenants}
        for tenant in sorted({OPERATOR_TENANT, *tenants, *self._tenants()}):
            try:
                for name in await self._collections.forget_removed(tenant):
                    self._outside.events.event("ingest.removed", collection=name)
            except MurmurateError as error:
                self._outside.events.event("ingest.failed", collection="", detail=str(error))
        async with asyncio.TaskGroup() as following:
            for name in self._first_pass:
                following.create_task(self._follow(name))

    async def _follow(self, name: str) -> None:
        await self._read_first(name)
        async with asyncio.TaskGroup() as watches:
            for tenant in self._config.knowledge[name].tenants:
                watches.create_task(self._watch(tenant, name))

    async def _watch(self, tenant: str, name: str) -> None:
        watch = self._collections.watch(tenant, name)
        while watch is not None:
            try:
                await watch.run()
            except Exception as fault:  # noqa: BLE001 - one that nobody foresaw ends no watch
                detail = f"fault: {type(fault).__name__}"
                self._outside.events.event("ingest.failed", collection=name, detail=detail)
                await self._outside.clock.sleep(FIRST_PASS_WAIT_S_MAX)

    async def first_pass(self) -> None:
        """Read every collection once at start, side by side: a fault in one stops no other."""
        async with asyncio.TaskGroup() as passes:
            for name in self._first_pass:
                passes.create_task(self._read_first(name))

    async def _read_first(self, name: str) -> None:
        """Read a collection; note a fault and try again, less often each time."""
        wait_s = FIRST_PASS_WAIT_S
        while self._first_pass[name] != READY:
            try:
                for tenant in self._config.knowledge[name].tenants:
                    async with aclosing(self.ingest(tenant, [name])) as steps:
                        async for _ in steps:
                            pass
                self._first_pass[name] = READY
            except MurmurateError as error:
                self._first_pass[name] = str(error)
            except Exception as fault:  # noqa: BLE001 - one that nobody foresaw must be seen, too
                self._first_pass[name] = f"fault: {type(fault).__name__}"
            if self._first_pass[name] != READY:
                state = self._first_pass[name]
                self._outside.events.event("ingest.failed", collection=name, detail=state)
                await self._outside.clock.sleep(wait_s)
                wait_s = min(wait_s * 2, FIRST_PASS_WAIT_S_MAX)


@dataclass(frozen=True, slots=True)
class OpenedKeys:
    """The keys at hand, where they are changed, and who hears of new secrets."""

    keys: Keys
    registry: Registry
    on_secret: OnSecret

    def tenants(self) -> set[str]:
        """Return who has keys."""
        return {key.record.tenant for key in self.keys.all()}


async def open_keys(
    log: Log, clock: Clock, ids: Ids, *, first_key: Path, events: EventLog
) -> OpenedKeys:
    """Read all keys; where none manages all others, make one and leave it in `first_key` (0600).

    So too where that file is lost: who owns the folder must get in, and the old key stays good for
    whoever still has it. The file follows when the secret that it holds is rotated. A damaged key
    locks out its owner alone; where none is left that manages the others, that is a
    `LogCorruptError` and no new key: it would open what the old ones protected. A file without any
    key in the log is one whose log was lost, or was not written yet: its owner keeps it.
    """
    keys = Keys(clock=clock)
    registry = Registry(keys, log=log, clock=clock, ids=ids)
    damaged = await registry.open()
    if damaged and not registry.has_operator():
        raise damaged[0]

    def keep(_: str, secret: str) -> None:
        _keep(first_key, secret)

    if registry.has_operator() and not first_key.exists():  # noqa: ASYNC240 - once, at the start
        await registry.replace_lost(keep)
    kept = None if len(keys) or damaged else _kept_key(first_key)
    await registry.ensure_operator(keep, kept=kept)

    def follow_rotation(old_sha256: str, secret: str) -> None:
        try:
            if digest(first_key.read_text(encoding="utf-8").strip()) == old_sha256:
                _keep(first_key, secret)
        except (OSError, UnicodeDecodeError) as cause:
            # The rotation stands, and its caller has the secret: only this convenience is lost.
            events.event("keys.file_not_written", file=str(first_key), detail=str(cause))

    return OpenedKeys(keys, registry, follow_rotation)


def _keep(file: Path, secret: str) -> None:
    write_private(file, secret.encode() + b"\n")


def _kept_key(file: Path) -> str | None:
    """Return the key that stands in the file, if there is one of ours."""
    try:
        found = file.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        return None
    return found if KEY_FORM.fullmatch(found) else None


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

    @property
    def events(self) -> Path:
        """The file of its events: a file that several processes rotate loses lines."""
        return self.state / ("server.log" if self.number == 0 else f"server-{self.number}.log")


async def outside(config: Config, place: Place, workers: Workers) -> Outside:
    """Return the real adapters of a server process."""
    state = place.state
    clock = SystemClock()
    ids = Ids(clock, random.SystemRandom())
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
    log = await _log(config, state, clock=clock, events=events)
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
        close=(
            *(engine.close for engine in engines.values()),
            library.close,
            sandbox.close,
            fetcher.close,
            log.close,
            telemetry.close,
            events.close,
        ),
    )


async def _log(
    config: Config, state: Path, *, clock: Clock, events: EventLog
) -> "SqliteLog | PostgresLog":
    """Open the log; what is done to its file is told to whoever watches the start, and kept."""

    def damaged(damage: Damage) -> None:
        events.event("log.damaged", stream=damage.stream, tenant=damage.tenant, detail=str(damage))

    def tell(what: str) -> None:
        sys.stderr.write(f"murmurate: {what}\n")
        events.event("log.opened", detail=what)

    place = log_place(config.log)
    if place is None:
        return SqliteLog(state / "truth.db", clock=clock, on_damage=damaged, told=tell)
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
