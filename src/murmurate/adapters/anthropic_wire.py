"""Anthropic's Messages API without the network: a request to bytes, its events to deltas.

After https://platform.claude.com/docs/en/api/messages and `…/build-with-claude/streaming`, version
2023-06-01. What it has no word for is refused by name; `seed` alone is left out, as it promises
nothing anywhere.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from murmurate.adapters.openai_wire import Tally, UpstreamError, is_object
from murmurate.core.errors import (
    BadRequestError,
    EngineFailedError,
    EngineUnreachableError,
    MurmurateError,
    OverloadedError,
)
from murmurate.core.types import (
    CallPart,
    Delta,
    Finished,
    FinishReason,
    Message,
    Request,
    ResultPart,
    Role,
    Sampling,
    Text,
    ToolCall,
    Usage,
)

VERSION = "2023-06-01"
TOKENS_MAX = 4096
"""It wants a bound; all of its models can write this much."""

BUSY_S = 1.0
_REASONS = {
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "tool_use": FinishReason.TOOL_CALLS,
}
"""Whatever else it says (end_turn, stop_sequence, refusal, pause_turn) is an answer that ended."""

_BUSY = {"overloaded_error", "rate_limit_error"}
_OURS_TO_MEND = {"authentication_error", "permission_error", "not_found_error", "billing_error"}


def encode(request: Request, name: str) -> bytes:
    """Return the body of the request; always streaming, as only a stream can be cancelled.

    `BadRequestError` for an option that the API does not have.
    """
    sampling = request.sampling
    own = {
        "system": "\n\n".join(m.text for m in request.messages if m.role is Role.SYSTEM) or None,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.options.get("top_k"),
        "stop_sequences": sampling.stop or None,
        "tools": [
            {
                "name": tool.name,
                "description": tool.description,
                "input_schema": _schema(tool.parameters),
            }
            for tool in request.tools
        ]
        or None,
        "tool_choice": _tool_choice(sampling, name) if request.tools else None,
    }
    _check_options(sampling, name)
    return msgspec.json.encode(
        {
            **{key: value for key, value in own.items() if value is not None},
            "model": name,
            "max_tokens": sampling.tokens_max or TOKENS_MAX,
            "messages": _messages(request.messages),
            "stream": True,
        }
    )


def _check_options(sampling: Sampling, name: str) -> None:
    known = {"tool_choice", "parallel_tool_calls", "top_k"}
    for option, value in sampling.options.items():
        if option not in known and not (option == "response_format" and value == {"type": "text"}):
            raise BadRequestError(
                f"{option}: {name} is served by the Messages API, which has no such option",
                param=option,
            )


def _schema(parameters: str) -> msgspec.Raw:
    """Return a tool's schema; the API refuses one without a type."""
    return msgspec.Raw(b'{"type":"object"}' if parameters == "{}" else parameters.encode())


def _tool_choice(sampling: Sampling, name: str) -> dict[str, Any] | None:
    asked: object = sampling.options.get("tool_choice", "auto")
    match asked:
        case "auto" | "none":
            choice: dict[str, Any] = {"type": asked}
        case "required":
            choice = {"type": "any"}
        case {"type": "function", "function": {"name": str(tool)}}:
            choice = {"type": "tool", "name": tool}
        case _:
            raise BadRequestError(
                f"tool_choice = {asked!r}: {name} knows auto, none, required and one function",
                param="tool_choice",
            )
    if sampling.options.get("parallel_tool_calls") is False and asked != "none":
        choice["disable_parallel_tool_use"] = True
    return None if choice == {"type": "auto"} else choice


