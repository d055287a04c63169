"""Each way in which another server can be wrong has a line of its own that says what to do."""

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from murmurate.cli.findings import Finding
from murmurate.cli.remote_checks import (
    EMBEDDER,
    SLOW_MS,
    Subject,
    asked,
    checks,
    judge_context,
    judge_vectors,
)
from murmurate.config import Config, EmbeddingsConfig, ModelConfig, parse
from murmurate.workers.embedder import identity
from tests.adapters.remote_server import (
    EmbeddingServer,
    Handler,
    aborting,
    refusing,
    server,
    silent,
)

KEY = "sk-secret-1"
TLS = Path(__file__).parents[1] / "fixtures" / "tls"


class Upstream:
    """Lists models and answers questions with a token, as each test wants it."""

    def __init__(
        self, listing: Any, *, answer: int = 200, said: str = "no", props: Any = None
    ) -> None:
        self.listing, self.answer, self.said, self.props = listing, answer, said, props
        self.asked: list[str] = []

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return web.json_response({"error": {"message": f"bad key {KEY}"}}, status=401)
        if request.path == "/props" and self.props is not None:
            return web.json_response(self.props)
        if request.path == "/v1/models" and self.listing is not None:
            return web.json_response(self.listing)
        if request.path == "/v1/chat/completions":
            return web.json_response({"error": {"message": self.said}}, status=self.answer)
        return web.Response(status=404)


def listing(**facts: Any) -> dict[str, Any]:
    return {"object": "list", "data": [{"id": "other"}, {"id": "big-1", **facts}]}


def config_at(url: str, **sections: Any) -> Config:
    model = {"url": url, "key": "env:BIG_KEY", "upstream_name": "big-1"}
    named = {"models": {"big": {**model, **sections.pop("model", {})}}, **sections}
    return parse(named)


def found(
    handler: Handler,
    config: Callable[[str], Config] = config_at,
    *,
    tls: bool = False,
    timeout_s: float = 5.0,
    embedded_by: str | None = None,
) -> list[Finding]:
    """Return the findings about the other servers that the configuration names."""

    async def run() -> list[Finding]:
        context = None
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(TLS / "server.pem")
        async with server(handler, tls=context) as url:
            all_checks = checks(config(url), embedded_by=embedded_by, timeout_s=timeout_s)
            done: list[str] = []
            result = await asked(all_checks, timeout_s=timeout_s, on_done=done.append)
            assert sorted(done) == sorted(all_checks)
            return result

    return asyncio.run(run())


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIG_KEY", KEY)


# Models.


@pytest.mark.parametrize(
    ("upstream", "words"),
    [
        (Upstream(listing(max_model_len=8192)), "takes the key, 8192 tokens"),
        (Upstream(listing(context_length=4096)), "4096 tokens"),
        (Upstream(listing(context_window=4096)), "4096 tokens"),
        (Upstream(listing(max_context_length=4096)), "4096 tokens"),
        (Upstream(listing(meta={"n_ctx_train": 2048})), "2048 tokens"),
        (
            Upstream(listing(), props={"default_generation_settings": {"n_ctx": 512}}),
            "512 tokens",
        ),
        (Upstream(listing()), "context not told"),
        (Upstream({"data": [{"id": "big-1:latest"}]}), "takes the key"),
        (Upstream({"data": []}), "takes the key"),
        (Upstream(None), "takes the key"),
        (Upstream(["strange"]), "takes the key"),
    ],
)
def test_a_model_that_answers_is_fine_whatever_its_server_tells(
    upstream: Upstream, words: str
) -> None:
    [finding] = found(upstream)
    assert (finding.about, finding.verdict) == ("model big", "ok")
    assert words in finding.detail
    assert finding.ms is not None


def test_a_listed_model_costs_no_token() -> None:
    upstream = Upstream(listing(max_model_len=1))
    found(upstream)
    assert upstream.asked == ["/v1/models"]


