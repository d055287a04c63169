"""OpenAI's chat format, both ways."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from murmurate.core.errors import BadRequestError, OverloadedError
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
    ResultPart,
    Role,
    Sampling,
    Text,
    TextPart,
    Tool,
    ToolCall,
    Usage,
)
from murmurate.gateway.chat import (
    ChatBody,
    Encoder,
    error_body,
    error_event,
    messages_of,
    sampling_of,
    tools_of,
)
from murmurate.gateway.validate import decode

CITATION = Citation("doc_1", "a.md", 1, 5, 2, 3, "word", 0.123456)


def body(*messages: dict[str, Any], **fields: Any) -> ChatBody:
    spoken = messages or ({"role": "user", "content": "hi"},)
    return decode(json.dumps({"model": "m", "messages": spoken, **fields}).encode(), ChatBody)


CALL = {"id": "c1", "type": "function", "function": {"name": "search", "arguments": "{}"}}


def test_each_part_of_a_conversation_carries_its_origin() -> None:
    messages = messages_of(
        body(
            {"role": "developer", "content": "be brief"},
            {"role": "system", "content": "be kind"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            },
            {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None},
            {"role": "tool", "content": "found", "tool_call_id": "c1"},
        )
    )
    system, user = Origin(OriginKind.SYSTEM), Origin(OriginKind.USER)
    assert messages == (
        Message(Role.SYSTEM, (TextPart("be brief", system),)),
        Message(Role.SYSTEM, (TextPart("be kind", system),)),
        Message(Role.USER, (TextPart("ab", user),)),
        Message(Role.ASSISTANT, (CallPart("c1", "search", "{}"),)),
        Message(Role.TOOL, (ResultPart("c1", "found", Origin(OriginKind.TOOL, "search")),)),
    )


def test_an_empty_text_is_a_message_without_parts() -> None:
    assert messages_of(body({"role": "user", "content": ""})) == (Message(Role.USER, ()),)


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([{"role": "user"}], "messages[0].content"),
        (
            [{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}],
            "messages[1].tool_call_id",
        ),
        ([{"role": "tool", "content": "b", "tool_call_id": "c"}], "messages[0].tool_call_id"),
        (
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
            "messages",
        ),
    ],
)
def test_a_conversation_that_makes_no_sense_is_refused(
    messages: list[dict[str, Any]], param: str
) -> None:
    with pytest.raises(BadRequestError) as raised:
        messages_of(body(*messages))
    assert raised.value.param == param


def test_tools_travel_with_their_schema_as_text() -> None:
    asked = body(
        tools=[
            {"type": "function", "function": {"name": "now"}},
            {
                "type": "function",
                "function": {
                    "name": "add",
                    "description": "Add.",
                    "parameters": {"type": "object"},
                    "strict": True,
                },
            },
        ]
    )
    assert tools_of(asked) == (Tool("now", "", "{}"), Tool("add", "Add.", '{"type":"object"}'))
    assert tools_of(body()) == ()


def test_sampling_takes_its_own_fields_and_hands_on_the_engines() -> None:
    asked = body(
        max_tokens=5,
        max_completion_tokens=7,
        temperature=0,
        top_p=0.5,
        seed=3,
        stop="end",
        top_k=4,
        response_format={"type": "json_object"},
        user="u",
        store=False,
    )
    options = {"top_k": 4, "response_format": {"type": "json_object"}}
    assert sampling_of(asked) == Sampling(7, 0.0, 0.5, 3, ("end",), options)


@pytest.mark.parametrize(
    ("fields", "sampling"),
    [
        ({}, Sampling()),
        ({"max_tokens": 5}, Sampling(tokens_max=5)),
        ({"stop": ["a", "b"]}, Sampling(stop=("a", "b"))),
        ({"stop": []}, Sampling()),
    ],
)
def test_absent_fields_leave_the_choice_to_the_model(
    fields: dict[str, Any], sampling: Sampling
) -> None:
    assert sampling_of(body(**fields)) == sampling


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"seed": 1.5}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"top_k": -(2**63) - 1}, "top_k"),
        ({"max_tokens": 2**31}, "max_tokens"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "messages[0].role"),
        ({"tools": [{"function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"presence_penalty": 9}, "presence_penalty"),
        ({"logprobs": True}, "logprobs"),
    ],
)
def test_a_wrong_field_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequestError) as raised:
        body(**fields)
    assert raised.value.param == param


# The way back.

DELTAS = st.lists(
    st.one_of(
        st.builds(Text, st.text()),
        st.builds(ToolCall, st.text(), st.text(), st.text()),
        st.builds(Usage, st.integers(0, 99), st.integers(0, 99), st.integers(0, 99)),
        st.just(Cited((CITATION,))),
    ),
    max_size=8,
)
ENDS = st.builds(Finished, st.sampled_from(FinishReason))


def events(raw: bytes) -> list[Any]:
    *lines, rest = raw.decode().split("\n\n")
    assert rest == ""
    return [
        line if line == "data: [DONE]" else json.loads(line.removeprefix("data: "))
        for line in lines
    ]


def streamed(deltas: list[Delta], *, usage: bool) -> list[Any]:
    encoder = Encoder("chatcmpl_1", "m", 7, usage=usage)
    chunks = b"".join(encoder.chunk(delta) for delta in deltas)
    used = [delta for delta in deltas if isinstance(delta, Usage)]
    return events(encoder.first() + chunks + encoder.last(used[-1] if used else None))


def joined(chunks: list[Any]) -> dict[str, Any]:
    """Put the chunks together as a client would."""
    text, calls, cited, reason = "", list[Any](), list[Any](), None
    for chunk in chunks:
        for choice in chunk["choices"]:
            delta = choice["delta"]
            text += delta.get("content", "")
            for call in delta.get("tool_calls", ()):
                assert call["index"] == len(calls)
                calls.append({k: v for k, v in call.items() if k != "index"})
            cited += delta.get("annotations", ())
            reason = choice["finish_reason"] or reason
    return {"text": text, "calls": calls, "cited": cited, "reason": reason}


@given(DELTAS, ENDS, st.booleans())
def test_the_chunks_put_together_are_the_whole_answer(
    deltas: list[Delta], end: Finished, usage: bool
) -> None:
    *chunks, mark = streamed([*deltas, end], usage=usage)
    assert mark == "data: [DONE]"
    whole = json.loads(Encoder("chatcmpl_1", "m", 7, usage=usage).whole([*deltas, end]))
    choice = whole["choices"][0]
    assert joined(chunks) == {
        "text": choice["message"]["content"] or "",
        "calls": choice["message"].get("tool_calls", []),
        "cited": choice["message"]["annotations"],
        "reason": choice["finish_reason"],
    }
    if usage:
        assert chunks[-1]["usage"] == whole["usage"]


def test_a_stream_opens_with_the_role_and_ends_with_the_reason() -> None:
    first, text, last, mark = streamed([Text("é"), Finished(FinishReason.LENGTH)], usage=False)
    head = {"id": "chatcmpl_1", "created": 7, "model": "m", "object": "chat.completion.chunk"}

    def chunk(delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return {**head, "choices": [choice]}

    assert first == chunk({"role": "assistant", "content": ""}, None)
    assert text == chunk({"content": "é"}, None)
    assert last == chunk({}, "length")
    assert mark == "data: [DONE]"


def test_usage_comes_last_and_is_null_before_only_when_asked_for() -> None:
    deltas: list[Delta] = [Text("a"), Usage(3, 2, 1), Finished(FinishReason.STOP)]
    *before, used, _ = streamed(deltas, usage=True)
    assert [chunk["usage"] for chunk in before] == [None] * 3
    assert used["choices"] == []
    assert used["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 1},
    }
    assert all("usage" not in chunk for chunk in streamed(deltas, usage=False)[:-1])


def test_a_citation_is_an_annotation_with_place_and_words() -> None:
    chunk = streamed([Cited((CITATION,))], usage=False)[1]
    assert chunk["choices"][0]["delta"]["annotations"] == [
        {
            "type": "file_citation",
            "file_citation": {
                "file_id": "doc_1",
                "filename": "a.md",
                "start_index": 1,
                "end_index": 5,
                "first_line": 2,
                "last_line": 3,
                "quote": "word",
                "score": 0.1235,
            },
        }
    ]


def test_a_whole_answer_of_tool_calls_alone_has_no_content() -> None:
    deltas: list[Delta] = [ToolCall("c", "add", "{}"), Finished(FinishReason.TOOL_CALLS)]
    choice = json.loads(Encoder("i", "m", 7, usage=False).whole(deltas))["choices"][0]
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"] == [
        {"id": "c", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    ]
    assert choice["finish_reason"] == "tool_calls"


def test_a_whole_answer_without_words_has_empty_content_and_zero_usage() -> None:
    whole = json.loads(Encoder("i", "m", 7, usage=False).whole([Finished(FinishReason.STOP)]))
    assert whole["object"] == "chat.completion"
    assert whole["choices"][0]["message"]["content"] == ""
    assert whole["usage"]["total_tokens"] == 0


def test_an_error_has_openais_form_whole_and_as_an_event() -> None:
    error = OverloadedError("full")
    shown = {
        "error": {
            "message": "full",
            "type": "server_error",
            "param": None,
            "code": "router.overloaded",
        }
    }
    assert error_body(error) == shown
    assert events(error_event(error)) == [shown]
    assert msgspec.json.encode(error_body(BadRequestError("x", param="model")))
