"""What a request asks for besides its input: told to the engine, and shown to the client. Pure."""

from collections.abc import Sequence
from typing import Any

import msgspec

from murmurate.core.types import Sampling, Tool
from murmurate.gateway.responses.body import (
    BATCH_TIERS,
    ChoiceBody,
    FormatBody,
    ResponseBody,
    allowed,
)
from murmurate.gateway.responses.resource import FunctionTool, Reasoning, Reference, Resource


def tools_of(body: ResponseBody) -> tuple[Tool, ...]:
    """Return the tools that the model may call.

    Of those that `allowed_tools` leaves out it does not hear: what it can't see it can't call.
    """
    may_call = allowed(body)
    return tuple(
        Tool(
            tool.name,
            tool.description or "",
            msgspec.json.encode(tool.parameters or {}).decode(),
        )
        for tool in body.tools or ()
        if tool.name is not None and (may_call is None or tool.name in may_call)
    )


def allowed_of(response: Resource) -> frozenset[str] | None:
    """Return the only functions that the model may call; None where the choice is its own."""
    choice = response.tool_choice
    if choice == "none" or (isinstance(choice, dict) and choice.get("mode") == "none"):
        return frozenset()
    if isinstance(choice, str):
        return None
    chosen: Sequence[dict[str, Any]] = choice.get("tools") or [choice]
    return frozenset(one["name"] for one in chosen)


def sampling_of(body: ResponseBody) -> Sampling:
    """Return how the tokens are to be drawn."""
    options: dict[str, Any] = {
        "tool_choice": _engine_choice(body),
        "parallel_tool_calls": body.parallel_tool_calls,
        "response_format": _engine_format(body),
        "presence_penalty": body.presence_penalty,
        "frequency_penalty": body.frequency_penalty,
        "reasoning_effort": body.reasoning.effort if body.reasoning else None,
    }
    if body.tools and not tools_of(body):  # an engine would ask: a choice of what?
        options["tool_choice"] = options["parallel_tool_calls"] = None
    return Sampling(
        tokens_max=body.max_output_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        options={name: value for name, value in options.items() if value is not None},
    )


def _engine_choice(body: ResponseBody) -> str | dict[str, Any] | None:
    choice = body.tool_choice
    if not isinstance(choice, ChoiceBody):
        return choice
    if choice.type == "allowed_tools":
        return choice.mode
    return {"type": "function", "function": {"name": choice.name}}


def _engine_format(body: ResponseBody) -> dict[str, Any] | None:
    form = body.text.format if body.text is not None else None
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": _named(form)}


def _named(form: FormatBody) -> dict[str, Any]:
    fields = {
        "name": form.name,
        "description": form.description,
        "schema": form.schema,
        "strict": form.strict,
    }
    return {name: value for name, value in fields.items() if value is not None}


def opened(body: ResponseBody, response_id: str, created_at: int) -> Resource:
    """Return the response as it is before its first word."""
    return Resource(
        id=response_id,
        created_at=created_at,
        status="queued" if body.background else "in_progress",
        background=bool(body.background),
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        max_tool_calls=body.max_tool_calls,
        model=body.model,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        previous_response_id=body.previous_response_id,
        prompt_cache_key=body.prompt_cache_key,
        reasoning=Reasoning(body.reasoning.effort, body.reasoning.summary)
        if body.reasoning
        else Reasoning(),
        safety_identifier=body.safety_identifier,
        service_tier=body.service_tier if body.service_tier in BATCH_TIERS else "default",
        store=body.store is not False,
        temperature=1.0 if body.temperature is None else body.temperature,
        text=_shown_text(body),
        tool_choice=_shown_choice(body),
        tools=tuple(
            FunctionTool(tool.name or "", tool.description, tool.parameters, tool.strict)
            for tool in body.tools or ()
        ),
        top_p=1.0 if body.top_p is None else body.top_p,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        truncation=body.truncation or "disabled",
        user=body.user,
        metadata=body.metadata or {},
        conversation=_belongs(body),
    )


def _belongs(body: ResponseBody) -> Reference | None:
    given = body.conversation
    return Reference(given) if isinstance(given, str) else given and Reference(given.id)


def _shown_text(body: ResponseBody) -> dict[str, Any]:
    form = body.text.format if body.text is not None else None
    shown: dict[str, Any] = {"format": {"type": "text"}}
    if form is not None:
        shown = {"format": {"type": form.type, **_named(form)}}
    if body.text is not None and body.text.verbosity is not None:
        shown["verbosity"] = body.text.verbosity
    return shown


def _shown_choice(body: ResponseBody) -> str | dict[str, Any]:
    choice = body.tool_choice
    if not isinstance(choice, ChoiceBody):
        return choice or "auto"
    if choice.type != "allowed_tools":
        return {"type": "function", "name": choice.name}
    tools = [{"type": "function", "name": one.name} for one in choice.tools or ()]
    return {"type": "allowed_tools", "mode": choice.mode, "tools": tools}
