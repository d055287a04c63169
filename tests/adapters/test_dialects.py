"""Each protocol over a real connection: where it asks, with which key, and what comes back."""

import asyncio
from typing import Any

import msgspec
import pytest
from aiohttp import web

from murmurate.adapters.dialects import WIRES
from murmurate.adapters.openai_http import OpenAIHttp
from murmurate.config import Dialect, Remote
from murmurate.core.clock import SystemClock
from murmurate.core.errors import (
    EngineFailedError,
    EngineUnreachableError,
    MurmurateError,
    OverloadedError,
    PromptTooLongError,
)
from murmurate.core.types import Finished, FinishReason, Text, Usage
from tests.adapters.remote_server import Handler, refusing, server
from tests.adapters.test_anthropic_wire import BASIC
from tests.engines.fakes import FakeTracer, all_of, ask


def outcome(handler: Handler, *, first_token_s: float = 5) -> list[Any] | MurmurateError:
    async def run() -> list[Any] | MurmurateError:
        async with server(handler) as url:
            engine = OpenAIHttp(
                name="claude",
                remote=Remote(url, "secret-key", dialect=Dialect.ANTHROPIC),
                socket=None,
                clock=SystemClock(),
                tracer=FakeTracer(),
                new_id=lambda: "new",
                first_token_s=first_token_s,
                stall_s=5,
            )
            try:
                return list(await all_of(engine, ask()))
            except MurmurateError as error:
                return error
            finally:
                await engine.close()

    return asyncio.run(run())


def test_there_is_a_wire_for_every_dialect() -> None:
    assert set(WIRES) == set(Dialect)


def test_anthropic_is_asked_at_its_own_path_with_its_own_key_and_version() -> None:
    seen: list[tuple[str, dict[str, str], dict[str, Any]]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        body = msgspec.json.decode(await request.read())
        seen.append((request.path, dict(request.headers), body))
        return web.Response(body=BASIC, content_type="text/event-stream")

    found = outcome(handler)
    assert found == [Text("Hello"), Text("!"), Usage(25, 15), Finished(FinishReason.STOP)]
    [(path, headers, body)] = seen
    assert path == "/v1/messages"
    assert headers["x-api-key"] == "secret-key"
    assert headers["anthropic-version"] == "2023-06-01"
    assert "Authorization" not in headers
    assert body["stream"] is True


def refused(kind: str, message: str) -> str:
    error = {"type": kind, "message": message}
    return msgspec.json.encode({"type": "error", "error": error, "request_id": "req_1"}).decode()


@pytest.mark.parametrize(
    ("status", "said", "kind", "words"),
    [
        (529, refused("overloaded_error", "Overloaded"), OverloadedError, "busy (529): Overloaded"),
        (429, refused("rate_limit_error", "slow"), OverloadedError, "busy (429): slow"),
        (401, refused("authentication_error", "x"), EngineUnreachableError, "refuses its key"),
        (402, refused("billing_error", "pay"), EngineUnreachableError, "quota is used up (402)"),
        (
            400,
            refused("invalid_request_error", "Your credit balance is too low to use it"),
            EngineUnreachableError,
            "quota is used up (400)",
        ),
        (
            400,
            refused("invalid_request_error", "prompt is too long: 9 tokens > 8 maximum"),
            PromptTooLongError,
            "prompt is too long: 9 tokens",
        ),
        (409, refused("conflict_error", "again"), EngineFailedError, "answered 409: again"),
        (500, refused("api_error", "secret-key"), EngineFailedError, "answered 500: [hidden]"),
    ],
)
def test_what_its_refusals_mean(
    status: int, said: str, kind: type[MurmurateError], words: str
) -> None:
    error = outcome(refusing(status, said, Retry_After="7"))
    assert isinstance(error, MurmurateError)
    assert type(error) is kind
    assert words in error.detail
    if kind is OverloadedError:
        assert error.retry_s == 7


def test_pings_alone_keep_no_answer_alive() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        while True:
            await response.write(b'event: ping\ndata: {"type": "ping"}\n\n')
            await asyncio.sleep(0.01)

    error = outcome(handler, first_token_s=0.1)
    assert isinstance(error, EngineFailedError)
    assert error.detail == "claude was silent for 0.1 s"
