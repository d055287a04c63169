"""OpenAI's protocol as bytes: what is sent, and what any cut of a stream comes to."""

from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from murmurate.adapters.openai_wire import (
    ANSWER_CHARS_MAX,
    ANSWER_EVENTS_MAX,
    CALLS_BYTES_MAX,
    CALLS_MAX,
    LINE_BYTES_MAX,
    Assembler,
    Events,
    UpstreamError,
    decode_error,
    encode,
)
from murmurate.core.errors import EngineFailedError, PromptTooLongError
from murmurate.core.types import (
    CallPart,
    Delta,
    Finished,
    FinishReason,
    Message,
    Origin,
    OriginKind,
    Request,
    ResultPart,
    Role,
    Sampling,
    Text,
    TextPart,
    Tool,
    ToolCall,
    Usage,
)
from tests.engines.fakes import ask, result, user

ORIGIN = Origin(OriginKind.USER)


def sent(request: Request) -> dict[str, Any]:
    return msgspec.json.decode(encode(request, "upstream"))


def turn(role: Role, text: str) -> Message:
    return Message(role, (TextPart(text, ORIGIN),))


def test_a_plain_question_says_only_what_is_known() -> None:
    assert sent(ask("hello")) == {
        "model": "upstream",
        "messages": [{"role": "user", "content": "hello"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_sampling_and_tools_are_sent_and_options_never_override_ours() -> None:
    sampling = Sampling(
        tokens_max=5,
        temperature=0.0,
        top_p=0.5,
        seed=7,
        stop=("END",),
        options={"tool_choice": "required", "stream": False, "model": "x", "seed": 1},
    )
    body = sent(ask(sampling=sampling, tools=(Tool("t", "does", '{"type": "object"}'),)))
    assert body["stream"] is True
    assert body["model"] == "upstream"
    assert body["tool_choice"] == "required"
    assert (body["max_tokens"], body["temperature"], body["top_p"]) == (5, 0.0, 0.5)
    assert (body["seed"], body["stop"]) == (7, ["END"])
    function = {"name": "t", "description": "does", "parameters": {"type": "object"}}
    assert body["tools"] == [{"type": "function", "function": function}]


def test_all_system_text_comes_first() -> None:
    request = ask(turn(Role.SYSTEM, "a"), user("hello"), turn(Role.SYSTEM, "b"))
    assert sent(request)["messages"] == [
        {"role": "system", "content": "a\n\nb"},
        {"role": "user", "content": "hello"},
    ]


def test_calls_and_results_take_their_places() -> None:
    call = Message(Role.ASSISTANT, (TextPart("I look", ORIGIN), CallPart("x", "look", '{"at": 1}')))
    answer = Message(Role.TOOL, (ResultPart("x", "1", ORIGIN), ResultPart("y", "2", ORIGIN)))
    function = {"name": "look", "arguments": '{"at": 1}'}
    assert sent(ask(call, answer))["messages"] == [
        {
            "role": "assistant",
            "content": "I look",
            "tool_calls": [{"id": "x", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "x", "content": "1"},
        {"role": "tool", "tool_call_id": "y", "content": "2"},
    ]


def test_a_call_without_text_has_null_content() -> None:
    request = ask(Message(Role.ASSISTANT, (CallPart("x", "look", "{}"),)), result("x", "1"))
    assert sent(request)["messages"][0]["content"] is None


@pytest.mark.parametrize("arguments", ["", '{"city": "Ro', "[1]"])
def test_broken_arguments_are_sent_as_an_object_that_shows_them(arguments: str) -> None:
    request = ask(Message(Role.ASSISTANT, (CallPart("x", "look", arguments),)))
    function = sent(request)["messages"][0]["tool_calls"][0]["function"]
    assert msgspec.json.decode(function["arguments"]) == {"invalid": arguments}


STREAM = (
    b": ping\r\n\r\n"
    b'data: {"a": 1}\r\n\r\n'
    b"event: message\nid: 3\ndata:{\ndata:}\n\n"
    b"\n\n"
    b"data: [DONE]\n\n"
    b"data: cut"
)
PAYLOADS = [b'{"a": 1}', b"{\n}", b"[DONE]"]


@given(st.lists(st.integers(0, len(STREAM)), max_size=30))
def test_events_come_out_the_same_wherever_the_stream_is_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    events = Events()
    payloads = [
        payload for start, end in pairwise(edges) for payload in events.feed(STREAM[start:end])
    ]
    assert payloads == PAYLOADS


@pytest.mark.parametrize(
    "chunk", [b"x" * (LINE_BYTES_MAX + 1), b"data: " + b"x" * 1000 + b"\n"], ids=["line", "event"]
)
def test_an_endless_line_or_event_is_given_up(chunk: bytes) -> None:
    events = Events()
    with pytest.raises(EngineFailedError, match="over 1048576 bytes"):  # noqa: PT012
        for _ in range(LINE_BYTES_MAX // 1000 + 1):
            events.feed(chunk)


def assembled(*chunks: dict[str, Any] | bytes) -> list[Delta]:
    assembler = Assembler("up", lambda: "new_id", redacted=str)
    deltas: list[Delta] = []
    for chunk in chunks:
        deltas += assembler.feed(chunk if isinstance(chunk, bytes) else msgspec.json.encode(chunk))
    return deltas + assembler.end()


def piece(reason: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}], "unknown": 1}


def call(index: int | None, arguments: str, **more: Any) -> dict[str, Any]:
    name = more.pop("name", None)
    function = {"name": name, "arguments": arguments}
    place = {} if index is None else {"index": index}
    return piece(tool_calls=[{**place, "function": function, **more}])


DONE = b"[DONE]"


def test_text_usage_and_end() -> None:
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    assert assembled(
        piece(role="assistant", content=None),
        piece(content="h"),
        piece(content=""),
        piece(content="i"),
        piece("stop"),
        {"choices": [], "usage": usage},
        DONE,
    ) == [Text("h"), Text("i"), Usage(9, 2, 4), Finished(FinishReason.STOP)]


def test_usage_on_every_chunk_is_told_once() -> None:
    first = {**piece(content="h"), "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
    last = {**piece("stop"), "usage": {"prompt_tokens": 1, "completion_tokens": 2}}
    assert assembled(first, last, DONE)[1:-1] == [Usage(1, 2)]


def test_fragments_of_tool_calls_are_joined() -> None:
    assert assembled(
        call(1, "{", id="b", name="two"),
        call(0, '{"x"', id="a", name="one"),
        call(0, ": 1}"),
        call(1, "}"),
        piece("tool_calls"),
        DONE,
    ) == [
        ToolCall("a", "one", '{"x": 1}'),
        ToolCall("b", "two", "{}"),
        Finished(FinishReason.TOOL_CALLS),
    ]


def test_calls_without_id_index_or_arguments_are_made_whole() -> None:
    assert assembled(call(None, "", name="one"), piece("stop")) == [
        ToolCall("new_id", "one", "{}"),
        Finished(FinishReason.TOOL_CALLS),
    ]


def test_whole_calls_without_an_index_stay_apart() -> None:
    deltas = assembled(
        call(None, "{}", id="a", name="one"),
        call(None, "{", id="b", name="two"),
        call(None, "}"),
        piece("tool_calls"),
    )
    assert deltas[:-1] == [ToolCall("a", "one", "{}"), ToolCall("b", "two", "{}")]


def test_a_call_cut_by_the_token_limit_is_left_out() -> None:
    assert assembled(
        call(0, "{}", id="a", name="one"), call(1, '{"x', id="b", name="two"), piece("length")
    ) == [ToolCall("a", "one", "{}"), Finished(FinishReason.LENGTH)]


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("stop", FinishReason.STOP),
        ("length", FinishReason.LENGTH),
        ("tool_calls", FinishReason.TOOL_CALLS),
        ("function_call", FinishReason.TOOL_CALLS),
        ("content_filter", FinishReason.STOP),
    ],
)
def test_reasons_are_mapped(reason: str, expected: FinishReason) -> None:
    assert assembled(piece(reason)) == [Finished(expected)]


def test_either_end_mark_is_enough_but_one_is_needed() -> None:
    assert assembled(piece(content="h"), DONE)[-1] == Finished(FinishReason.STOP)
    assert assembled({"choices": [{"finish_reason": "stop"}]}) == [Finished(FinishReason.STOP)]
    with pytest.raises(EngineFailedError, match="broke off"):
        assembled(piece(content="h"))


@pytest.mark.parametrize(
    "chunk", [b"{", b"[]", b'{"choices": 3}', b"\xff\xfe", b'{"usage": {"prompt_tokens": "x"}}']
)
def test_garbage_is_named_as_such(chunk: bytes) -> None:
    with pytest.raises(EngineFailedError, match="up sent garbage"):
        assembled(chunk)


def test_an_error_in_the_stream_ends_it() -> None:
    with pytest.raises(EngineFailedError, match="up failed: out of memory"):
        assembled(piece(content="h"), {"error": {"message": "out of memory", "code": 500}})
    with pytest.raises(EngineFailedError, match="up failed: plain"):
        assembled({"error": "plain"})
    with pytest.raises(PromptTooLongError):
        assembled({"error": {"message": "long", "type": "exceed_context_size_error"}})


def test_endless_tool_calls_are_given_up() -> None:
    with pytest.raises(EngineFailedError, match="asked for over"):
        assembled(*[call(index, "", id="x") for index in range(CALLS_MAX + 1)])
    with pytest.raises(EngineFailedError, match="asked for over"):
        assembled(call(0, "x" * (CALLS_BYTES_MAX + 1)))


def test_an_answer_that_never_ends_is_given_up_at_a_bound_that_is_named() -> None:
    half = "x" * (ANSWER_CHARS_MAX // 2)
    assert assembled(piece(content=half), piece(content=half), piece("stop"))
    with pytest.raises(EngineFailedError, match="up sent over 8388608 characters"):
        assembled(piece(content=half), piece(content=half), piece(content="x"))


def test_text_and_tool_calls_share_the_bound_of_an_answer() -> None:
    with pytest.raises(EngineFailedError, match="up sent over 8388608 characters"):
        assembled(piece(content="x" * (ANSWER_CHARS_MAX - 5)), call(0, "123", name="456"))


def test_the_name_of_a_tool_cannot_grow_for_ever() -> None:
    with pytest.raises(EngineFailedError, match="asked for over"):
        assembled(*[call(0, "", name="x" * (CALLS_BYTES_MAX // 4))] * 5)


def test_events_that_say_nothing_are_given_up_too() -> None:
    assembler = Assembler("up", lambda: "new_id", redacted=str)
    with pytest.raises(EngineFailedError, match="up sent over 524288 events"):  # noqa: PT012
        for _ in range(ANSWER_EVENTS_MAX + 1):
            assembler.feed(b"{}")


def test_a_refusal_of_any_form_is_understood() -> None:
    assert decode_error(b'{"error": {"message": "no", "type": "t", "code": 400}}').detail == "no"
    assert decode_error(b'{"error": "no"}').detail == "no"
    assert decode_error(b"<html>Bad gateway</html>").detail == "<html>Bad gateway</html>"
    assert len(UpstreamError("x" * 1000).detail) == 300


def test_a_prompt_that_is_too_long_is_told_with_both_sizes() -> None:
    told = UpstreamError("m", "exceed_context_size_error", 400, 900, 512).too_long("tiny")
    assert str(told) == (
        "[context_length_exceeded] the prompt has 900 tokens, but the context of tiny has 512; "
        "shorten it"
    )
    assert UpstreamError("too long", code="context_length_exceeded").too_long("tiny") is not None
    assert UpstreamError("other", code=400).too_long("tiny") is None
