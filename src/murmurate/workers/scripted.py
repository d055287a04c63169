"""Serves a script over OpenAI's protocol, so that real processes can be tested to the word."""

import asyncio
import hmac
import itertools
import os
import signal
from contextlib import aclosing
from pathlib import Path

import msgspec
from aiohttp import web

from murmurate.core.clock import SystemClock
from murmurate.core.errors import ConfigError, EngineFailedError, MurmurateError
from murmurate.core.types import (
    CallPart,
    Delta,
    Finished,
    Message,
    Origin,
    OriginKind,
    Part,
    Request,
    ResultPart,
    Role,
    Sampling,
    Text,
    TextPart,
    Tool,
    ToolCall,
    TraceRef,
    Usage,
)
from murmurate.engines.scripted import Fail, Scripted, ScriptedFailureError, parse_rules
from murmurate.workers.boot import EngineBoot
from murmurate.workers.lifeline import beating, say_ready

BODY_BYTES_MAX = 16 * 1024 * 1024
_PROTOCOL = {"created": 0, "object": "chat.completion.chunk"}


class _Function(msgspec.Struct, frozen=True):
    name: str
    arguments: str = "{}"
    description: str = ""
    parameters: msgspec.Raw = msgspec.Raw(b"{}")


class _Call(msgspec.Struct, frozen=True):
    id: str
    function: _Function


class _Tool(msgspec.Struct, frozen=True):
    function: _Function


class _TextPiece(msgspec.Struct, frozen=True):
    text: str


class _Turn(msgspec.Struct, frozen=True):
    role: Role
    content: str | list[_TextPiece] | None = None
    tool_calls: list[_Call] = []
    tool_call_id: str | None = None


class _Body(msgspec.Struct, frozen=True):
    model: str
    messages: list[_Turn]
    tools: list[_Tool] = []
    max_tokens: int | None = None
    stream: bool = False


def serve(boot: EngineBoot) -> None:
    """Serve the script on the socket until the process ends."""
    asyncio.run(_serve(boot))


async def _serve(boot: EngineBoot) -> None:
    runner = web.AppRunner(Serving(boot).application, handler_cancellation=True, access_log=None)
    await runner.setup()
    await web.UnixSite(runner, boot.socket).start()
    say_ready(name=boot.name)
    await beating()  # SIGTERM and the lifeline end the process


class Serving:
    """The worker's HTTP application: llama.cpp's paths and statuses, the script's answers."""

    def __init__(self, boot: EngineBoot) -> None:
        rules = parse_rules(_read(boot.model.rules or ""))
        self._memory = Path(f"{boot.socket}.fired")
        self._scripted = Scripted(rules, clock=SystemClock(), fired=_recall(self._memory))
        self._key = f"Bearer {boot.key}"
        self._numbers = itertools.count(os.getpid() * 1000)
        self.application = web.Application(client_max_size=BODY_BYTES_MAX)
        self.application.router.add_get("/health", self._health)
        self.application.router.add_post("/v1/chat/completions", self._completions)

    async def _health(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"status": "ok"})

    async def _completions(self, http: web.Request) -> web.StreamResponse:
        if not hmac.compare_digest(http.headers.get("Authorization", ""), self._key):
            return _refused(401, "authentication_error", "Invalid API Key")
        try:
            body = msgspec.json.decode(await http.read(), type=_Body)
        except msgspec.DecodeError as error:
            return _refused(400, "invalid_request_error", str(error))
        if not body.stream:
            return _refused(400, "invalid_request_error", "expected stream = true")
        request = _request(body, next(self._numbers))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        try:
            async with aclosing(self._scripted.answer(request)) as deltas:
                async for delta in deltas:
                    await _write(http, response, _event(body.model, delta))
            await _write(http, response, b"data: [DONE]\n\n")
        except ScriptedFailureError as failure:
            _remember(self._memory, self._scripted.fired)
            return await _fail(http, response, failure)
        except MurmurateError as error:
            _remember(self._memory, self._scripted.fired)
            kind = "server_error" if error.http_status >= 500 else "invalid_request_error"
            return _refused(error.http_status, kind, error.detail)
        return response


