"""OpenAI's chat protocol without the network: a request to bytes, a stream of bytes to deltas."""

from collections.abc import Callable
from typing import Any

import msgspec

from murmurate.core.errors import EngineFailedError, MurmurateError, PromptTooLongError
from murmurate.core.types import (
    CallPart,
    Delta,
    Finished,
    FinishReason,
    Message,
    Request,
    ResultPart,
    Role,
    Text,
    ToolCall,
    Usage,
)

LINE_BYTES_MAX = 1024 * 1024
CALLS_MAX = 64
CALLS_BYTES_MAX = 1024 * 1024
ANSWER_CHARS_MAX = 8 * 1024 * 1024
ANSWER_EVENTS_MAX = 512 * 1024
"""Whoever collects an answer keeps each event's text, so many small ones weigh more than a few."""

DETAIL_CHARS_MAX = 300

_REASONS = {
    "length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
}
"""Whatever else an upstream says ("stop", "content_filter", "eos") is an answer that ended."""

_TOO_LONG = {"exceed_context_size_error", "context_length_exceeded"}
_TOO_LONG_WORDS = ("prompt is too long", "exceed context limit", "maximum context length")
"""Anthropic's, twice, and vLLM's: their codes tell it from no other wrong request."""


class UpstreamError(msgspec.Struct, frozen=True):
    """What an upstream says of its failure; llama.cpp adds the two sizes."""

    message: str = ""
    type: str | None = None
    code: str | int | None = None
    n_prompt_tokens: int | None = None
    n_ctx: int | None = None

    @property
    def detail(self) -> str:
        """The message, bounded."""
        return self.message[:DETAIL_CHARS_MAX]

    def too_long(self, name: str) -> PromptTooLongError | None:
        """Return the error to raise if the prompt did not fit."""
        if not {self.type, self.code} & _TOO_LONG and not any(
            words in self.message for words in _TOO_LONG_WORDS
        ):
            return None
        if self.n_prompt_tokens is None or self.n_ctx is None:
            return PromptTooLongError(f"{name}: {self.detail}", param="messages")
        return PromptTooLongError(
            f"the prompt has {self.n_prompt_tokens} tokens, but the context of {name} "
            f"has {self.n_ctx}; shorten it",
            param="messages",
        )


class ErrorBody(msgspec.Struct, frozen=True):
    """The body of a refusal."""

    error: UpstreamError | str

    @property
    def said(self) -> UpstreamError:
        """The error, in one shape."""
        return UpstreamError(self.error) if isinstance(self.error, str) else self.error


class _Function(msgspec.Struct, frozen=True):
    name: str | None = None
    arguments: str | None = None


class _CallPiece(msgspec.Struct, frozen=True):
    index: int | None = None
    id: str | None = None
    function: _Function = _Function()


class _Piece(msgspec.Struct, frozen=True):
    content: str | None = None
    tool_calls: list[_CallPiece] | None = None


class _Choice(msgspec.Struct, frozen=True):
    delta: _Piece | None = None
    finish_reason: str | None = None


