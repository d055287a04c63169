"""What a request asks for, as the engine hears it and as the client reads it again."""

from typing import Any

import pytest

from murmurate.core.types import Sampling, Tool
from murmurate.gateway.responses.terms import allowed_of, opened, sampling_of, tools_of
from tests.gateway.responses.test_body import NOW, THEN, body

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
FORM = {"type": "json_schema", "name": "form", "schema": SCHEMA, "strict": True}


def test_numbers_and_effort_reach_the_engine() -> None:
    asked = body(
        temperature=0.5,
        top_p=0.9,
        max_output_tokens=20,
        presence_penalty=1,
        frequency_penalty=0.5,
        reasoning={"effort": "low"},
        parallel_tool_calls=False,
    )
    assert sampling_of(asked) == Sampling(
        tokens_max=20,
        temperature=0.5,
        top_p=0.9,
        options={
            "parallel_tool_calls": False,
            "presence_penalty": 1.0,
            "frequency_penalty": 0.5,
            "reasoning_effort": "low",
        },
    )
    assert sampling_of(body()) == Sampling()


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "json_object"}),
        (
            FORM,
            {
                "type": "json_schema",
                "json_schema": {"name": "form", "schema": SCHEMA, "strict": True},
            },
        ),
    ],
)
def test_a_format_is_told_in_the_form_of_chats_and_shown_in_its_own(
    form: dict[str, Any], told: Any
) -> None:
    asked = body(text={"format": form, "verbosity": "low"})
    assert sampling_of(asked).options.get("response_format") == told
    assert opened(asked, "resp_1", 0).text == {"format": form, "verbosity": "low"}


@pytest.mark.parametrize(
    ("choice", "told", "offered", "may"),
    [
        ("auto", "auto", ["now", "then"], None),
        ("required", "required", ["now", "then"], None),
        ("none", None, [], set()),
        (THEN, {"type": "function", "function": {"name": "then"}}, ["then"], {"then"}),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [NOW]},
            "required",
            ["now"],
            {"now"},
        ),
        ({"type": "allowed_tools", "mode": "none", "tools": [NOW]}, "none", ["now"], set()),
    ],
)
def test_a_model_does_not_hear_of_tools_that_it_may_not_call(
    choice: Any, told: Any, offered: list[str], may: set[str] | None
) -> None:
    asked = body(tools=[NOW, THEN], tool_choice=choice)
    assert [tool.name for tool in tools_of(asked)] == offered
    assert sampling_of(asked).options.get("tool_choice") == told
    response = opened(asked, "resp_1", 0)
    assert response.tool_choice == choice
    assert [tool.name for tool in response.tools] == ["now", "then"]
    assert allowed_of(response) == may


def test_a_tool_keeps_its_schema() -> None:
    tool = {**NOW, "description": "The time.", "parameters": SCHEMA, "strict": True}
    asked = body(tools=[tool])
    schema = '{"type":"object","properties":{"a":{"type":"string"}}}'
    assert tools_of(asked) == (Tool("now", "The time.", schema),)
    [shown] = opened(asked, "resp_1", 0).tools
    assert (shown.description, shown.parameters, shown.strict) == ("The time.", SCHEMA, True)


def test_a_response_shows_what_was_asked_and_openais_defaults() -> None:
    plain = opened(body(), "resp_1", 7)
    assert (plain.temperature, plain.top_p, plain.presence_penalty) == (1.0, 1.0, 0.0)
    assert (plain.tool_choice, plain.truncation, plain.service_tier) == (
        "auto",
        "disabled",
        "default",
    )
    assert (plain.status, plain.store, plain.background) == ("in_progress", True, False)
    asked = opened(
        body(
            temperature=0,
            metadata={"a": "b"},
            user="u",
            service_tier="flex",
            background=True,
            reasoning={"summary": "auto"},
        ),
        "resp_1",
        7,
    )
    assert (asked.temperature, asked.metadata, asked.user) == (0, {"a": "b"}, "u")
    assert (asked.status, asked.service_tier) == ("queued", "flex")
    assert asked.reasoning.summary == "auto"
    assert opened(body(store=False, service_tier="priority"), "resp_1", 7).store is False
