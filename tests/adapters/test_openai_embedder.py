"""The embedder behind a URL, against a real server that misbehaves on purpose."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from aiohttp import web

from murmurate.adapters import openai_embedder
from murmurate.adapters.openai_embedder import ATTEMPTS_MAX, OpenAIEmbedder
from murmurate.config import EmbeddingsConfig, EmbeddingsEngine, Remote
from murmurate.core.clock import Clock, SystemClock
from murmurate.core.errors import (
    BadRequestError,
    EngineFailedError,
    EngineUnreachableError,
    MurmurateError,
    OverloadedError,
)
from murmurate.core.ports import Embeddings
from tests.adapters.remote_server import (
    EmbeddingServer,
    Handler,
    aborting,
    answer,
    in_turn,
    refusing,
    server,
    silent,
)
from tests.fakes import FakeClock

KEY = "sk-secret-1"


def embedder(url: str, clock: Clock | None = None, **settings: Any) -> OpenAIEmbedder:
    named: dict[str, Any] = {"model": "embed-3", **settings}
    config = EmbeddingsConfig(engine=EmbeddingsEngine.OPENAI, url=url, **named)
    return OpenAIEmbedder(
        config,
        Remote(url, KEY, {"OpenAI-Organization": "org-1"}),
        clock=clock or SystemClock(),
        chance=random.Random(1),
    )


def told(
    handler: Handler,
    tell: Callable[[OpenAIEmbedder], Awaitable[Any]],
    *,
    clock: Clock | None = None,
    **settings: Any,
) -> Any:
    async def run() -> Any:
        async with server(handler) as url:
            made = embedder(url, clock, **settings)
            try:
                return await tell(made)
            finally:
                await made.close()

    return asyncio.run(run())


def embedding(*texts: str) -> Callable[[OpenAIEmbedder], Awaitable[Embeddings]]:
    return lambda made: made.embed(texts)


def failure(
    handler: Handler, *, clock: Clock | None = None, texts: Sequence[str] = ("a",), **settings: Any
) -> MurmurateError:
    async def tell(made: OpenAIEmbedder) -> MurmurateError:
        with pytest.raises(MurmurateError) as raised:
            await made.embed(texts)
        return raised.value

    return told(handler, tell, clock=clock or FakeClock(), **settings)


def test_texts_come_back_in_order_as_unit_vectors_with_key_and_headers_sent() -> None:
    upstream = EmbeddingServer()

    async def tell(made: OpenAIEmbedder) -> Embeddings:
        assert (made.name, made.dimensions) == ("embed-3", None)
        found = await made.embed(["a", "bbb"])
        assert made.dimensions == 3
        return found

    found = told(upstream, tell)
    assert found.tokens == 2
    assert [round(vector[0] / vector[1]) for vector in found.vectors] == [1, 3]
    assert all(abs(sum(x * x for x in vector) - 1) < 1e-6 for vector in found.vectors)
    assert upstream.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert upstream.headers[0]["OpenAI-Organization"] == "org-1"
    assert upstream.bodies == [
        {"model": "embed-3", "input": ["a", "bbb"], "encoding_format": "base64"}
    ]


def test_many_texts_go_out_in_batches_over_few_connections() -> None:
    upstream = EmbeddingServer()
    texts = ["x" * (1 + number % 50) for number in range(100)]
    found = told(upstream, embedding(*texts), batch_texts=8)
    assert [round(vector[0] / vector[1]) for vector in found.vectors] == [len(t) for t in texts]
    assert len(upstream.bodies) == 13
    assert max(len(body["input"]) for body in upstream.bodies) == 8
    assert found.tokens == 100


def test_no_texts_ask_nobody() -> None:
    upstream = EmbeddingServer()
    assert told(upstream, embedding()) == Embeddings((), 0)
    assert not upstream.bodies


def test_dimensions_are_asked_for_and_known_at_once() -> None:
    upstream = EmbeddingServer()

    async def tell(made: OpenAIEmbedder) -> Embeddings:
        assert made.dimensions == 2
        return await made.embed(["a"])

    assert len(told(upstream, tell, dimensions=2).vectors[0]) == 2
    assert upstream.bodies[0]["dimensions"] == 2


def test_a_server_that_ignores_the_dimensions_is_refused() -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.json_response(answer([[1.0, 0.0, 0.0]]))

    error = failure(handler, dimensions=2)
    assert isinstance(error, EngineFailedError)
    assert "3 numbers, expected 2: check embeddings.dimensions" in error.detail


def test_a_server_whose_vectors_change_their_size_is_refused() -> None:
    async def tell(made: OpenAIEmbedder) -> None:
        await made.embed(["a"])
        with pytest.raises(EngineFailedError, match="4 numbers, expected 3"):
            await made.embed(["a"])

    told(in_turn(EmbeddingServer(), EmbeddingServer(dimensions=4)), tell)


def test_a_server_that_knows_no_base64_is_asked_for_floats() -> None:
    upstream = EmbeddingServer()

    async def handler(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if body["encoding_format"] == "base64":
            text = '{"error": {"message": "encoding_format: expected float"}}'
            return web.Response(status=400, text=text)
        return await upstream(request)

    assert told(handler, embedding("a"), clock=FakeClock()).tokens == 1
    assert upstream.bodies[0]["encoding_format"] == "float"


@pytest.mark.parametrize(
    ("handler", "kind", "detail"),
    [
        (refusing(401, f"bad key {KEY}"), EngineUnreachableError, "embed-3 refuses its key (401)"),
        (refusing(403, "{}"), EngineUnreachableError, "embed-3 refuses its key (403)"),
        (refusing(404, "{}"), EngineUnreachableError, "there is no embed-3 (404): check embeddi"),
        (refusing(302, ""), EngineFailedError, "embed-3 answered 302"),
        (
            refusing(429, '{"error": {"message": "m", "code": "insufficient_quota"}}'),
            EngineUnreachableError,
            "the account's quota is used up",
        ),
        (refusing(400, f"input over 8192, {KEY}"), BadRequestError, "input over 8192, [hidden]"),
        (refusing(200, "<html>"), EngineFailedError, "embed-3 sent garbage"),
    ],
)
def test_what_trying_again_does_not_mend_is_told_at_once(
    handler: Handler, kind: type[MurmurateError], detail: str
) -> None:
    clock = FakeClock()
    error = failure(handler, clock=clock)
    assert type(error) is kind
    assert detail in error.detail
    assert KEY not in error.detail
    assert not clock.slept_s


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504, 529])
def test_a_failing_server_is_asked_again_with_growing_pauses(status: int) -> None:
    clock, upstream = FakeClock(), EmbeddingServer()
    bad = refusing(status, "boom")
    assert told(in_turn(bad, bad, upstream), embedding("a"), clock=clock).tokens == 1
    first_s, second_s = clock.slept_s
    assert 0.5 <= first_s <= 0.75
    assert 1.0 <= second_s <= 1.5


def test_a_server_that_goes_on_failing_is_given_up() -> None:
    clock = FakeClock()
    error = failure(refusing(500, f"boom {KEY}"), clock=clock)
    assert isinstance(error, EngineFailedError)
    assert error.detail == "embed-3 answered 500: boom [hidden]"
    assert len(clock.slept_s) == ATTEMPTS_MAX - 1


def test_a_busy_server_is_left_alone_for_as_long_as_it_asks() -> None:
    clock = FakeClock()
    busy = refusing(429, "{}", Retry_After="7")
    assert told(in_turn(busy, EmbeddingServer()), embedding("a"), clock=clock).tokens == 1
    assert clock.slept_s == [7]


def test_a_server_that_is_busy_for_longer_than_a_request_may_take_is_given_up_at_once() -> None:
    clock = FakeClock()
    error = failure(refusing(429, "{}", Retry_After="50"), clock=clock, timeout_s=30.0)
    assert isinstance(error, OverloadedError)
    assert error.retry_s == 50
    assert not clock.slept_s


def test_a_silent_server_is_given_up_in_time() -> None:
    error = failure(silent, timeout_s=0.02)
    assert isinstance(error, EngineUnreachableError)
    assert error.detail == "embed-3 took longer than 0.02 s"


def test_a_server_that_hangs_up_is_asked_again() -> None:
    clock = FakeClock()
    assert told(in_turn(aborting, EmbeddingServer()), embedding("a"), clock=clock).tokens == 1
    error = failure(aborting)
    assert isinstance(error, EngineUnreachableError)
    assert "embed-3 cannot be reached (ServerDisconnectedError)" in error.detail


def test_an_answer_without_end_is_cut_off() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 1_000_000)

    assert "answered over" in failure(handler).detail


def test_one_bad_batch_fails_the_call_with_its_own_error() -> None:
    error = failure(in_turn(EmbeddingServer(), refusing(401, "{}")), texts=["a"] * 4, batch_texts=1)
    assert isinstance(error, EngineUnreachableError)


def test_nobody_at_the_address_is_told_with_the_step_that_failed() -> None:
    async def run() -> MurmurateError:
        async with server(silent) as url:
            pass
        made = embedder(url, FakeClock())
        try:
            with pytest.raises(EngineUnreachableError) as raised:
                await made.embed(["a"])
        finally:
            await made.close()
        return raised.value

    assert "embed-3 cannot be reached (no connection: " in asyncio.run(run()).detail


def test_a_cancelled_call_hangs_up() -> None:
    async def run() -> None:
        began, hung_up = asyncio.Event(), asyncio.Event()

        async def handler(request: web.Request) -> web.StreamResponse:
            began.set()
            try:
                return await silent(request)
            finally:
                hung_up.set()

        async with server(handler) as url:
            made = embedder(url)
            task = asyncio.create_task(made.embed(["a"]))
            await began.wait()
            task.cancel()
            async with asyncio.timeout(5):
                await hung_up.wait()
            with pytest.raises(asyncio.CancelledError):
                await task
            await made.close()

    asyncio.run(run())


def test_at_most_four_requests_are_under_way_together() -> None:
    running, most = 0, 0
    upstream = EmbeddingServer()

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return await upstream(request)

    told(handler, embedding(*["a"] * 40), batch_texts=1)
    assert 1 <= most <= openai_embedder.CONNECTIONS_MAX
    assert len(upstream.bodies) == 40
