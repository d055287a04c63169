"""From a model's configuration to its engine: a worker of ours, or a pool of servers elsewhere."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from murmurate.adapters.openai_http import OpenAIHttp
from murmurate.config import (
    CONNECT_S,
    RETRIES,
    TOTAL_S,
    Config,
    ModelConfig,
    Remote,
    UpstreamPlace,
    upstreams,
)
from murmurate.core.clock import Clock
from murmurate.core.ids import Ids
from murmurate.core.ports import Tracer
from murmurate.engines.ports import Engine
from murmurate.observe.metrics import Metrics
from murmurate.router.breaker import State
from murmurate.router.failures import Failure
from murmurate.router.fallbacks import Chain, Fallbacks
from murmurate.router.pool import Standing
from murmurate.router.pooled import Pooled, Terms

_STATES = {State.CLOSED: 0, State.HALF_OPEN: 1, State.OPEN: 2}


@dataclass(frozen=True, slots=True)
class Means:
    """What every engine is given."""

    clock: Clock
    tracer: Tracer
    ids: Ids
    chance: Random


def engines_of(
    config: Config, *, sockets: Mapping[str, str], keys: Mapping[str, str], means: Means
) -> dict[str, Engine]:
    """Return the engine of each model; workers of ours listen on `sockets` and want `keys`."""
    return {
        name: pool_of(name, model, means=means)
        if model.engine.is_elsewhere
        else worker_of(name, model, socket=sockets[name], key=keys[name], means=means)
        for name, model in config.models.items()
    }


def worker_of(name: str, model: ModelConfig, *, socket: str, key: str, means: Means) -> OpenAIHttp:
    """Return the way to a process of ours."""
    return OpenAIHttp(
        name=name,
        remote=Remote("http://engine/v1", key),
        socket=socket,
        first_token_s=model.first_token_s,
        stall_s=model.stall_s,
        clock=means.clock,
        tracer=means.tracer,
        new_id=lambda: means.ids.new("call"),
    )


def pool_of(name: str, model: ModelConfig, *, means: Means) -> Pooled:
    """Return the way to a model elsewhere; a lone server is a pool, too."""
    places = upstreams(name, model)
    # Where there are others, those are asked, rather than the one that is not there again.
    patience_s = None if len(places) == 1 else 0.0
    return Pooled(
        name,
        [
            (it.label, it.weight, _upstream(it, model, patience_s=patience_s, means=means))
            for it in places
        ],
        terms=Terms(
            retries=RETRIES if model.retries is None else model.retries,
            total_s=model.total_s or TOTAL_S,
            hedge_s=model.hedge_s,
            hedge_quantile=model.hedge_quantile,
        ),
        clock=means.clock,
        tracer=means.tracer,
        chance=means.chance,
    )


def _upstream(
    place: UpstreamPlace, model: ModelConfig, *, patience_s: float | None, means: Means
) -> OpenAIHttp:
    return OpenAIHttp(
        name=place.name,
        remote=place.remote,
        socket=None,
        first_token_s=model.first_token_s,
        stall_s=model.stall_s,
        connect_s=model.connect_s or CONNECT_S,
        patience_s=patience_s,
        label=None if patience_s is None else place.label,
        clock=means.clock,
        tracer=means.tracer,
        new_id=lambda: means.ids.new("call"),
    )


def chains_of(config: Config) -> dict[str, Chain]:
    """Return which models stand in for which, and when."""
    return {
        name: Chain(model.fallbacks, frozenset(Failure(it.value) for it in model.fallback_on))
        for name, model in config.models.items()
        if model.fallbacks
    }


def watch_engines(metrics: Metrics, engines: Mapping[str, Engine]) -> None:
    """Show how each upstream does, and what is done beside asking once."""
    for model, engine in engines.items():
        if not isinstance(engine, Pooled):
            continue
        for number, standing in enumerate(engine.standings()):
            _watch_upstream(metrics, engine, number, model=model, upstream=standing.name)
        counts = engine.counts
        for name, text, read in (
            ("retries", "Requests that were tried again.", lambda it=counts: it.retries),
            ("retries_refused", "Retries over the budget.", lambda it=counts: it.retries_refused),
            ("hedges", "Second requests beside a slow one.", lambda it=counts: it.hedges),
            ("hedges_won", "Those that were faster.", lambda it=counts: it.hedges_won),
            ("hedge_tokens", "Prompts read for nothing.", lambda it=counts: it.hedge_tokens),
        ):
            metrics.watch(f"murmurate_upstream_{name}", text, read, model=model)


def _watch_upstream(
    metrics: Metrics, engine: Pooled, number: int, *, model: str, upstream: str
) -> None:
    def shown(name: str, text: str, read: Callable[[Standing], int]) -> None:
        metrics.watch(
            f"murmurate_upstream_{name}",
            text,
            lambda: read(engine.standings()[number]),
            model=model,
            upstream=upstream,
        )

    shown("requests", "Requests that were sent to it.", lambda it: it.asked)
    shown("failures", "Those that it failed at.", lambda it: it.failed)
    shown("outstanding", "Requests under way.", lambda it: it.outstanding)
    shown("breaker", "0: it is asked, 1: by a probe, 2: not.", lambda it: _STATES[it.state])


def watch_fallbacks(metrics: Metrics, fallbacks: Fallbacks) -> None:
    """Show how often another model answered."""
    for model in fallbacks.used:
        metrics.watch(
            "murmurate_fallbacks",
            "Answers of another model than the one that was asked for.",
            lambda model=model: fallbacks.used[model],
            model=model,
        )