def _messages(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """Return the turns: the results of one turn's calls must be in one message, before its text."""
    turns: list[tuple[str, list[dict[str, Any]]]] = []
    for message in messages:
        if message.role is Role.SYSTEM:
            continue
        role = "assistant" if message.role is Role.ASSISTANT else "user"
        blocks = _blocks(message)
        if turns and turns[-1][0] == role:
            turns[-1][1].extend(blocks)
        elif blocks:  # it refuses a message without content
            turns.append((role, blocks))
    return [{"role": role, "content": blocks} for role, blocks in turns]


def _blocks(message: Message) -> list[dict[str, Any]]:
    """Return the parts of a message; the API refuses a text that is empty."""
    results = [
        {"type": "tool_result", "tool_use_id": part.call_id, "content": part.text}
        for part in message.parts
        if isinstance(part, ResultPart)
    ]
    text = [{"type": "text", "text": message.text}] if message.text.strip() else []
    calls = [_call(part) for part in message.parts if isinstance(part, CallPart)]
    return [*results, *text, *calls]


def _call(part: CallPart) -> dict[str, Any]:
    """Return a call of the past; arguments that are no object become one that says so."""
    fits = is_object(part.arguments)
    given = msgspec.Raw(part.arguments.encode()) if fits else {"invalid": part.arguments}
    return {"type": "tool_use", "id": part.id, "name": part.name, "input": given}


class _Counts(msgspec.Struct, frozen=True):
    """Tokens; `input_tokens` is without those that the cache has, or now keeps."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


class _Begun(msgspec.Struct, frozen=True):
    usage: _Counts = _Counts()


class _Block(msgspec.Struct, frozen=True):
    type: str = ""
    id: str | None = None
    name: str = ""
    text: str = ""
    input: msgspec.Raw = msgspec.Raw(b"{}")


class _Piece(msgspec.Struct, frozen=True):
    text: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None


class _Event(msgspec.Struct, frozen=True):
    type: str
    index: int = 0
    message: _Begun = _Begun()
    content_block: _Block = _Block()
    delta: _Piece = _Piece()
    usage: _Counts | None = None
    error: UpstreamError = UpstreamError()


_decode = msgspec.json.Decoder(_Event).decode


class _Call:
    """A tool call that is still being put together."""

    def __init__(self, block: _Block) -> None:
        self.id = block.id
        self.name = block.name
        self.whole = bytes(block.input).decode()
        self.pieces: list[str] = []

    @property
    def arguments(self) -> str:
        return "".join(self.pieces) or self.whole


class Assembler:
    """Turns events into deltas, as the one of OpenAI's protocol does. A ping is no progress."""

    def __init__(
        self, name: str, new_id: Callable[[], str], *, redacted: Callable[[str], str]
    ) -> None:
        self._name = name
        self._new_id = new_id
        self._redacted = redacted
        self._tally = Tally(name)
        self._calls: dict[int, _Call] = {}
        self._counts: dict[str, int] = {}
        self._reason: str | None = None
        self.done = False
        self.events = 0
        """Without pings."""

    def feed(self, payload: bytes) -> list[Text]:
        """Take a payload; return the text in it. Sets `done` at the protocol's own end mark."""
        try:
            event = _decode(payload)
        except msgspec.DecodeError as cause:
            raise EngineFailedError(f"{self._name} sent garbage: {cause}") from cause
        if event.type == "ping":
            return []
        self.events += 1
        self._tally.events(self.events)
        match event.type:
            case "content_block_delta":
                return self._piece(event.index, event.delta)
            case "content_block_start":
                return self._begin(event.index, event.content_block)
            case "message_start":
                self._count(event.message.usage)
            case "message_delta":
                self._reason = event.delta.stop_reason or self._reason
                self._count(event.usage or _Counts())
            case "message_stop":
                self.done = True
            case "error":
                message = self._redacted(event.error.message)
                raise failure(self._name, msgspec.structs.replace(event.error, message=message))
            case _:  # the API says that it may add kinds of events
                pass
        return []

    def end(self) -> list[Delta]:
        """Return what comes last: tool calls, usage, `Finished`. Raises if the answer was cut."""
        if not self.done and self._reason is None:
            raise EngineFailedError(f"{self._name} broke off before the end of its answer")
        reason = _REASONS.get(self._reason or "", FinishReason.STOP)
        calls = [
            ToolCall(call.id or self._new_id(), call.name, call.arguments)
            for _, call in sorted(self._calls.items())
        ]
        if reason is FinishReason.LENGTH:
            calls = [call for call in calls if is_object(call.arguments)]
        elif calls:
            reason = FinishReason.TOOL_CALLS
        return [*calls, *self._usage(), Finished(reason)]

    def _begin(self, index: int, block: _Block) -> list[Text]:
        if block.type == "tool_use":
            self._calls[index] = _Call(block)
            self._tally.calls(len(self._calls), len(block.name) + len(block.input))
        elif block.type == "text" and block.text:
            self._tally.text(len(block.text))
            return [Text(block.text)]
        return []

    def _piece(self, index: int, piece: _Piece) -> list[Text]:
        call = self._calls.get(index)
        if piece.partial_json and call is not None:
            call.pieces.append(piece.partial_json)
            self._tally.calls(len(self._calls), len(piece.partial_json))
        if not piece.text:
            return []
        self._tally.text(len(piece.text))
        return [Text(piece.text)]

    def _count(self, counts: _Counts) -> None:
        """Keep the newest of each: those of the end are sums over the whole answer."""
        found: Mapping[str, int | None] = msgspec.structs.asdict(counts)
        self._counts |= {name: count for name, count in found.items() if count is not None}

    def _usage(self) -> list[Usage]:
        counts = self._counts
        if "input_tokens" not in counts:
            return []
        cached = counts.get("cache_read_input_tokens", 0)
        tokens_in = counts["input_tokens"] + counts.get("cache_creation_input_tokens", 0) + cached
        return [Usage(tokens_in, counts.get("output_tokens", 0), cached)]


def failure(name: str, said: UpstreamError) -> MurmurateError:
    """Return the error for a stream that ends with one."""
    if too_long := said.too_long(name):
        return too_long
    if said.type in _BUSY:
        return OverloadedError(f"{name} is busy: {said.detail}", retry_s=BUSY_S)
    if said.type in _OURS_TO_MEND:
        return EngineUnreachableError(f"{name} refuses ({said.type}); check its key and account")
    if said.type == "invalid_request_error":
        return BadRequestError(f"{name}: {said.detail}")
    return EngineFailedError(f"{name} failed: {said.detail}")
