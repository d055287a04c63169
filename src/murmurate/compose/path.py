"""The request path: stage over stage, down to the engines. Read the last lines first."""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path

import msgspec

from murmurate.accounts.service import Book
from murmurate.agents.service import Agents
from murmurate.agents.tools import built_in
from murmurate.cache.exact import ExactCache
from murmurate.cache.ports import Shared
from murmurate.cache.service import Cached, Policy
from murmurate.compose.opening import Outside, SharedAnswers
from murmurate.config import Config, ModelConfig, weights_path
from murmurate.core.journal import Journals
from murmurate.core.ports import Model
from murmurate.core.types import Citation, Passage, Request, Usage
from murmurate.engines.defaults import WithTemperature
from murmurate.jobs.replay import Asked, is_replay
from murmurate.knowledge.quote import quote
from murmurate.knowledge.service import Collections
from murmurate.observe.metrics import Metrics
from murmurate.router.lanes import Load, QueueLimits
from murmurate.router.service import Backend, Routed
from murmurate.sync.service import Sessions

MARK_BYTES = 1024 * 1024
"""So much of a model's file tells it from others: its settings, its words, its first weights."""


def chain(
    config: Config,
    outside: Outside,
    collections: Collections,
    metrics: Metrics,
    *,
    book: Book,
    journals: Journals,
) -> Sessions:
    """Return the request path. Outermost what a client meets first, innermost the engines."""
    clock, tracer = outside.clock, outside.tracer
    cache = config.cache
    store = ExactCache(ttl_s=cache.ttl_s, entries_max=cache.entries_max, bytes_max=cache.bytes_max)
    watch_cache(metrics, store, outside.shared_answers)
    tools = built_in(collections, outside.sandbox, tracer)
    routed = routed_by(config, outside, metrics, book)

    def cached(below: Model, policy: Policy, shared: Shared | None = None) -> Cached:
        def but_no_replay(request: Request) -> str | None:
            return None if is_replay(journals, request) else policy(request)

        return Cached(
            below, store=store, shared=shared, clock=clock, tracer=tracer, policy=but_no_replay
        )

    marks = {name: mark(model) for name, model in config.models.items()}
    plain = cached(
        Asked(routed, journals),
        lambda r: None if plain_policy(config, r) is None else marks[r.model],
        outside.shared_answers,
    )
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


def routed_by(config: Config, outside: Outside, metrics: Metrics, book: Book) -> Routed:
    """Return the router over all engines; what they use is counted and written into the book."""

    def metered(request: Request, usage: Usage) -> None:
        metrics.tokens(request.model, usage.tokens_in, usage.tokens_out)
        book.used(request.tenant, request.key, request.model, usage)

    routed = Routed(
        _backends(config, outside),
        queue=QueueLimits(config.router.urgent_queue_max, config.router.batch_queue_max),
        clock=outside.clock,
        tracer=outside.tracer,
        on_usage=metered,
    )
    for name in outside.engines:
        watch_load(metrics, routed, name)
    return routed


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


def watch_cache(metrics: Metrics, store: ExactCache, shared: SharedAnswers | None = None) -> None:
    """Show how well the cache does, and what it takes."""
    metrics.watch("murmurate_cache_hits", "Answers from the cache.", lambda: store.counts.hits)
    metrics.watch("murmurate_cache_misses", "Answers not in it.", lambda: store.counts.misses)
    metrics.watch("murmurate_cache_bytes", "Memory of the cache.", lambda: store.size_bytes)
    if shared is not None:
        name, text = "murmurate_cache_shared", "Answers looked for in the shared cache, by outcome."
        metrics.watch(name, text, lambda: shared.hits, outcome="hit")
        metrics.watch(name, text, lambda: shared.misses, outcome="miss")


def mark(model: ModelConfig) -> str:
    """Return what another server's model of that name must have in common to answer alike."""
    begin = b""
    size = 0
    for path in (model.weights and weights_path(model.weights), model.rules and Path(model.rules)):
        if path and path.is_file():
            size = path.stat().st_size
            with path.open("rb") as file:
                begin = file.read(MARK_BYTES)
    facts = (model.engine, model.url, model.upstream_name, model.temperature, size)
    return blake2b(msgspec.json.encode(facts) + begin, digest_size=16).hexdigest()


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
