"""The HTTP adapter against a real server that misbehaves on purpose."""

import asyncio
import ssl
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from murmurate.adapters.openai_http import OpenAIHttp
from murmurate.config import Remote
from murmurate.core.clock import SystemClock
from murmurate.core.errors import (
    BadRequestError,
    ConfigError,
    EngineFailedError,
    EngineUnreachableError,
    MurmurateError,
    OverloadedError,
    PromptTooLongError,
)
from murmurate.core.types import Delta, Finished, FinishReason, Text, Usage
from tests.adapters.remote_server import server
from tests.engines.fakes import FakeClock, FakeTracer, all_of, ask

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

TLS = Path(__file__).parents[1] / "fixtures" / "tls"
TEXT = b'data: {"choices": [{"delta": {"content": "hi"}, "finish_reason": null}]}\n\n'
STOP = b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n'
USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}\n\n'
DONE = b"data: [DONE]\n\n"
WHOLE: list[Delta] = [Text("hi"), Usage(3, 1), Finished(FinishReason.STOP)]


@asynccontextmanager
async def upstream(handler: Handler, path: str) -> AsyncGenerator[None]:
    """Serve `handler` on the socket, as an engine would."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", handler)
    app.router.add_get("/health", handler)
    app.router.add_get("/v1/models", handler)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.01)
    await runner.setup()
    if path.isdigit():
        await web.TCPSite(runner, "127.0.0.1", int(path)).start()
    else:
        await web.UnixSite(runner, path).start()
    try:
        yield
    finally:
        await runner.cleanup()


class Story:
    """An adapter, and where its upstream should be."""

    def __init__(self, folder: str, **settings: Any) -> None:
        self.path = f"{folder}/e.sock"
        self.tracer = FakeTracer()
        defaults: dict[str, Any] = {
            "name": "up",
            "remote": Remote("http://engine/v1", "secret-key"),
            "socket": self.path,
            "first_token_s": 5,
            "stall_s": 5,
            "clock": SystemClock(),
            "tracer": self.tracer,
            "new_id": lambda: "new",
            "connect_s": 0,
        }
        self.engine = OpenAIHttp(**{**defaults, **settings})


@asynccontextmanager
async def story(handler: Handler | None = None, **settings: Any) -> AsyncGenerator[Story]:
    """Run an adapter against that handler; close both."""
    with tempfile.TemporaryDirectory(prefix="e") as folder:
        told = Story(folder, **settings)
        try:
            if handler is None:
                yield told
            else:
                async with upstream(handler, told.path):
                    yield told
        finally:
            await told.engine.close()


def answering(*chunks: bytes) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
            await asyncio.sleep(0)
        return response

    return handler


def refusing(status: int, body: str, **headers: str) -> Handler:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text=body, headers=headers)

    return handler


def outcome(handler: Handler | None, **settings: Any) -> list[Delta] | MurmurateError:
    async def run() -> list[Delta] | MurmurateError:
        async with story(handler, **settings) as told:
            try:
                return list(await all_of(told.engine, ask()))
            except MurmurateError as error:
                return error

    return asyncio.run(run())


def failure(handler: Handler | None, **settings: Any) -> MurmurateError:
    error = outcome(handler, **settings)
    assert isinstance(error, MurmurateError)
    return error


def test_an_answer_streams_through_with_the_key_and_the_body_sent() -> None:
    seen: list[tuple[str, dict[str, Any]]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append((request.headers["Authorization"], msgspec.json.decode(await request.read())))
        return await answering(TEXT, STOP, USAGE, DONE)(request)

    async def run() -> None:
        async with story(handler) as told:
            assert await all_of(told.engine, ask()) == WHOLE
            (facts,) = told.tracer.facts
            assert facts.pop("ttft_ms") > 0
            assert facts == {"model": "up", "tokens_in": 3, "tokens_out": 1, "tokens_cached": 0}

    asyncio.run(run())
    ((key, body),) = seen
    assert key == "Bearer secret-key"
    assert body["stream"] is True


def test_chunks_may_be_cut_anywhere() -> None:
    stream = TEXT + STOP + USAGE + DONE
    assert outcome(answering(*(stream[at : at + 7] for at in range(0, len(stream), 7)))) == WHOLE


def test_a_stream_may_end_without_done_but_not_without_any_end() -> None:
    assert outcome(answering(TEXT, STOP)) == [Text("hi"), Finished(FinishReason.STOP)]
    assert "broke off before the end" in failure(answering(TEXT)).detail
    assert "broke off before the end" in failure(answering()).detail


@pytest.mark.parametrize(
    ("handler", "kind", "detail"),
    [
        (
            refusing(500, '{"error": {"message": "boom"}}'),
            EngineFailedError,
            "up answered 500: boom",
        ),
        (refusing(502, "<html>"), EngineFailedError, "up answered 502: <html>"),
        (refusing(302, ""), EngineFailedError, "up answered 302: "),
        (refusing(401, "{}"), EngineUnreachableError, "up refuses its key (401)"),
        (refusing(403, "{}"), EngineUnreachableError, "up refuses its key (403)"),
        (refusing(401, "bad key secret-key"), EngineUnreachableError, "check models.*.key"),
        (refusing(404, "{}"), EngineUnreachableError, "up is not there (404); check models.*.url"),
        (refusing(402, "{}"), EngineUnreachableError, "the account's quota is used up (402)"),
        (
            refusing(429, '{"error": {"message": "m", "code": "insufficient_quota"}}'),
            EngineUnreachableError,
            "the account's quota is used up (429)",
        ),
        (refusing(400, "you sent secret-key"), BadRequestError, "up: you sent [hidden]"),
        (refusing(500, "env: secret-key"), EngineFailedError, "up answered 500: env: [hidden]"),
        (refusing(400, '{"error": {"message": "bad"}}'), BadRequestError, "up: bad"),
        (refusing(422, "x" * 999), BadRequestError, "up: " + "x" * 300),
        (
            refusing(
                400,
                '{"error": {"message": "m", "type": "exceed_context_size_error", "code": 400,'
                ' "n_prompt_tokens": 900, "n_ctx": 512}}',
            ),
            PromptTooLongError,
            "the prompt has 900 tokens, but the context of up has 512",
        ),
        (answering(b"data: {nonsense\n\n"), EngineFailedError, "up sent garbage"),
        (answering(TEXT, b'data: {"error": {"message": "oom"}}\n\n'), EngineFailedError, "oom"),
        (
            answering(TEXT, b'data: {"error": {"message": "wrong key: secret-\\u006bey"}}\n\n'),
            EngineFailedError,
            "up failed: wrong key: [hidden]",
        ),
        (
            answering(TEXT, b'data: {"error": "wrong key: secret-key"}\n\n'),
            EngineFailedError,
            "up failed: wrong key: [hidden]",
        ),
        (answering(b"x" * (1024 * 1024 + 1)), EngineFailedError, "over 1048576 bytes"),
    ],
)
def test_every_refusal_is_told_as_what_it_is(
    handler: Handler, kind: type[MurmurateError], detail: str
) -> None:
    error = failure(handler)
    assert type(error) is kind
    assert "secret-key" not in error.detail
    assert error.detail.startswith(detail) or detail in error.detail


@pytest.mark.parametrize(
    ("headers", "retry_s"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "999"}, 60),
        ({"Retry-After": "soon"}, 1),
        ({}, 1),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_upstream_says_when_to_come_back(
    status: int, headers: dict[str, str], retry_s: float
) -> None:
    error = failure(refusing(status, "{}", **headers))
    assert isinstance(error, OverloadedError)
    assert error.retry_s == retry_s


@pytest.mark.parametrize("chunks", [(), (TEXT,)], ids=["before the first byte", "midway"])
def test_a_connection_that_is_reset_is_a_failed_engine(chunks: tuple[bytes, ...]) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if chunks:
            await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
        assert request.transport is not None
        request.transport.abort()
        return response

    error = failure(handler)
    assert isinstance(error, EngineFailedError)
    assert "up broke off (" in error.detail


def silent_after(*chunks: bytes, headers: bool = True) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if headers:
            await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
        await asyncio.sleep(60)
        return response

    return handler


@pytest.mark.parametrize(
    ("handler", "settings"),
    [
        (silent_after(headers=False), {"first_token_s": 0.02}),
        (silent_after(), {"first_token_s": 0.02}),
        (silent_after(b": ping\n\n"), {"first_token_s": 0.02}),
        (silent_after(TEXT), {"stall_s": 0.02}),
        (silent_after(TEXT, b": ping\n\n"), {"stall_s": 0.02}),
    ],
    ids=["no headers", "headers only", "pings only", "after text", "pings after text"],
)
def test_silence_is_a_failed_engine(handler: Handler, settings: dict[str, float]) -> None:
    error = failure(handler, **settings)
    assert isinstance(error, EngineFailedError)
    assert error.detail == "up was silent for 0.02 s"


def test_time_that_the_reader_takes_is_no_silence_of_the_engine() -> None:
    async def run() -> None:
        async with story(answering(TEXT, TEXT, STOP, DONE), stall_s=0.02) as told:
            async for _ in told.engine.answer(ask()):
                await asyncio.sleep(0.03)

    asyncio.run(run())


def test_a_slow_first_byte_within_its_time_is_fine() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.02)
        return await answering(TEXT, STOP, USAGE, DONE)(request)

    assert outcome(handler, stall_s=0.01) == WHOLE


def test_closing_the_answer_hangs_up_at_once() -> None:
    async def run() -> None:
        hung_up = asyncio.Event()

        async def handler(request: web.Request) -> web.StreamResponse:
            try:
                return await silent_after(TEXT)(request)
            finally:
                hung_up.set()

        async with story(handler) as told:
            async with aclosing(told.engine.answer(ask())) as deltas:
                assert await anext(deltas) == Text("hi")
            async with asyncio.timeout(1):
                await hung_up.wait()

    asyncio.run(run())


def test_a_cancel_before_the_first_byte_hangs_up_too() -> None:
    async def run() -> None:
        began, hung_up = asyncio.Event(), asyncio.Event()

        async def handler(request: web.Request) -> web.StreamResponse:
            began.set()
            try:
                return await silent_after(headers=False)(request)
            finally:
                hung_up.set()

        async with story(handler) as told:
            task = asyncio.create_task(all_of(told.engine, ask()))
            await began.wait()
            task.cancel()
            async with asyncio.timeout(1):
                await hung_up.wait()
            with suppress(asyncio.CancelledError):
                await task

    asyncio.run(run())


def test_a_missing_engine_is_waited_for_and_then_told() -> None:
    clock = FakeClock()
    error = failure(None, clock=clock, connect_s=5)
    assert isinstance(error, EngineUnreachableError)
    assert error.retry_s == 1
    assert 5 <= clock.time_s < 5.1


def test_a_socket_that_nobody_listens_on_is_a_missing_engine() -> None:
    async def run() -> None:
        async with story() as told:
            server = await asyncio.start_unix_server(lambda *_: None, told.path)
            server.close()
            await server.wait_closed()
            assert Path(told.path).exists()
            with pytest.raises(EngineUnreachableError):
                await all_of(told.engine, ask())

    asyncio.run(run())


def test_a_request_sent_while_the_engine_restarts_is_answered_when_it_is_back() -> None:
    async def run() -> None:
        async with story(connect_s=5) as told:
            task = asyncio.create_task(all_of(told.engine, ask()))
            await asyncio.sleep(0.03)
            async with upstream(answering(TEXT, STOP, USAGE, DONE), told.path):
                assert await task == WHOLE

    asyncio.run(run())


def test_a_secret_that_is_cut_by_the_network_is_hidden_all_the_same() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=500)
        await response.prepare(request)
        for piece in (b"env: secret", b"-key"):
            await response.write(piece)
            await asyncio.sleep(0.05)
        return response

    error = failure(handler)
    assert error.detail == "up answered 500: env: [hidden]"


def test_of_a_refusal_over_the_bound_nothing_is_told() -> None:
    error = failure(refusing(500, "secret-key " * 10_000))
    assert "secret" not in error.detail


@pytest.mark.parametrize(("deaths", "answered"), [(1, True), (2, False)])
def test_an_engine_that_dies_before_its_first_byte_is_asked_once_more(
    deaths: int, answered: bool
) -> None:
    tries = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal tries
        tries += 1
        if tries <= deaths:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return await answering(TEXT, STOP, USAGE, DONE)(request)

    said = outcome(handler, connect_s=5)
    assert tries == 2
    if answered:
        assert said == WHOLE
    else:
        assert isinstance(said, EngineFailedError)
        assert said.code == "engine.failed"


def test_an_engine_that_still_loads_is_waited_for() -> None:
    tries = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal tries
        tries += 1
        if tries < 3:
            loading = '{"error": {"message": "Loading model", "type": "unavailable_error"}}'
            return web.Response(status=503, text=loading)
        return await answering(TEXT, STOP, USAGE, DONE)(request)

    assert outcome(handler, connect_s=5, clock=FakeClock()) == WHOLE
    tries = -(10**6)
    error = failure(handler, connect_s=0)
    assert isinstance(error, EngineUnreachableError)
    assert "still loading" in error.detail


def test_more_requests_than_the_socket_can_queue_run_side_by_side() -> None:
    async def run() -> None:
        inside, all_in = 0, asyncio.Event()

        async def handler(request: web.Request) -> web.StreamResponse:
            nonlocal inside
            inside += 1
            if inside == 300:
                all_in.set()
            await all_in.wait()
            return await answering(TEXT, STOP, USAGE, DONE)(request)

        async with story(handler, connect_s=5) as told:
            answers = await asyncio.gather(*(all_of(told.engine, ask()) for _ in range(300)))
            assert answers == [WHOLE] * 300

    asyncio.run(run())


@pytest.mark.parametrize(
    ("handler", "healthy"),
    [
        (refusing(200, "{}"), True),
        (refusing(503, "{}"), False),
        (None, False),
    ],
)
def test_health_is_what_the_engine_says(handler: Handler | None, healthy: bool) -> None:
    async def run() -> None:
        async with story(handler) as told:
            assert await told.engine.health() is healthy

    asyncio.run(run())


def test_over_tcp_one_connection_serves_request_after_request() -> None:
    ports: set[Any] = set()

    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        ports.add(request.transport.get_extra_info("peername"))
        return await answering(TEXT, STOP, USAGE, DONE)(request)

    async def run() -> None:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        url = f"http://127.0.0.1:{port}/v1/"
        async with upstream(handler, str(port)), story(remote=Remote(url), socket=None) as told:
            for _ in range(3):
                assert await all_of(told.engine, ask()) == WHOLE
            assert len(ports) == 1
            assert await told.engine.health()

    asyncio.run(run())


def test_over_tls_the_own_authority_is_trusted_and_its_absence_is_told() -> None:
    async def run() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(TLS / "server.pem")
        async with server(answering(TEXT, STOP, USAGE, DONE), tls=context) as url:
            trusting = Remote(url, "secret-key", {"X-Org": "o"}, str(TLS / "ca.pem"))
            async with story(remote=trusting, socket=None) as told:
                assert await all_of(told.engine, ask()) == WHOLE
            async with story(remote=Remote(url), socket=None) as told:
                with pytest.raises(EngineUnreachableError, match="TLS: its certificate is not tru"):
                    await all_of(told.engine, ask())

    asyncio.run(run())


def test_a_proxy_that_refuses_is_told_and_not_asked_again() -> None:
    async def run() -> None:
        async with server(refusing(404, "")) as url:
            far = Remote("https://far.invalid/v1", proxy=url.removesuffix("/v1"))
            async with story(remote=far, socket=None, connect_s=60) as told:
                with pytest.raises(EngineUnreachableError, match="the proxy refuses") as raised:
                    await all_of(told.engine, ask())
                assert raised.value.retry_s is None

    asyncio.run(run())


def test_a_file_that_is_no_certificate_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no")
    with pytest.raises(ConfigError, match="no certificate"):
        Story(str(tmp_path), remote=Remote("https://h/v1", ca_file=str(tmp_path / "ca.pem")))
