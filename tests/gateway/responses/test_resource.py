"""The response object has every field that the specification requires."""

import json

import msgspec

from murmurate.core.errors import EngineFailedError
from murmurate.core.types import Usage
from murmurate.gateway.responses.resource import failed_of, tokens_of
from murmurate.gateway.responses.terms import opened
from tests.gateway.responses.test_body import body

REQUIRED = {
    *("id", "object", "created_at", "completed_at", "status", "incomplete_details", "model"),
    *("previous_response_id", "instructions", "output", "error", "tools", "tool_choice"),
    *("truncation", "parallel_tool_calls", "text", "top_p", "presence_penalty"),
    *("frequency_penalty", "top_logprobs", "temperature", "reasoning", "usage"),
    *("max_output_tokens", "max_tool_calls", "store", "background", "service_tier", "metadata"),
    *("safety_identifier", "prompt_cache_key"),
}
"""`ResponseResource` of Open Responses, version 2026-04-24."""

NULLABLE = {
    *("completed_at", "incomplete_details", "previous_response_id", "instructions", "error"),
    *("reasoning", "usage", "max_output_tokens", "max_tool_calls", "safety_identifier"),
    *("prompt_cache_key",),
}


def test_every_required_field_is_there_and_null_only_where_it_may_be() -> None:
    shown = json.loads(msgspec.json.encode(opened(body(), "resp_1", 7)))
    assert shown.keys() >= REQUIRED
    assert {name for name in REQUIRED if shown[name] is None} <= NULLABLE
    assert shown["object"] == "response"
    assert shown["text"] == {"format": {"type": "text"}}
    assert shown["output"] == shown["tools"] == []


def test_a_failure_says_its_code() -> None:
    response = failed_of(opened(body(), "resp_1", 7), EngineFailedError("broke"))
    assert response.status == "failed"
    assert response.error is not None
    assert (response.error.code, response.error.message) == ("engine.failed", "broke")


def test_tokens_are_counted_in_openais_names() -> None:
    tokens = tokens_of(Usage(5, 3, 2))
    assert (tokens.input_tokens, tokens.output_tokens, tokens.total_tokens) == (5, 3, 8)
    assert tokens.input_tokens_details.cached_tokens == 2
