"""The body of `POST /v1/responses`: its fields, and what is refused by name. Pure.

Known fields are checked, unknown ones refused, as OpenAI does; an input item may have more fields
than we know, since clients send back what other servers gave them.
"""

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from murmurate.core.errors import BadRequestError
from murmurate.gateway.chat import Count

_T = TypeVar("_T")

ITEMS_MAX = 10_000
ID_CHARS_MAX = 200
LOGPROBS = "message.output_text.logprobs"

Words = Annotated[str, Meta(max_length=512)]
Key = Annotated[str, Meta(min_length=1, max_length=64)]
Id = Annotated[str, Meta(min_length=1, max_length=ID_CHARS_MAX)]
Metadata = Annotated[dict[Key, Words], Meta(max_length=16)]
Tier = Literal["auto", "default", "flex", "scale", "priority", "batch"]
BATCH_TIERS: tuple[Tier, ...] = ("flex", "batch")
Include = Literal[
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
]


class PartBody(msgspec.Struct):
    """A piece of an item's content."""

    type: str = "input_text"
    text: str | None = None
    refusal: str | None = None


class ItemBody(msgspec.Struct):
    """An item of the input; which fields count follows from its type."""

    type: str | None = None
    id: Id | None = None
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | list[PartBody] | None = None
    call_id: Key | None = None
    name: Annotated[str, Meta(pattern="^[a-zA-Z0-9_-]{1,64}$")] | None = None
    arguments: str | None = None
    output: str | list[PartBody] | None = None
    summary: list[PartBody] | None = None
    encrypted_content: str | None = None


class ToolBody(msgspec.Struct):
    """A tool that the client offers; only functions are the client's own."""

    type: str
    name: Annotated[str, Meta(pattern="^[a-zA-Z0-9_-]{1,64}$")] | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ChoiceBody(msgspec.Struct):
    """Which tool the model shall call, or which ones it may."""

    type: str
    name: str | None = None
    mode: Literal["none", "auto", "required"] = "auto"
    tools: Annotated[list["ChoiceBody"], Meta(min_length=1, max_length=128)] | None = None


class FormatBody(msgspec.Struct):
    """What the answer's text must be."""

    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[str, Meta(pattern="^[a-zA-Z0-9_-]{1,64}$")] | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class TextBody(msgspec.Struct, forbid_unknown_fields=True):
    """How the answer is to be written."""

    format: FormatBody | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningBody(msgspec.Struct):
    """How much the model shall think."""

    effort: str | None = None
    summary: str | None = None


class StreamBody(msgspec.Struct):
    """No padding is ever added, so there is nothing to choose."""

    include_obfuscation: bool | None = None


class ConversationBody(msgspec.Struct):
    """The conversation that a response belongs to."""

    id: Id


class ResponseBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST /v1/responses`."""

    model: str
    input: str | Annotated[list[ItemBody], Meta(max_length=ITEMS_MAX)] | None = None
    instructions: str | None = None
    previous_response_id: Id | None = None
    conversation: Id | ConversationBody | None = None
    tools: Annotated[list[ToolBody], Meta(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChoiceBody | None = None
    parallel_tool_calls: bool | None = None
    text: TextBody | None = None
    reasoning: ReasoningBody | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    max_output_tokens: Count | None = None
    metadata: Metadata | None = None
    include: list[Include] | None = None
    store: bool | None = None
    background: bool | None = None
    stream: bool | None = None
    stream_options: StreamBody | None = None
    truncation: Literal["auto", "disabled"] | None = None
    service_tier: Tier | None = None
    # Accepted, and without effect here: they concern tools, caches and accounts of the vendor.
    max_tool_calls: Count | None = None
    prompt_cache_key: Key | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: Key | None = None
    user: str | None = None


def check(body: ResponseBody) -> None:
    """Refuse what is well-formed and can't be had here, by its name."""
    _check_tools(body)
    _check_place(body)
    if body.top_logprobs or LOGPROBS in (body.include or ()):
        field = "top_logprobs" if body.top_logprobs else "include"
        raise refused(field, "log probabilities are not given out here")
    form = body.text.format if body.text is not None else None
    if form is not None and form.type == "json_schema":
        for field, value in (("name", form.name), ("schema", form.schema)):
            if value is None:
                raise refused(f"text.format.{field}", "expected for a json_schema")
    allowed(body)


def _check_tools(body: ResponseBody) -> None:
    for index, tool in enumerate(body.tools or ()):
        if tool.type != "function":
            raise refused(
                f"tools[{index}].type",
                f"{tool.type[:64]!r} is a tool of the vendor's; this server has 'function', and"
                " agents that bring their own tools",
            )
        if tool.name is None:
            raise refused(f"tools[{index}].name", "expected the function's name")


def _check_place(body: ResponseBody) -> None:
    """Refuse what can't be worked on, or kept, as it is asked for."""
    if body.background and body.store is False:
        raise refused("store", "a response in the background is stored: leave `store` out")
    if body.conversation is not None and body.previous_response_id is not None:
        raise refused("conversation", "it continues `previous_response_id` already: leave one out")
    if body.conversation is not None and body.background:
        raise refused("conversation", "a response in the background belongs to none here")


def refused(field: str, why: str) -> BadRequestError:
    """Return the error that names a field and says what is wrong with it."""
    return BadRequestError(f"{field}: {why}", param=field)


def allowed(body: ResponseBody) -> frozenset[str] | None:
    """Return the functions that may be called; None stands for all that are offered.

    `BadRequestError`: the choice names what is not offered.
    """
    choice = body.tool_choice
    if not isinstance(choice, ChoiceBody):
        return frozenset() if choice == "none" else None
    chosen = choice.tools if choice.type == "allowed_tools" else [choice]
    offered = {tool.name for tool in body.tools or ()}
    for one in need(chosen, "tool_choice.tools"):
        if one.type != "function":
            raise refused(
                "tool_choice.type", f"{one.type[:64]!r}: expected function or allowed_tools"
            )
        if one.name not in offered:
            raise refused("tool_choice.name", f"{one.name!r} is none of the tools")
    return frozenset(one.name for one in chosen or () if one.name is not None)


def need(value: _T | None, where: str) -> _T:
    """Return the value of a field that must have one."""
    if value is None:
        raise BadRequestError(f"{where}: expected a value", param=where)
    return value