@pytest.mark.parametrize(
    ("handler", "verdict", "detail", "advice"),
    [
        (
            Upstream({"data": [{"id": "a"}, {"id": "b"}]}, answer=404),
            "fail",
            "there is no big-1; there are: a, b",
            "set models.big.upstream_name",
        ),
        (
            Upstream({"data": [{"id": f"m{at}"} for at in range(9)]}, answer=404),
            "fail",
            "m0, m1, m2, m3, m4 and 4 more",
            "upstream_name",
        ),
        (Upstream(None, answer=404), "fail", "no such path (404)", "it usually ends in /v1"),
        (Upstream(None, answer=400, said=f"no {KEY}"), "fail", "400: no [hidden]", "upstream_nam"),
        (Upstream(None, answer=403), "fail", "refuses the key, 403", "check models.big.key"),
        (
            Upstream(None, answer=429, said="quota"),
            "warn",
            "is busy, 429: quota",
            "see the account",
        ),
        (refusing(401, KEY), "fail", "refuses the key (401)", "check models.big.key"),
        (refusing(403, "{}"), "fail", "refuses the key (403)", "check models.big.key"),
        (refusing(429, "slow down"), "warn", "is busy, 429: slow down", "try later"),
        (refusing(500, f"boom {KEY}"), "fail", "answered 500: boom [hidden]", "see its own log"),
        (refusing(301, ""), "fail", "answered 301: it has moved", "check models.big.url"),
        (aborting, "fail", "ServerDisconnectedError", "is it running?"),
    ],
)
def test_what_is_wrong_with_a_model_elsewhere_has_its_own_line(
    handler: Handler, verdict: str, detail: str, advice: str
) -> None:
    [finding] = found(handler)
    assert finding.verdict == verdict
    assert detail in finding.detail
    assert advice in finding.advice
    assert KEY not in str(finding)


def test_a_server_that_wants_a_key_where_none_is_configured_says_so() -> None:
    [finding] = found(refusing(401, "{}"), lambda url: parse({"models": {"big": {"url": url}}}))
    assert finding.detail == "wants a key (401)"


def test_a_silent_server_costs_its_time_and_no_more() -> None:
    [finding] = found(silent, timeout_s=0.1)
    assert (finding.verdict, finding.detail) == ("fail", "no answer within 0.1 s")
    assert "--timeout" in finding.advice


@pytest.mark.parametrize(
    ("url", "detail", "advice"),
    [
        ("http://nobody.invalid/v1", "DNS: its name is not known", "check the name in models.big"),
        ("http://127.0.0.1:1/v1", "no connection: ", "is it running?"),
    ],
)
def test_the_step_at_which_the_way_ended_is_told(url: str, detail: str, advice: str) -> None:
    [finding] = found(silent, lambda _: config_at(url))
    assert finding.verdict == "fail"
    assert finding.detail.startswith(detail)
    assert advice in finding.advice


def test_tls_that_fails_is_told_apart_by_what_mends_it() -> None:
    upstream = Upstream(listing())
    [untrusted] = found(upstream, tls=True)
    assert untrusted.advice == "name its authority's certificate in models.big.ca_file"
    [plain] = found(upstream, lambda url: config_at(url.replace("http:", "https:")))
    assert plain.advice == "check models.big.url: http or https?"
    trusting = {"ca_file": str(TLS / "ca.pem")}
    [fine] = found(upstream, lambda url: config_at(url, model=trusting), tls=True)
    assert fine.verdict == "ok"
    [proxied] = found(upstream, lambda url: config_at(url, model={"proxy": "http://127.0.0.1:1"}))
    assert proxied.advice == "check models.big.proxy"


def test_a_reference_that_leads_nowhere_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BIG_KEY")
    [finding] = found(Upstream(listing()))
    assert finding.detail == "key = 'env:BIG_KEY': the variable BIG_KEY is not set"
    assert finding.verdict == "fail"


def test_a_model_that_is_smaller_than_configured_or_slow_is_a_warning() -> None:
    subject = Subject("model big", "models.big")
    model = ModelConfig(engine=parse({}).models["tiny"].engine, context_tokens=8192)
    small = judge_context(subject, model, 10, 4096)
    assert (small.verdict, small.advice) == ("warn", "set models.big.context_tokens = 4096")
    slow = judge_context(subject, model, SLOW_MS + 1, 8192)
    assert (slow.verdict, slow.advice) == ("warn", "is it far, or busy?")
    assert judge_context(subject, model, SLOW_MS, None).verdict == "ok"


