"""The gateway, with who answers behind each route."""

from dataclasses import dataclass

from murmurate.accounts.service import Book
from murmurate.compose.batches import BatchWork
from murmurate.compose.keys import OpenedKeys
from murmurate.compose.opening import Outside
from murmurate.compose.platform import Platform
from murmurate.config import Config, Role, listen_address
from murmurate.files.service import Files
from murmurate.gateway.administration import Administration
from murmurate.gateway.approvals import Decisions
from murmurate.gateway.audit import Trail
from murmurate.gateway.auditing import Auditing
from murmurate.gateway.background import Background
from murmurate.gateway.batches import BatchRoutes
from murmurate.gateway.completions import Completions, Embeddings
from murmurate.gateway.files import FileRoutes
from murmurate.gateway.management import Management
from murmurate.gateway.policy import Always, Gate, Rules, check_rules
from murmurate.gateway.quota import Rate
from murmurate.gateway.requests import Requests
from murmurate.gateway.responses.compaction import Compaction
from murmurate.gateway.responses.conversations import Conversations
from murmurate.gateway.responses.following import Following
from murmurate.gateway.responses.service import Responses
from murmurate.gateway.responses.store import Store
from murmurate.gateway.responses.stored import Stored
from murmurate.gateway.responses.talks import Talks
from murmurate.gateway.roles import Roles, check_issuers, roles_of
from murmurate.gateway.service import Gateway, Limits
from murmurate.gateway.surface import Handlers, ItemHandlers, scoped_routes
from murmurate.gateway.timetable import Timetable
from murmurate.gateway.tokenring import Tokens
from murmurate.gateway.usage import Usages
from murmurate.jobs.approvals import Approvals
from murmurate.jobs.replay import Replays
from murmurate.jobs.retention import Retention
from murmurate.jobs.schedules import Schedules
from murmurate.jobs.service import Runs
from murmurate.observe.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Inside:
    """What the gateway opens to clients."""

    platform: Platform
    runs: Runs
    replays: Replays
    schedules: Schedules
    files: Files
    work: BatchWork
    approvals: Approvals
    book: Book
    metrics: Metrics
    archive: Retention
    trail: Trail
    gate: Gate


def gate_of(config: Config, outside: Outside) -> Gate:
    """Return who says what each caller may do."""
    return Gate(Rules(config.policy.rules, outside.policy or Always(config.policy.default)))


def gateway(config: Config, outside: Outside, opened: OpenedKeys, inside: Inside) -> Gateway:
    """Return the application that clients talk to. `ConfigError`: a role or rule is none."""
    roles = roles_of(config.roles)
    check_issuers(config.auth, roles)
    limits = limits_of(config)
    handlers = handlers_of(config, outside, opened, inside, roles=roles)
    is_worker = config.server.role is Role.WORKER
    routes = scoped_routes(handlers)
    app = Gateway(
        handlers,
        routes=() if is_worker else routes,
        keys=opened.keys,
        tokens=Tokens(
            config.auth,
            outside.issuers,
            roles=roles,
            clock=outside.clock,
            events=outside.events,
        ),
        gate=inside.gate,
        trail=inside.trail,
        limits=limits,
        hosts={listen_address(config.server.listen)[0], *map(str.lower, config.server.hosts)},
        clock=outside.clock,
        ids=outside.ids,
        tracer=outside.tracer,
        meter=inside.metrics,
        log=outside.events,
    )
    check_rules(
        config.policy,
        roles=roles,
        routes=[f"{route.method} {route.path}" for route in routes],
        models=[*config.agents, *config.models, config.embeddings.name],
    )
    return app


def items_of(
    config: Config, outside: Outside, inside: Inside, *, requests: Requests
) -> ItemHandlers:
    """Return who answers in items."""
    store = Store(outside.log, runs=inside.runs, archive=inside.archive)
    conversations = Conversations(outside.log)
    following = Following(inside.runs)
    body_bytes_max = config.server.body_bytes_max
    responses = Responses(
        inside.runs,
        store=store,
        conversations=conversations,
        runs=inside.runs,
        following=following,
        requests=requests,
        body_bytes_max=body_bytes_max,
        clock=outside.clock,
        ids=outside.ids,
        meter=inside.metrics,
        log=outside.events,
    )
    stored = Stored(store, runs=inside.runs, following=following, clock=outside.clock)
    talks = Talks(conversations, store=store, ids=outside.ids, body_bytes_max=body_bytes_max)
    compaction = Compaction(
        inside.runs,
        store=store,
        requests=requests,
        body_bytes_max=body_bytes_max,
        clock=outside.clock,
        ids=outside.ids,
        meter=inside.metrics,
    )
    return ItemHandlers(responses, stored, talks, compaction)


def handlers_of(
    config: Config,
    outside: Outside,
    opened: OpenedKeys,
    inside: Inside,
    *,
    roles: Roles,
) -> Handlers:
    """Return who answers behind each route."""
    # Over 50 lines: one handler after the other.
    gate = inside.gate
    body_bytes_max = config.server.body_bytes_max
    embedders = {} if outside.embedder is None else {config.embeddings.name: outside.embedder}
    requests = Requests(platform=inside.platform, gate=gate, ledger=inside.book, ids=outside.ids)
    return Handlers(
        completions=Completions(
            inside.runs,
            requests=requests,
            body_bytes_max=body_bytes_max,
            clock=outside.clock,
            ids=outside.ids,
            meter=inside.metrics,
            log=outside.events,
        ),
        embeddings=Embeddings(
            embedders, gate=gate, ledger=inside.book, body_bytes_max=body_bytes_max
        ),
        management=Management(
            inside.platform,
            gate=gate,
            trail=inside.trail,
            meter=inside.metrics,
            body_bytes_max=body_bytes_max,
        ),
        administration=Administration(
            opened.keys,
            opened.registry,
            roles=roles,
            rate=limits_of(config).rate,
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
        items=items_of(config, outside, inside, requests=requests),
        files=FileRoutes(
            inside.files,
            file_bytes_max=config.files.file_bytes_max,
            upload_s=config.files.upload_s,
        ),
        batches=BatchRoutes(
            inside.work.batches, inside.work.endpoints, body_bytes_max=body_bytes_max
        ),
        decisions=Decisions(inside.approvals, trail=inside.trail),
        auditing=Auditing(inside.trail, clock=outside.clock),
        usages=Usages(inside.book, currency=config.accounts.currency, clock=outside.clock),
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
        compress_bytes_min=config.http.compress_bytes_min,
    )