async def _write(http: web.Request, response: web.StreamResponse, chunk: bytes) -> None:
    """Send headers with the first chunk, so that a failure before it has a status of its own."""
    if not response.prepared:
        await response.prepare(http)
    await response.write(chunk)


async def _fail(
    http: web.Request, response: web.StreamResponse, failure: ScriptedFailureError
) -> web.StreamResponse:
    """Do to the connection what the rule asked for."""
    if failure.how is Fail.EXIT:
        os.kill(os.getpid(), signal.SIGKILL)
    if failure.how is Fail.BEFORE and not response.prepared:
        return _refused(500, "server_error", failure.detail)
    if failure.how is Fail.GARBAGE:
        await _write(http, response, b"data: {garbage\n\n")
        return response
    if http.transport is not None:
        http.transport.abort()
    return response


def _event(model: str, delta: Delta) -> bytes:
    return b"data: %s\n\n" % msgspec.json.encode({**_PROTOCOL, "model": model, **_chunk(delta)})


def _chunk(delta: Delta) -> dict[str, object]:
    match delta:
        case Text(text):
            return _choice({"content": text})
        case ToolCall(id_, name, arguments):
            function = {"name": name, "arguments": arguments}
            call = {"index": 0, "id": id_, "type": "function", "function": function}
            return _choice({"tool_calls": [call]})
        case Usage(tokens_in, tokens_out, tokens_cached):
            usage = {
                "prompt_tokens": tokens_in,
                "completion_tokens": tokens_out,
                "total_tokens": tokens_in + tokens_out,
                "prompt_tokens_details": {"cached_tokens": tokens_cached},
            }
            return {"choices": [], "usage": usage}
        case Finished(reason):
            return _choice({}, reason.value)
        case _:
            raise EngineFailedError(f"a script yields no {type(delta).__name__}")


def _choice(delta: dict[str, object], reason: str | None = None) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


def _request(body: _Body, number: int) -> Request:
    """Return what the body asks, as the script's own stage would see it."""
    return Request(
        id=str(number),
        tenant="default",
        model=body.model,
        messages=tuple(Message(turn.role, tuple(_parts(turn))) for turn in body.messages),
        tools=tuple(
            Tool(t.function.name, t.function.description, bytes(t.function.parameters).decode())
            for t in body.tools
        ),
        sampling=Sampling(tokens_max=body.max_tokens),
        trace=TraceRef("0" * 31 + "1"),
    )


def _parts(turn: _Turn) -> list[Part]:
    text = turn.content or ""
    if not isinstance(text, str):
        text = "".join(piece.text for piece in text)
    if turn.role is Role.TOOL:
        return [ResultPart(turn.tool_call_id or "", text, Origin(OriginKind.TOOL))]
    calls = [
        CallPart(call.id, call.function.name, call.function.arguments) for call in turn.tool_calls
    ]
    return [TextPart(text, Origin(OriginKind.USER)), *calls]


def _refused(status: int, kind: str, message: str) -> web.Response:
    error = {"code": status, "message": message, "type": kind}
    return web.json_response({"error": error}, status=status)


def _read(path: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except OSError as cause:
        raise ConfigError(f"rules = {path!r}: {cause.strerror}") from cause


def _recall(memory: Path) -> dict[int, int]:
    """Return the failures of earlier lives, so that `times` holds across a killed process."""
    try:
        return msgspec.json.decode(memory.read_bytes(), type=dict[int, int])
    except FileNotFoundError:
        return {}


def _remember(memory: Path, fired: dict[int, int]) -> None:
    memory.write_bytes(msgspec.json.encode(fired))
