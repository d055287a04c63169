"""The response object: every field of the specification, null or empty where nothing is. Pure."""

from typing import Any, Literal

import msgspec

from murmurate.core.errors import MurmurateError
from murmurate.core.types import Frozen, Usage
from murmurate.gateway.responses.items import Item

State = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
ENDED: tuple[State, ...] = ("completed", "incomplete", "failed", "cancelled")


class Broken(Frozen, frozen=True):
    """Why a response failed, in our stable codes."""

    code: str
    message: str


class Incomplete(Frozen, frozen=True):
    """Why a response is not complete."""

    reason: str


class InputDetails(Frozen, frozen=True):
    """What the tokens of the input were."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputDetails(Frozen, frozen=True):
    """What the tokens of the output were."""

    reasoning_tokens: int = 0


class Tokens(Frozen, frozen=True):
    """How many tokens were read and written."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class FunctionTool(Frozen, frozen=True, tag="function"):
    """A function that the client offers."""

    name: str
    description: str | None
    parameters: dict[str, Any] | None
    strict: bool | None


class Reasoning(Frozen, frozen=True):
    """How much the model was asked to think."""

    effort: str | None = None
    summary: str | None = None


class Reference(Frozen, frozen=True):
    """What a response belongs to."""

    id: str


class Resource(Frozen, frozen=True, kw_only=True):
    """A response as clients see it.

    Numbers that nobody asked for are shown as OpenAI's defaults; what is drawn with then is the
    model's own configuration.
    """

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: State = "in_progress"
    background: bool
    error: Broken | None = None
    incomplete_details: Incomplete | None = None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    model: str
    output: tuple[Item, ...] = ()
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: Reasoning
    safety_identifier: str | None
    service_tier: str
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: tuple[FunctionTool, ...]
    top_logprobs: int = 0
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    truncation: Literal["auto", "disabled"]
    usage: Tokens | None = None
    user: str | None
    metadata: dict[str, str]
    conversation: Reference | None = None


def tokens_of(usage: Usage) -> Tokens:
    """Return the token counts in OpenAI's names."""
    return Tokens(
        input_tokens=usage.tokens_in,
        input_tokens_details=InputDetails(usage.tokens_cached),
        output_tokens=usage.tokens_out,
        output_tokens_details=OutputDetails(),
        total_tokens=usage.tokens_in + usage.tokens_out,
    )


def failed(response: Resource, code: str, message: str) -> Resource:
    """Return the response as one that has failed."""
    return msgspec.structs.replace(response, status="failed", error=Broken(code, message))


def failed_of(response: Resource, error: MurmurateError) -> Resource:
    """Return the response as one that has failed with that error."""
    return failed(response, error.code, error.detail)