def test_each_server_of_a_model_has_a_finding_of_its_own() -> None:
    async def run() -> list[Finding]:
        async with server(Upstream(listing(max_model_len=9))) as url:
            other = f"{url.removesuffix('/v1')}/v2"
            model = {
                "key": "env:BIG_KEY",
                "upstream_name": "big-1",
                "upstreams": [{"url": url}, {"url": other}, {"url": url, "key": "env:NOT_BIG_KEY"}],
            }
            all_checks = checks(parse({"models": {"big": model}}), embedded_by=None, timeout_s=5)
            return await asked(all_checks, timeout_s=5, on_done=lambda _: None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NOT_BIG_KEY", "sk-wrong-1")
        well, wrong, refused = asyncio.run(run())
    assert (well.verdict, wrong.verdict, refused.verdict) == ("ok", "fail", "fail")
    assert well.about.startswith("model big at 127.0.0.1:")
    assert wrong.about.endswith("/v2")
    assert wrong.advice.startswith("check models.big.upstreams[1].url")
    assert refused.about.endswith("/v1 #2")
    assert refused.advice == "check models.big.upstreams[2].key"


def test_anthropic_s_api_is_asked_in_its_own_way() -> None:
    seen: list[tuple[str, str | None]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append((request.path, request.headers.get("x-api-key")))
        if request.path == "/v1/models":
            return web.json_response({"data": [{"id": "claude-other", "type": "model"}]})
        return web.json_response(
            {"type": "message"}, status=200 if "messages" in request.path else 404
        )

    def config(url: str) -> Config:
        return config_at(url, model={"engine": "anthropic"})

    [finding] = found(handler, config)
    assert finding.verdict == "ok"
    assert seen[:2] == [("/v1/models", KEY), ("/v1/messages", KEY)]


# The embedder.


def embedder_at(url: str, **settings: Any) -> Config:
    return parse({"embeddings": {"url": url, "model": "embed-3", "key": "env:BIG_KEY", **settings}})


def test_an_embedder_that_answers_tells_its_numbers() -> None:
    [finding] = found(EmbeddingServer(), embedder_at)
    assert (finding.about, finding.verdict) == ("embeddings", "ok")
    assert finding.detail.endswith(", 3 numbers")


async def ill(request: web.Request) -> web.StreamResponse:
    """List models, and fail at the work itself."""
    if request.method == "GET":
        return web.json_response(listing())
    return web.Response(status=500, text="out of memory")


@pytest.mark.parametrize(
    ("handler", "settings", "detail"),
    [
        (refusing(401, "{}"), {}, "refuses the key (401)"),
        (refusing(404, "{}"), {}, "there is no embed-3 (404)"),
        (refusing(200, "<html>"), {}, "embed-3 sent garbage"),
        (ill, {}, "embed-3 answered 500: out of memory"),
    ],
)
def test_what_is_wrong_with_the_embedder_has_its_own_line(
    handler: Handler, settings: dict[str, Any], detail: str
) -> None:
    [finding] = found(handler, lambda url: embedder_at(url, **settings), timeout_s=3)
    assert finding.verdict == "fail"
    assert detail in finding.detail


def test_an_embedder_of_another_size_than_configured_fails_and_names_the_key() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.json_response({"data": [{"index": 0, "embedding": [1.0, 0.0]}]})

    [finding] = found(handler, lambda url: embedder_at(url, dimensions=5))
    assert "a vector of 2 numbers, expected 5: check embeddings.dimensions" in finding.detail


def test_an_index_of_another_embedder_is_a_warning() -> None:
    config = EmbeddingsConfig(url="http://h/v1", model="m")
    engine = parse({"embeddings": {"url": "http://h/v1", "model": "m"}}).embeddings
    own = identity(engine, 3)
    assert judge_vectors(engine, 3, 5, own).verdict == "ok"
    assert judge_vectors(engine, 3, 5, None).verdict == "ok"
    for other in (identity(engine, 4), identity(config, 3), "minilm-int8-1"):
        finding = judge_vectors(engine, 3, 5, other)
        assert (finding.verdict, "embedded again" in finding.advice) == ("warn", True)
    assert judge_vectors(engine, 3, SLOW_MS + 1, own).verdict == "warn"


def test_all_are_asked_side_by_side_and_answered_in_their_order() -> None:
    async def run() -> list[Finding]:
        arrived = asyncio.Barrier(2)

        async def handler(request: web.Request) -> web.StreamResponse:
            await arrived.wait()  # neither is answered before both have asked
            return web.json_response(listing(max_model_len=1))

        async with server(handler) as url:
            models = {name: {"url": url, "upstream_name": "big-1"} for name in ("a", "b")}
            all_checks = checks(parse({"models": models}), embedded_by=None, timeout_s=5)
            return await asked(all_checks, timeout_s=5, on_done=lambda _: None)

    assert [finding.about for finding in asyncio.run(run())] == ["model a", "model b"]
    assert EMBEDDER.section == "embeddings"
