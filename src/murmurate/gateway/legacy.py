"""OpenAI's first completions: a prompt becomes a user's message; deltas become a text. Pure.

Our engines are asked in messages, so a prompt goes through the model's chat template: it is
answered rather than continued.
"""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from murmurate.core.errors import BadRequestError
from murmurate.core.types import (
    Delta,
    Finished,
    FinishReason,
    Message,
    Origin,
    OriginKind,
    Role,
    Sampling,
    Text,
    TextPart,
    Usage,
)
from murmurate.gateway.chat import Count, StreamOptions, Whole, usage_body

TOKENS_MAX_DEFAULT = 16
"""OpenAI's own."""
DONE = b"data: [DONE]\n\n"


class CompletionBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST /v1/completions`."""

    model: str
    prompt: str | Annotated[list[str], Meta(min_length=1, max_length=1)]
    max_tokens: Count | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    seed: Whole | None = None
    stop: str | Annotated[list[str], Meta(max_length=16)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    logit_bias: dict[str, float] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None
    user: str | None = None
    """Accepted, and without effect here: it concerns the vendor's own accounting."""


def prompt_of(body: CompletionBody) -> Message:
    """Return the prompt as a message, or `BadRequestError` for one without a word."""
    text = body.prompt if isinstance(body.prompt, str) else body.prompt[0]
    if not text:
        raise BadRequestError("prompt: expected some text", param="prompt")
    return Message(Role.USER, (TextPart(text, Origin(OriginKind.USER)),))


def sampling_of(body: CompletionBody) -> Sampling:
    """Return how the tokens are to be drawn."""
    options: dict[str, Any] = {
        "presence_penalty": body.presence_penalty,
        "frequency_penalty": body.frequency_penalty,
        "logit_bias": body.logit_bias,
    }
    return Sampling(
        tokens_max=body.max_tokens or TOKENS_MAX_DEFAULT,
        temperature=body.temperature,
        top_p=body.top_p,
        seed=body.seed,
        stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
        options={name: value for name, value in options.items() if value is not None},
    )


class TextEncoder:
    """Writes one answer as a text completion."""

    def __init__(self, completion_id: str, model: str, created_s: int, *, usage: bool) -> None:
        self._head = {
            "id": completion_id,
            "object": "text_completion",
            "created": created_s,
            "model": model,
        }
        self._usage = usage

    def first(self) -> bytes:
        """Return the chunk that opens the stream."""
        return self._chunk("", None)

    def chunk(self, delta: Delta) -> bytes:
        """Return the server-sent event of a delta; empty where a text has no place for it."""
        match delta:
            case Text(text):
                return self._chunk(text, None)
            case Finished(reason):
                return self._chunk("", reason)
            case _:
                return b""

    def last(self, usage: Usage | None) -> bytes:
        """Return the usage chunk, when asked for, and the end mark."""
        if not self._usage:
            return DONE
        return _event({**self._head, "choices": [], "usage": usage_body(usage)}) + DONE

    def whole(self, deltas: Iterable[Delta]) -> bytes:
        """Return the answer as one object."""
        text, usage, reason = "", None, FinishReason.STOP
        for delta in deltas:
            match delta:
                case Text():
                    text += delta.text
                case Usage():
                    usage = delta
                case Finished():
                    reason = delta.reason
                case _:
                    pass
        choices = [_choice(text, reason)]
        return msgspec.json.encode({**self._head, "choices": choices, "usage": usage_body(usage)})

    def _chunk(self, text: str, reason: FinishReason | None) -> bytes:
        usage = {"usage": None} if self._usage else {}
        return _event({**self._head, "choices": [_choice(text, reason)], **usage})


def _choice(text: str, reason: FinishReason | None) -> dict[str, Any]:
    return {"text": text, "index": 0, "logprobs": None, "finish_reason": reason}


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"
