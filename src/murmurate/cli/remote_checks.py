"""Asks the other servers that the configuration names, side by side and each within its time."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial

import msgspec

from murmurate.adapters.openai_embedder import OpenAIEmbedder
from murmurate.adapters.openai_probe import Probe, Reply, listed
from murmurate.cli.access_checks import check_issuer, check_policy
from murmurate.cli.findings import NOTHING_TO_DO, OTHERS_VECTORS, Finding, Verdict
from murmurate.config import (
    Config,
    EmbeddingsConfig,
    ModelConfig,
    Remote,
    UpstreamPlace,
    remote,
    upstreams,
)
from murmurate.core.clock import SystemClock
from murmurate.core.errors import ConfigError, EngineUnreachableError, MurmurateError
from murmurate.workers.embedder import identity

SLOW_MS = 2000.0
SHOWN_MAX = 5
TEXT = "How many numbers has a vector?"
OFFLINE = "not asked (--offline)"

Check = Callable[[], Awaitable[Finding]]


@dataclass(frozen=True, slots=True)
class Subject:
    """What is looked at, for people, and the section of the configuration that says where it is."""

    about: str
    section: str

    def found(
        self, verdict: Verdict, detail: str, advice: str = "", *, ms: float | None = None
    ) -> Finding:
        """Return a finding about it."""
        return Finding(self.about, verdict, detail, advice, ms)


EMBEDDER = Subject("embeddings", "embeddings")


def checks(config: Config, *, embedded_by: str | None, timeout_s: float) -> dict[str, Check]:
    """Return what to ask whom. `embedded_by` is whose vectors the index has, where it has any."""
    found: dict[str, Check] = {}
    for name, model in config.models.items():
        if model.engine.is_elsewhere:
            found |= checks_of(name, model)
    embeddings = config.embeddings
    if embeddings.url is not None:
        # Half of it for one attempt: then there is time to say what went wrong.
        hasty = msgspec.structs.replace(
            embeddings, timeout_s=min(embeddings.timeout_s, timeout_s / 2)
        )
        found["embeddings"] = lambda: check_embedder(hasty, embedded_by)
    for name, issuer in config.auth.items():
        found[f"issuer {name}"] = lambda name=name, it=issuer: check_issuer(name, it, config)
    if config.policy.opa_url is not None:
        found["policy"] = lambda: check_policy(config.policy)
    return found


async def asked(
    checks: Mapping[str, Check], *, timeout_s: float, on_done: Callable[[str], None]
) -> list[Finding]:
    """Run all checks at once; the findings come in the order of the checks."""

    async def one(about: str, check: Check) -> Finding:
        try:
            async with asyncio.timeout(timeout_s):
                return await check()
        except TimeoutError:
            advice = "is it up? Does DNS answer, is a firewall between? --timeout gives it longer"
            return Finding(about, "fail", f"no answer within {timeout_s:g} s", advice)
        except MurmurateError as error:
            return Finding(about, "fail", error.detail, "correct this key")
        finally:
            on_done(about)

    return list(await asyncio.gather(*(one(about, check) for about, check in checks.items())))


def checks_of(name: str, model: ModelConfig) -> dict[str, Check]:
    """Return a check for each server that stands for a model."""
    try:
        places = upstreams(name, model)
    except ConfigError as error:
        wrong = Finding(f"model {name}", "fail", error.detail, "correct this key")
        return {wrong.about: partial(_known, wrong)}
    several = len(places) > 1
    subjects = {f"model {name} at {it.label}" if several else f"model {name}": it for it in places}
    return {
        about: partial(check_model, Subject(about, it.section), it, model)
        for about, it in subjects.items()
    }


async def _known(finding: Finding) -> Finding:
    return finding


async def check_model(subject: Subject, place: UpstreamPlace, model: ModelConfig) -> Finding:
    """Say whether a model elsewhere can be reached, takes the key, exists and is large enough."""
    upstream, reached = place.name, place.remote
    try:
        async with Probe(reached) as probe:
            reply = await probe.models()
            refused = judge_listing(subject, reached, reply)
            if refused is not None:
                return refused
            models = listed(reply)
            context_tokens = _context_of(upstream, models)
            if not _has(upstream, models):
                tried = await probe.one_token(upstream)
                if tried.status != 200:
                    return judge_model(subject, upstream, models, tried)
                reply = tried
            if context_tokens is None:
                context_tokens = await probe.props_tokens()
    except EngineUnreachableError as error:
        return judge_way(subject, reached.redacted(error.detail))
    model = msgspec.structs.replace(model, url=reached.url)
    return judge_context(subject, model, reply.ms, context_tokens)


async def check_embedder(config: EmbeddingsConfig, embedded_by: str | None) -> Finding:
    """Say whether the embedder gives vectors of the expected size, and whose the index has."""
    reached = remote(config)
    try:
        async with Probe(reached) as probe:
            reply = await probe.models()
    except EngineUnreachableError as error:
        return judge_way(EMBEDDER, reached.redacted(error.detail))
    refused = judge_listing(EMBEDDER, reached, reply)
    if refused is not None:
        return refused
    chance = random.Random()  # noqa: S311 - spreads retries, no secret
    embedder = OpenAIEmbedder(config, reached, clock=SystemClock(), chance=chance)
    began_s = time.perf_counter()
    try:
        made = await embedder.embed([TEXT])
    except MurmurateError as error:
        return EMBEDDER.found("fail", error.detail, f"models there: {_some(listed(reply))}")
    finally:
        await embedder.close()
    ms = (time.perf_counter() - began_s) * 1000
    return judge_vectors(config, len(made.vectors[0]), ms, embedded_by)


def judge_listing(subject: Subject, reached: Remote, reply: Reply) -> Finding | None:
    """Return what is wrong with the server itself; None: it is there and takes the key.

    A server without a list of models is none that is broken.
    """
    said, ms = f"{reply.status}: {reply.said.detail}", reply.ms
    if reply.status in (401, 403):
        what = "refuses the key" if reached.key is not None else "wants a key"
        detail = f"{what} ({reply.status})"
        return subject.found("fail", detail, f"check {subject.section}.key", ms=ms)
    if reply.status == 429:
        return subject.found("warn", f"is busy, {said}", "try later, or see the account", ms=ms)
    if reply.status >= 500:
        return subject.found("fail", f"answered {said}", "it is ill: see its own log", ms=ms)
    if 300 <= reply.status < 400:
        detail = f"answered {reply.status}: it has moved"
        return subject.found("fail", detail, f"check {subject.section}.url", ms=ms)
    return None


def judge_model(
    subject: Subject, upstream: str, models: Mapping[str, object] | None, tried: Reply
) -> Finding:
    """Return why a model that is not listed did not answer either."""
    if tried.status in (400, 404) and models:
        detail = f"there is no {upstream}; there are: {_some(models)}"
        return subject.found("fail", detail, f"set {subject.section}.upstream_name", ms=tried.ms)
    if tried.status in (404, 405):
        advice = f"check {subject.section}.url: it usually ends in /v1"
        return subject.found("fail", f"no such path ({tried.status})", advice, ms=tried.ms)
    said = f"{tried.status}: {tried.said.detail}"
    if tried.status in (401, 403):
        return subject.found("fail", f"refuses the key, {said}", f"check {subject.section}.key")
    if tried.status in (402, 429):
        return subject.found("warn", f"is busy, {said}", "try later, or see the account")
    advice = f"check {subject.section}.upstream_name"
    return subject.found("fail", f"answered {said}", advice, ms=tried.ms)


def judge_context(
    subject: Subject, model: ModelConfig, ms: float, context_tokens: int | None
) -> Finding:
    """Return that a model works, unless it is smaller than configured, or slow."""
    size = "context not told" if context_tokens is None else f"{context_tokens} tokens"
    detail = f"{model.url}, takes the key, {size}"
    asked_tokens = model.context_tokens
    if context_tokens is not None and asked_tokens is not None and asked_tokens > context_tokens:
        advice = (
            f"set {subject.section.partition('.upstreams')[0]}.context_tokens = {context_tokens}"
        )
        return subject.found("warn", f"{detail}, but {asked_tokens} configured", advice, ms=ms)
    if ms > SLOW_MS:
        return subject.found("warn", f"{detail}, slow", "is it far, or busy?", ms=ms)
    return subject.found("ok", detail, ms=ms)


def judge_vectors(
    config: EmbeddingsConfig, dimensions: int, ms: float, embedded_by: str | None
) -> Finding:
    """Return that the embedder works, and whether the index has to be made anew for it."""
    detail = f"{config.model} at {config.url}, {dimensions} numbers"
    if embedded_by and embedded_by != identity(config, dimensions):
        return EMBEDDER.found("warn", f"{detail}; {OTHERS_VECTORS}", NOTHING_TO_DO, ms=ms)
    if ms > SLOW_MS:
        return EMBEDDER.found("warn", f"{detail}, slow", "searches may go by words alone", ms=ms)
    return EMBEDDER.found("ok", detail, ms=ms)


def judge_way(subject: Subject, step: str) -> Finding:
    """Return at which step the way to a server ended, and what to look at."""
    section = subject.section
    advices = {
        "DNS": f"check the name in {section}.url, or the network",
        "not trusted": f"name its authority's certificate in {section}.ca_file",
        "TLS": f"check {section}.url: http or https?",
        "proxy": f"check {section}.proxy",
        "": f"is it running? Check {section}.url",
    }
    return subject.found("fail", step, next(advices[sign] for sign in advices if sign in step))


def _has(upstream: str, models: Mapping[str, object] | None) -> bool:
    """Say whether a model is listed; Ollama's names end in a tag that may be left out."""
    return models is not None and (upstream in models or f"{upstream}:latest" in models)


def _context_of(upstream: str, models: Mapping[str, int | None] | None) -> int | None:
    found = models or {}
    return found.get(upstream) or found.get(f"{upstream}:latest")


def _some(models: Mapping[str, object] | None) -> str:
    names = list(models or ())
    more = f" and {len(names) - SHOWN_MAX} more" if len(names) > SHOWN_MAX else ""
    return ", ".join(name[:100] for name in names[:SHOWN_MAX]) + more if names else "none"
