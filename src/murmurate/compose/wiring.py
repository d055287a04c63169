"""The stages, wired from the bottom up to the application that clients talk to."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from murmurate.accounts.prices import Price
from murmurate.accounts.service import Book
from murmurate.compose.batches import BatchWork, batches_of, files_of
from murmurate.compose.edge import Inside, gate_of, gateway
from murmurate.compose.keys import OpenedKeys
from murmurate.compose.opening import Outside
from murmurate.compose.path import chain
from murmurate.compose.platform import Platform
from murmurate.config import Config, KnowledgeConfig, Role, documents_path, webhook_keys
from murmurate.core.errors import NotFoundError
from murmurate.core.types import SessionRef
from murmurate.gateway.audit import Trail
from murmurate.gateway.responses.retention import ResponseRetention
from murmurate.gateway.scopes import OPERATOR_TENANT
from murmurate.gateway.service import Gateway
from murmurate.jobs.approvals import Approvals
from murmurate.jobs.batches.state import QUEUE as BATCHES
from murmurate.jobs.deadlines import DEADLINES, Deadlines
from murmurate.jobs.entries import ASKING
from murmurate.jobs.errands import Errand, Errands
from murmurate.jobs.hooks import Hooks
from murmurate.jobs.journal import OpenJournals
from murmurate.jobs.notices import HOOKS
from murmurate.jobs.repeats import REPEATS, Repeats
from murmurate.jobs.replay import Replays
from murmurate.jobs.retention import Retention, Sweep
from murmurate.jobs.runner import Runner
from murmurate.jobs.schedules import SCHEDULES, Schedules
from murmurate.jobs.service import Runs
from murmurate.knowledge.rules import Rules
from murmurate.knowledge.service import Collections, Source
from murmurate.observe.metrics import Metrics
from murmurate.sync.service import Sessions

STEPS_POLL_S = 0.1
STEPS_AT_A_TIME = 4
"""A step may hold some pieces of a file in memory."""


@dataclass(slots=True)
class Service:
    """A composed platform: the ASGI application, and what runs beside it."""

    app: Gateway
    platform: Platform
    collections: Collections
    runner: Runner
    errands: Sequence[Errands]
    schedules: Schedules
    approvals: Approvals
    retentions: Sequence[Retention | ResponseRetention]
    book: Book
    metrics: Metrics
    trail: Trail
    outside: Outside
    opened: OpenedKeys


def service(config: Config, outside: Outside, opened: OpenedKeys) -> Service:
    """Wire the stages from the bottom up."""
    # Over 50 lines: one stage after the other.
    metrics = Metrics()
    collections = collections_of(config, outside)
    journals = OpenJournals(outside.log)
    book = book_of(config, outside, tenants=opened.tenants)
    sessions = chain(config, outside, collections, metrics, book=book, journals=journals)
    runner = runner_of(config, outside, sessions, journals)
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
    approvals = approvals_of(config, outside, runner, opened=opened, metrics=metrics)
    platform = Platform(config, outside, sessions, collections, tenants=opened.tenants)
    files = files_of(config, outside)
    gate = gate_of(config, outside)
    work = batches_of(config, outside, platform, files=files, book=book, gate=gate)
    replays = Replays(
        sessions, journals, log=outside.log, ids=outside.ids, models=platform.chat_models
    )
    watch(metrics, runner, book, platform)
    trail = Trail(log=outside.log, clock=outside.clock, events=outside.events)
    retention = retention_of(
        config, outside, tenants=opened.tenants, sweeps=[files.sweep, work.batches.sweep]
    )
    inside = Inside(
        platform,
        runs,
        replays,
        schedules,
        files,
        work,
        approvals,
        book,
        metrics,
        archive=retention,
        trail=trail,
        gate=gate,
    )
    return Service(
        gateway(config, outside, opened, inside),
        platform,
        collections,
        runner,
        errands_of(outside, runner, hooks, schedules, approvals=approvals, work=work),
        schedules,
        approvals,
        (retention, response_retention_of(config, outside, tenants=opened.tenants)),
        book,
        metrics,
        trail,
        outside,
        opened,
    )


def runner_of(
    config: Config, outside: Outside, sessions: Sessions, journals: OpenJournals
) -> Runner:
    """Return who works on runs."""
    return Runner(
        sessions,
        journals,
        name=outside.runner,
        log=outside.log,
        clock=outside.clock,
        tracer=outside.tracer,
        events=outside.events,
        at_a_time=0 if config.server.role is Role.GATEWAY else config.runs.at_a_time,
    )


def watch(metrics: Metrics, runner: Runner, book: Book, platform: Platform) -> None:
    """Show what can be seen from outside of the parts that only count."""
    metrics.watch("murmurate_runs", "Runs worked on in the background.", lambda: runner.working)
    metrics.watch("murmurate_usage_lost", "Notes of usage without room.", lambda: book.lost)
    metrics.watch("murmurate_log_damaged", "Damaged or lost places.", platform.log_damaged)
    faults = "Writes to the log that failed by the disk, or by a lost connection."
    metrics.watch("murmurate_log_faults", faults, platform.log_faults)


def collections_of(config: Config, outside: Outside) -> Collections:
    """Return all documents, by collection."""
    return Collections(
        outside.library,
        log=outside.log,
        clock=outside.clock,
        tracer=outside.tracer,
        sources={name: source_of(k) for name, k in config.knowledge.items()},
    )


def book_of(config: Config, outside: Outside, *, tenants: Callable[[], Collection[str]]) -> Book:
    """Return who notes what is used, and what it costs."""
    prices = {
        name: Price.of_a_million(model.input_price, model.output_price, model.cached_input_price)
        for name, model in config.models.items()
    }
    embeddings = config.embeddings
    prices[embeddings.name] = Price.of_a_million(embeddings.input_price, 0)
    return Book(
        prices,
        log=outside.log,
        clock=outside.clock,
        events=outside.events,
        kept_days=config.accounts.kept_days,
        tenants=lambda: {OPERATOR_TENANT, *tenants()},
    )


def retention_of(
    config: Config,
    outside: Outside,
    *,
    tenants: Callable[[], Collection[str]],
    sweeps: Sequence[Sweep] = (),
) -> Retention:
    """Return who forgets the runs that ended long ago, and what else is old enough."""
    return Retention(
        log=outside.log,
        clock=outside.clock,
        events=outside.events,
        kept_s=config.runs.kept_days * 86_400,
        tenants=lambda: {OPERATOR_TENANT, *tenants()},
        sweeps=sweeps,
    )


def response_retention_of(
    config: Config, outside: Outside, *, tenants: Callable[[], Collection[str]]
) -> ResponseRetention:
    """Return who forgets the responses that were stored long ago."""
    return ResponseRetention(
        log=outside.log,
        clock=outside.clock,
        events=outside.events,
        kept_s=config.responses.kept_days * 86_400,
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


def approvals_of(
    config: Config, outside: Outside, runner: Runner, *, opened: OpenedKeys, metrics: Metrics
) -> Approvals:
    """Return where what agents ask for is decided; show what waits."""
    approvals = Approvals(
        runner,
        log=outside.log,
        clock=outside.clock,
        events=outside.events,
        own=config.approvals.own,
        tenants=lambda: {OPERATOR_TENANT, *opened.tenants()},
    )
    metrics.watch(
        "murmurate_approvals_waiting",
        "Runs that wait for an approval, of all servers.",
        lambda: approvals.waiting,
    )
    metrics.watch(
        "murmurate_approvals_oldest_seconds",
        "How long the question has waited that times out next.",
        lambda: approvals.oldest_s,
    )
    return approvals


def errands_of(
    outside: Outside,
    runner: Runner,
    hooks: Hooks,
    schedules: Schedules,
    *,
    approvals: Approvals,
    work: BatchWork,
) -> list[Errands]:
    """Return who does the small work of each queue."""
    deadlines = Deadlines(outside.log, outside.clock)
    queues: dict[str, Errand] = {
        HOOKS: hooks.deliver,
        DEADLINES: deadlines.end,
        SCHEDULES: schedules.fire,
        REPEATS: Repeats(outside.log, outside.clock).forget,
        ASKING: approvals.settle,
    }
    shared: dict[str, Any] = {"log": outside.log, "clock": outside.clock, "events": outside.events}
    small = [Errands(runner, errand, queue=queue, **shared) for queue, errand in queues.items()]
    # Steps of batches follow one another, and lines wait for the next one.
    steps = Errands(
        runner,
        work.coordinator.go_on,
        queue=BATCHES,
        poll_s=STEPS_POLL_S,
        at_a_time=STEPS_AT_A_TIME,
        **shared,
    )
    return [*small, steps]


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