class _Details(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None


class _Chunk(msgspec.Struct, frozen=True):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: UpstreamError | str | None = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_decode_error = msgspec.json.Decoder(ErrorBody).decode


def encode(request: Request, name: str) -> bytes:
    """Return the body of the request; always streaming, as only a stream can be cancelled."""
    sampling = request.sampling
    own = {
        "max_tokens": sampling.tokens_max,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
        "stop": sampling.stop or None,
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": msgspec.Raw(tool.parameters.encode()),
                },
            }
            for tool in request.tools
        ]
        or None,
    }
    return msgspec.json.encode(
        {
            **sampling.options,
            **{key: value for key, value in own.items() if value is not None},
            "model": name,
            "messages": _messages(request.messages),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    )


def _messages(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """System text goes first, in one message: many chat templates allow no other place for it."""
    system = "\n\n".join(m.text for m in messages if m.role is Role.SYSTEM and m.text)
    wire: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for message in messages:
        if message.role is not Role.SYSTEM:
            wire.extend(_turn(message))
    return wire


def _turn(message: Message) -> list[dict[str, Any]]:
    """Return a turn as one message, behind one message for each tool result in it."""
    results = [part for part in message.parts if isinstance(part, ResultPart)]
    calls = [part for part in message.parts if isinstance(part, CallPart)]
    wire: list[dict[str, Any]] = [
        {"role": "tool", "tool_call_id": part.call_id, "content": part.text} for part in results
    ]
    if calls:
        wire.append(
            {
                "role": "assistant",
                "content": message.text or None,
                "tool_calls": [_call(part) for part in calls],
            }
        )
    elif message.text or not results:
        wire.append({"role": message.role.value, "content": message.text})
    return wire


def _call(part: CallPart) -> dict[str, Any]:
    """Arguments that are no JSON object, as a weak model writes them, would be refused with 500."""
    fits = is_object(part.arguments)
    arguments = (
        part.arguments if fits else msgspec.json.encode({"invalid": part.arguments}).decode()
    )
    function = {"name": part.name, "arguments": arguments}
    return {"id": part.id, "type": "function", "function": function}


def decode_error(body: bytes) -> UpstreamError:
    """Return what a refusal says; a body of no known form becomes the message itself."""
    try:
        return _decode_error(body).said
    except msgspec.DecodeError:
        return UpstreamError(body[:DETAIL_CHARS_MAX].decode(errors="replace").strip())


class Events:
    """Cuts a byte stream into the payloads of its server-sent events, wherever chunks are cut."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take the next bytes; return the payloads that are complete now.

        `EngineFailedError` when a line, or the lines of an event, grow over `LINE_BYTES_MAX`.
        """
        lines = (self._rest + chunk).split(b"\n")
        self._rest = lines.pop()
        payloads: list[bytes] = []
        for line in lines:
            if line in (b"", b"\r"):
                if self._data:
                    payloads.append(b"\n".join(self._data))
                    self._data.clear()
                    self._data_bytes = 0
            elif line.startswith(b"data:"):
                self._data.append(line[5:].removesuffix(b"\r").removeprefix(b" "))
                self._data_bytes += len(line)
        if max(len(self._rest), self._data_bytes) > LINE_BYTES_MAX:
            raise EngineFailedError(f"the upstream sent an event of over {LINE_BYTES_MAX} bytes")
        return payloads


class Tally:
    """How much an answer is; `EngineFailedError` over a bound, as it may never come to an end."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._chars = 0
        self._calls_bytes = 0

    def events(self, events: int) -> None:
        """Note how many events there are."""
        if events > ANSWER_EVENTS_MAX:
            raise EngineFailedError(
                f"{self._name} sent over {ANSWER_EVENTS_MAX} events in one answer"
            )

    def text(self, chars: int) -> None:
        """Count characters of text or of calls."""
        self._chars += chars
        if self._chars > ANSWER_CHARS_MAX:
            raise EngineFailedError(
                f"{self._name} sent over {ANSWER_CHARS_MAX} characters in one answer"
            )

    def calls(self, calls: int, chars: int) -> None:
        """Note how many calls there are, and count characters of theirs."""
        self.text(chars)
        self._calls_bytes += chars
        if calls > CALLS_MAX or self._calls_bytes > CALLS_BYTES_MAX:
            raise EngineFailedError(
                f"{self._name} asked for over {CALLS_MAX} tools or {CALLS_BYTES_MAX} bytes"
            )


class _Call:
    """A tool call that is still being put together."""

    def __init__(self) -> None:
        self.id: str | None = None
        self.name = ""
        self.arguments: list[str] = []


class Assembler:
    """Turns payloads into deltas: text as it comes, tool calls when they are whole.

    `new_id` names tool calls that the upstream gave no id. `redacted` takes the secrets out of
    what the upstream says of its failure: some echo what they were sent.
    """

    def __init__(
        self, name: str, new_id: Callable[[], str], *, redacted: Callable[[str], str]
    ) -> None:
        self._name = name
        self._new_id = new_id
        self._redacted = redacted
        self._calls: dict[int, _Call] = {}
        self._tally = Tally(name)
        self._usage: _Usage | None = None
        self._reason: str | None = None
        self.done = False
        self.events = 0

    def feed(self, payload: bytes) -> list[Text]:
        """Take a payload; return the text in it. Sets `done` at the protocol's own end mark.

        `EngineFailedError` for an answer over its bounds: this upstream may never come to an end.
        """
        if payload == b"[DONE]":
            self.done = True
            return []
        self.events += 1
        if self.events > ANSWER_EVENTS_MAX:  # here, too: a call for each costs more than this
            self._tally.events(self.events)
        try:
            chunk = _decode_chunk(payload)
        except msgspec.DecodeError as cause:
            raise EngineFailedError(f"{self._name} sent garbage: {cause}") from cause
        if chunk.error is not None:
            said = ErrorBody(chunk.error).said
            message = self._redacted(said.message)
            raise _failure(self._name, msgspec.structs.replace(said, message=message))
        if chunk.usage is not None:
            self._usage = chunk.usage
        if not chunk.choices:
            return []
        choice = chunk.choices[0]
        self._reason = choice.finish_reason or self._reason
        if choice.delta is None:
            return []
        for piece in choice.delta.tool_calls or ():
            self._join(piece)
        if not choice.delta.content:
            return []
        self._tally.text(len(choice.delta.content))
        return [Text(choice.delta.content)]

    def end(self) -> list[Delta]:
        """Return what comes last: tool calls, usage, `Finished`. Raises if the answer was cut."""
        if not self.done and self._reason is None:
            raise EngineFailedError(f"{self._name} broke off before the end of its answer")
        reason = _REASONS.get(self._reason or "", FinishReason.STOP)
        calls = [
            ToolCall(call.id or self._new_id(), call.name, "".join(call.arguments) or "{}")
            for _, call in sorted(self._calls.items())
        ]
        if reason is FinishReason.LENGTH:
            calls = [call for call in calls if is_object(call.arguments)]
        elif calls:
            reason = FinishReason.TOOL_CALLS
        deltas: list[Delta] = [*calls]
        if self._usage is not None:
            deltas.append(_usage(self._usage))
        return [*deltas, Finished(reason)]

    def _join(self, piece: _CallPiece) -> None:
        index = piece.index
        if index is None:  # some upstreams send whole calls without an index
            index = len(self._calls) if piece.id or not self._calls else max(self._calls)
        call = self._calls.setdefault(index, _Call())
        call.id = piece.id or call.id
        name, arguments = piece.function.name or "", piece.function.arguments or ""
        call.name += name
        if arguments:
            call.arguments.append(arguments)
        self._tally.calls(len(self._calls), len(name) + len(arguments))


def _failure(name: str, said: UpstreamError) -> MurmurateError:
    return said.too_long(name) or EngineFailedError(f"{name} failed: {said.detail}")


def _usage(usage: _Usage) -> Usage:
    details = usage.prompt_tokens_details
    cached = details.cached_tokens if details is not None else None
    return Usage(usage.prompt_tokens, usage.completion_tokens, cached or 0)


def is_object(text: str) -> bool:
    """Say whether the text is a whole JSON object; a cut one is of no use to anybody."""
    try:
        msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError:
        return False
    return True
