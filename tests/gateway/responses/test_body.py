"""What is refused of a body, by the name of the field."""

import json
from typing import Any

import pytest

from murmurate.core.errors import BadRequestError
from murmurate.gateway.responses.body import ResponseBody, allowed, check
from murmurate.gateway.validate import decode

NOW = {"type": "function", "name": "now"}
THEN = {"type": "function", "name": "then"}


def body(**fields: Any) -> ResponseBody:
    return decode(json.dumps({"model": "tiny", "input": "hi", **fields}).encode(), ResponseBody)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"colour": "red"}, "colour"),
        ({"model": 7}, "model"),
        ({"input": 7}, "input"),
        ({"input": [{"role": "nobody", "content": "hi"}]}, "input"),
        ({"instructions": ["x"]}, "instructions"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"frequency_penalty": -3}, "frequency_penalty"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_tool_calls": 0}, "max_tool_calls"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"include": ["everything"]}, "include"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
        ({"metadata": {"k": "v" * 513}}, "metadata"),
        ({"metadata": {str(n): "v" for n in range(17)}}, "metadata"),
        ({"store": "yes"}, "store"),
        ({"background": True, "store": False}, "store"),
        ({"truncation": "maybe"}, "truncation"),
        ({"service_tier": "gold"}, "service_tier"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
        ({"text": {"size": 7}}, "text"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [NOW, {"type": "file_search"}]}, "tools[1].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{**NOW, "name": "not now"}]}, "tools"),
        ({"tool_choice": "perhaps"}, "tool_choice"),
        ({"tool_choice": NOW}, "tool_choice.name"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.tools"),
        ({"tool_choice": {"type": "allowed_tools", "tools": [NOW]}}, "tool_choice.name"),
        ({"previous_response_id": ""}, "previous_response_id"),
        ({"prompt_cache_key": "k" * 65}, "prompt_cache_key"),
    ],
)
def test_what_is_refused_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequestError) as refused:
        check(body(**fields))
    assert (refused.value.param or "").startswith(param)
    assert refused.value.http_status == 400


def test_null_is_as_good_as_nothing() -> None:
    names = set(ResponseBody.__struct_fields__) - {"model", "input"}
    asked = body(**dict.fromkeys(names))
    check(asked)
    assert asked == body()


def test_a_hosted_tool_is_refused_by_its_name() -> None:
    with pytest.raises(BadRequestError, match="'web_search' is a tool of the vendor's"):
        check(body(tools=[{"type": "web_search"}]))


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        (None, None),
        ("auto", None),
        ("required", None),
        ("none", set()),
        (NOW, {"now"}),
        ({"type": "allowed_tools", "mode": "auto", "tools": [NOW, THEN]}, {"now", "then"}),
    ],
)
def test_a_choice_says_what_may_be_called(choice: Any, names: set[str] | None) -> None:
    assert allowed(body(tools=[NOW, THEN], tool_choice=choice)) == names
