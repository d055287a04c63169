"""OpenAI's chat completions: a body becomes a `Request`; deltas become chunks or one object. Pure.

Field by field after https://platform.openai.com/docs/api-reference/chat; what an engine
understands and we don't travels through `Sampling.options` unread.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from murmurate.core.errors import BadRequestError, MurmurateError
from murmurate.core.types import (
    CallPart,
    Citation,
    Cited,
    Delta,
    Finished,
    FinishReason,
    Message,
    Origin,
    OriginKind,
    Part,
    ResultPart,
    Role,
    Sampling,
    Text,
    TextPart,
    Tool,
    ToolCall,
    Usage,
)

Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Whole = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
"""What fits into the 64 bits that engines have for it."""


class TextContent(msgspec.Struct, tag="text"):
    """A content part; only text is understood."""

    text: str


class FunctionCall(msgspec.Struct):
    """The function of a tool call that the assistant made earlier."""

    name: str
    arguments: str


class CallBody(msgspec.Struct):
    """A tool call that the assistant made earlier."""

    id: str
    function: FunctionCall
    type: Literal["function"] = "function"


class MessageBody(msgspec.Struct):
    """A message. Unknown fields are let through: clients send back what other servers gave them."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextContent] | None = None
    tool_calls: list[CallBody] | None = None
    tool_call_id: str | None = None
    name: str | None = None


class FunctionBody(msgspec.Struct):
    """A tool's name, description and JSON schema."""

    name: Annotated[str, Meta(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    description: str = ""
    parameters: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    strict: bool | None = None


class ToolBody(msgspec.Struct):
    """A tool that the client offers."""

    function: FunctionBody
    type: Literal["function"] = "function"


class StreamOptions(msgspec.Struct):
    """Whether the usage chunk is wanted."""

    include_usage: bool = False
    include_obfuscation: bool = False


class EngineOptions(msgspec.Struct):
    """What is passed to the engine as it is: the engine knows its meaning and its limits."""

    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    logit_bias: dict[str, float] | None = None
    reasoning_effort: str | None = None
    top_k: Whole | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    ignore_eos: bool | None = None
    grammar: str | None = None


class ChatBody(EngineOptions, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST /v1/chat/completions`."""

    model: str
    messages: Annotated[list[MessageBody], Meta(min_length=1, max_length=10_000)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    seed: Whole | None = None
    stop: str | Annotated[list[str], Meta(max_length=16)] | None = None
    tools: Annotated[list[ToolBody], Meta(max_length=128)] | None = None
    n: Literal[1] | None = None
    # Accepted, and without effect here: they concern the vendor's own storage and accounting.
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


_ENGINE_OPTIONS = EngineOptions.__struct_fields__
_ROLES = {role.value: role for role in Role} | {"developer": Role.SYSTEM}
_ORIGINS = {
    Role.SYSTEM: Origin(OriginKind.SYSTEM),
    Role.USER: Origin(OriginKind.USER),
    Role.ASSISTANT: Origin(OriginKind.MODEL),
}


def messages_of(body: ChatBody, *, continues: bool = False) -> tuple[Message, ...]:
    """Return the conversation with the origin of each part, or `BadRequestError`.

    Where it `continues` a stored session, a tool's result may answer a call that is stored there.
    """
    names: dict[str, str] = {}
    messages: list[Message] = []
    for index, message in enumerate(body.messages):
        for call in message.tool_calls or ():
            names[call.id] = call.function.name
        where = f"messages[{index}]"
        if message.role == "tool" and not continues and message.tool_call_id not in names:
            raise BadRequestError(
                f"{where}.tool_call_id = {message.tool_call_id!r}: "
                "no earlier message made this call",
                param=f"{where}.tool_call_id",
            )
        messages.append(_message(message, names, where))
    if messages[-1].role is Role.ASSISTANT:
        raise BadRequestError(
            "messages: the last one is the assistant's; expected a user or tool message",
            param="messages",
        )
    return tuple(messages)


def _message(body: MessageBody, names: dict[str, str], where: str) -> Message:
    content = body.content
    if content is None and not body.tool_calls:
        raise BadRequestError(f"{where}.content: expected text", param=f"{where}.content")
    text = content if isinstance(content, str) else "".join(p.text for p in content or ())
    role = _ROLES[body.role]
    if role is Role.TOOL:
        call_id = body.tool_call_id or ""
        origin = Origin(OriginKind.TOOL, names.get(call_id))
        return Message(role, (ResultPart(call_id, text, origin),))
    if body.tool_calls and role is not Role.ASSISTANT:
        raise BadRequestError(
            f"{where}.tool_calls: only the assistant calls tools", param=f"{where}.tool_calls"
        )
    parts: list[Part] = [TextPart(text, _ORIGINS[role])] if text else []
    parts += [
        CallPart(call.id, call.function.name, call.function.arguments)
        for call in body.tool_calls or ()
    ]
    return Message(role, tuple(parts))


def tools_of(body: ChatBody) -> tuple[Tool, ...]:
    """Return the client's tools."""
    return tuple(
        Tool(
            tool.function.name,
            tool.function.description,
            msgspec.json.encode(tool.function.parameters).decode(),
        )
        for tool in body.tools or ()
    )


def sampling_of(body: ChatBody) -> Sampling:
    """Return how the tokens are to be drawn."""
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    options = {
        name: value for name in _ENGINE_OPTIONS if (value := getattr(body, name)) is not None
    }
    return Sampling(
        tokens_max=body.max_completion_tokens or body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        seed=body.seed,
        stop=stop,
        options=options,
    )


class Encoder:
    """Writes one answer in OpenAI's form."""

    def __init__(self, completion_id: str, model: str, created_s: int, *, usage: bool) -> None:
        self._head = {"id": completion_id, "created": created_s, "model": model}
        prefix = msgspec.json.encode({**self._head, "object": "chat.completion.chunk"})[:-1]
        self._prefix = b"data: " + prefix + b',"choices":['
        self._suffix = b'],"usage":null}\n\n' if usage else b"]}\n\n"
        self._usage = usage
        self._calls = 0

    def first(self) -> bytes:
        """Return the chunk that opens the stream."""
        return self._chunk({"role": "assistant", "content": ""}, None)

    def chunk(self, delta: Delta) -> bytes:
        """Return the server-sent event of a delta; empty where there is nothing to say."""
        match delta:
            case Text(text):
                content = b'{"index":0,"delta":{"content":' + msgspec.json.encode(text)
                return self._prefix + content + b'},"finish_reason":null}' + self._suffix
            case ToolCall():
                call = {"index": self._calls, **_call(delta)}
                self._calls += 1
                return self._chunk({"tool_calls": [call]}, None)
            case Cited(citations):
                return self._chunk({"annotations": annotations(citations)}, None)
            case Finished(reason):
                return self._chunk({}, reason)
            case Usage():
                return b""

    def last(self, usage: Usage | None) -> bytes:
        """Return the usage chunk, when asked for, and the end mark."""
        if not self._usage:
            return b"data: [DONE]\n\n"
        chunk: dict[str, Any] = {
            **self._head,
            "object": "chat.completion.chunk",
            "choices": [],
            "usage": usage_body(usage),
        }
        return b"data: " + msgspec.json.encode(chunk) + b"\n\ndata: [DONE]\n\n"

    def whole(self, deltas: Iterable[Delta]) -> bytes:
        """Return the answer as one object."""
        text: list[str] = []
        calls: list[dict[str, Any]] = []
        cited: list[dict[str, Any]] = []
        usage, reason = None, FinishReason.STOP
        for delta in deltas:
            match delta:
                case Text():
                    text.append(delta.text)
                case ToolCall():
                    calls.append(_call(delta))
                case Cited():
                    cited += annotations(delta.citations)
                case Usage():
                    usage = delta
                case Finished():
                    reason = delta.reason
        message: dict[str, Any] = {
            "role": "assistant",
            "content": "".join(text) if text or not calls else None,
            "refusal": None,
            "annotations": cited,
        }
        if calls:
            message["tool_calls"] = calls
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        return msgspec.json.encode(
            {
                **self._head,
                "object": "chat.completion",
                "choices": [choice],
                "usage": usage_body(usage),
            }
        )

    def _chunk(self, delta: dict[str, Any], reason: FinishReason | None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return self._prefix + msgspec.json.encode(choice) + self._suffix


def annotations(citations: Sequence[Citation]) -> list[dict[str, Any]]:
    """Return citations as annotations of a message."""
    return [
        {
            "type": "file_citation",
            "file_citation": {
                "file_id": citation.document,
                "filename": citation.path,
                "start_index": citation.start,
                "end_index": citation.end,
                "first_line": citation.line_first,
                "last_line": citation.line_last,
                **({} if citation.page is None else {"page": citation.page}),
                "quote": citation.quote,
                "score": round(citation.score, 4),
            },
        }
        for citation in citations
    ]


def usage_body(usage: Usage | None) -> dict[str, Any]:
    """Return the token counts in OpenAI's names."""
    usage = usage or Usage(0, 0)
    return {
        "prompt_tokens": usage.tokens_in,
        "completion_tokens": usage.tokens_out,
        "total_tokens": usage.tokens_in + usage.tokens_out,
        "prompt_tokens_details": {"cached_tokens": usage.tokens_cached},
    }


def error_body(error: MurmurateError) -> dict[str, Any]:
    """Return an error in OpenAI's form."""
    body = {
        "message": error.detail,
        "type": error.kind,
        "param": error.param,
        "code": error.code,
    }
    return {"error": body}


def error_event(error: MurmurateError) -> bytes:
    """Return an error as the last event of a stream that broke."""
    return b"data: " + msgspec.json.encode(error_body(error)) + b"\n\n"


def error_line(error: MurmurateError) -> bytes:
    """Return an error as the last of a stream of JSON lines."""
    return msgspec.json.encode(error_body(error)) + b"\n"


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}
