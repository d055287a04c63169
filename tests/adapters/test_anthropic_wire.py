"""Anthropic's Messages API: requests and events, after its documentation."""

from typing import Any

import msgspec
import pytest

from murmurate.adapters.anthropic_wire import TOKENS_MAX, Assembler, encode
from murmurate.adapters.openai_wire import CALLS_MAX, Events
from murmurate.core.errors import (
    BadRequestError,
    EngineFailedError,
    EngineUnreachableError,
    MurmurateError,
    OverloadedError,
    PromptTooLongError,
)
from murmurate.core.types import (
    CallPart,
    Delta,
    Finished,
    FinishReason,
    Message,
    Origin,
    OriginKind,
    Part,
    Role,
    Sampling,
    Text,
    TextPart,
    Tool,
    ToolCall,
    Usage,
)
from tests.engines.fakes import ask, result, user

WEATHER = Tool("weather", "Tells the weather.", '{"type":"object","properties":{}}')

# What the documentation of streaming shows, shortened.
BASIC = b"""event: message_start
data: {"type": "message_start", "message": {"id": "msg_1", "type": "message", "role": "assistant",\
 "content": [], "model": "claude", "stop_reason": null, "stop_sequence": null,\
 "usage": {"input_tokens": 25, "output_tokens": 1}}}

event: content_block_start
data: {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}

event: ping
data: {"type": "ping"}

event: content_block_delta
data: {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}}

event: content_block_delta
data: {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "!"}}

event: content_block_stop
data: {"type": "content_block_stop", "index": 0}

event: message_delta
data: {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": null},\
 "usage": {"output_tokens": 15}}

event: message_stop
data: {"type": "message_stop"}

"""


def assembler() -> Assembler:
    return Assembler("claude", lambda: "new", redacted=lambda it: it.replace("sk-1", "[hidden]"))


def event(kind: str, **fields: Any) -> bytes:
    return msgspec.json.encode({"type": kind, **fields})


def started(**usage: int) -> bytes:
    return event("message_start", message={"usage": usage or {"input_tokens": 3}})


def stopped(reason: str, **usage: int) -> bytes:
    return event("message_delta", delta={"stop_reason": reason}, usage=usage)


def text(words: str) -> bytes:
    return event("content_block_delta", index=0, delta={"type": "text_delta", "text": words})


def call(index: int, name: str, *pieces: str, id: str = "toolu_1") -> list[bytes]:
    block = {"type": "tool_use", "id": id, "name": name, "input": {}}
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    return [
        event("content_block_start", index=index, content_block=block),
        *(event("content_block_delta", index=index, delta=delta) for delta in deltas),
        event("content_block_stop", index=index),
    ]


def read(*payloads: bytes) -> list[Delta]:
    it = assembler()
    deltas: list[Delta] = [delta for payload in payloads for delta in it.feed(payload)]
    return [*deltas, *it.end()]


def body(*messages: str | Message, **fields: Any) -> dict[str, Any]:
    return msgspec.json.decode(encode(ask(*messages, **fields), "claude"))


def assistant(*parts: Part) -> Message:
    return Message(Role.ASSISTANT, parts)


def said(words: str) -> TextPart:
    return TextPart(words, Origin(OriginKind.MODEL))


# Requests.


def test_a_question_is_a_streamed_message_with_a_bound() -> None:
    assert body("hello") == {
        "model": "claude",
        "max_tokens": TOKENS_MAX,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
        "stream": True,
    }


def test_sampling_and_system_texts_have_their_own_places() -> None:
    system = Message(Role.SYSTEM, (TextPart("Be brief.", Origin(OriginKind.SYSTEM)),))
    sampling = Sampling(
        tokens_max=9, temperature=0.5, top_p=0.9, seed=4, stop=("END",), options={"top_k": 5}
    )
    found = body(system, "hello", system, sampling=sampling)
    del found["messages"]
    assert found == {
        "model": "claude",
        "system": "Be brief.\n\nBe brief.",
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "stop_sequences": ["END"],
        "stream": True,
    }


def test_calls_and_their_results_are_blocks_and_all_results_are_in_one_message() -> None:
    calls = assistant(
        said("Let me see."),
        CallPart("toolu_1", "weather", '{"city":"Bern"}'),
        CallPart("toolu_2", "weather", "no object"),
    )
    found = body("How is it?", calls, result("toolu_1", "sunny"), result("toolu_2", "rain"), "So?")
    assert found["messages"][1:] == [
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Let me see."},
                {
                    "type": "tool_use",
                    "id": "toolu_1",
                    "name": "weather",
                    "input": {"city": "Bern"},
                },
                {
                    "type": "tool_use",
                    "id": "toolu_2",
                    "name": "weather",
                    "input": {"invalid": "no object"},
                },
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "sunny"},
                {"type": "tool_result", "tool_use_id": "toolu_2", "content": "rain"},
                {"type": "text", "text": "So?"},
            ],
        },
    ]


def test_empty_texts_are_left_out_as_they_would_be_refused() -> None:
    found = body("hello", assistant(said(" ")), user("and?"))
    assert [message["role"] for message in found["messages"]] == ["user"]
    assert len(found["messages"][0]["content"]) == 2


@pytest.mark.parametrize(
    ("options", "choice"),
    [
        ({}, None),
        ({"tool_choice": "auto"}, None),
        ({"tool_choice": "none", "parallel_tool_calls": False}, {"type": "none"}),
        ({"tool_choice": "required"}, {"type": "any"}),
        (
            {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
            {"type": "tool", "name": "weather"},
        ),
        (
            {"parallel_tool_calls": False},
            {"type": "auto", "disable_parallel_tool_use": True},
        ),
        ({"parallel_tool_calls": True, "response_format": {"type": "text"}}, None),
    ],
)
def test_tools_and_which_of_them_to_call(options: dict[str, Any], choice: object) -> None:
    bare = Tool("now", "", "{}")
    found = body("hello", tools=(WEATHER, bare), sampling=Sampling(options=options))
    assert found["tools"] == [
        {
            "name": "weather",
            "description": "Tells the weather.",
            "input_schema": {"type": "object", "properties": {}},
        },
        {"name": "now", "description": "", "input_schema": {"type": "object"}},
    ]
    assert found.get("tool_choice") == choice


@pytest.mark.parametrize(
    "options",
    [
        {"response_format": {"type": "json_object"}},
        {"logit_bias": {"1": 2.0}},
        {"tool_choice": "sometimes"},
    ],
)
def test_an_option_that_it_does_not_have_is_refused_by_name(options: dict[str, Any]) -> None:
    [name] = options
    with pytest.raises(BadRequestError, match=f"^.*{name}") as error:
        body("hello", tools=(WEATHER,), sampling=Sampling(options=options))
    assert error.value.param == name


# Answers.


@pytest.mark.parametrize("cut", [1, 7, 100_000])
def test_the_documentation_s_stream_becomes_deltas_wherever_it_is_cut(cut: int) -> None:
    events, it = Events(), assembler()
    deltas: list[Delta] = []
    for at in range(0, len(BASIC), cut):
        for payload in events.feed(BASIC[at : at + cut]):
            deltas += it.feed(payload)
    assert it.done
    whole = [*deltas, *it.end()]
    assert whole == [Text("Hello"), Text("!"), Usage(25, 15), Finished(FinishReason.STOP)]


def test_pings_are_no_progress_and_everything_else_is() -> None:
    it = assembler()
    it.feed(event("ping"))
    assert it.events == 0
    it.feed(event("content_block_delta", delta={"type": "thinking_delta", "thinking": "hm"}))
    it.feed(event("something_new", with_fields=[1]))
    assert it.events == 2


def test_calls_are_joined_and_may_have_no_arguments() -> None:
    deltas = read(
        started(),
        text("I look."),
        *call(1, "weather", '{"ci', 'ty":"Bern"}'),
        *call(2, "now", id="toolu_2"),
        stopped("tool_use", output_tokens=7),
        event("message_stop"),
    )
    assert deltas == [
        Text("I look."),
        ToolCall("toolu_1", "weather", '{"city":"Bern"}'),
        ToolCall("toolu_2", "now", "{}"),
        Usage(3, 7),
        Finished(FinishReason.TOOL_CALLS),
    ]


def test_tokens_of_the_cache_are_part_of_the_prompt() -> None:
    begin = started(
        input_tokens=10, cache_creation_input_tokens=20, cache_read_input_tokens=70, output_tokens=1
    )
    assert read(begin, stopped("end_turn", output_tokens=5))[0] == Usage(100, 5, 70)
    later = stopped("end_turn", input_tokens=12, output_tokens=5)
    assert read(begin, later)[0] == Usage(102, 5, 70), "sums over the whole answer"


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("end_turn", FinishReason.STOP),
        ("stop_sequence", FinishReason.STOP),
        ("refusal", FinishReason.STOP),
        ("pause_turn", FinishReason.STOP),
        ("max_tokens", FinishReason.LENGTH),
        ("model_context_window_exceeded", FinishReason.LENGTH),
    ],
)
def test_stop_reasons(reason: str, expected: FinishReason) -> None:
    assert read(started(), text("a"), stopped(reason))[-1] == Finished(expected)


def test_of_an_answer_that_was_cut_by_its_bound_only_whole_calls_are_kept() -> None:
    cut = call(1, "weather", '{"city":"Be')
    deltas = read(started(), *call(0, "now", "{}"), *cut, stopped("max_tokens"))
    assert [delta.name for delta in deltas if isinstance(delta, ToolCall)] == ["now"]
    assert deltas[-1] == Finished(FinishReason.LENGTH)


@pytest.mark.parametrize(
    ("kind", "message", "error", "words"),
    [
        ("overloaded_error", "Overloaded", OverloadedError, "claude is busy: Overloaded"),
        ("rate_limit_error", "slow down", OverloadedError, "claude is busy: slow down"),
        ("authentication_error", "x", EngineUnreachableError, "refuses .authentication_error.; ch"),
        ("invalid_request_error", "bad", BadRequestError, "claude: bad"),
        (
            "invalid_request_error",
            "prompt is too long: 210000 tokens > 200000 maximum",
            PromptTooLongError,
            "210000 tokens",
        ),
        ("api_error", "sk-1", EngineFailedError, r"claude failed: \[hidden\]"),
        ("api_error", "Internal", EngineFailedError, "claude failed: Internal"),
        ("timeout_error", "late", EngineFailedError, "claude failed: late"),
        ("brand_new_error", "?", EngineFailedError, "claude failed"),
    ],
)
def test_an_error_in_the_middle_of_a_stream(
    kind: str, message: str, error: type[MurmurateError], words: str
) -> None:
    with pytest.raises(error, match=words):
        read(started(), text("a"), event("error", error={"type": kind, "message": message}))


def test_a_stream_that_breaks_off_or_is_garbage_says_so() -> None:
    with pytest.raises(EngineFailedError, match="broke off before the end"):
        read(started(), text("a"))
    for payload in (b"{nonsense", b'{"no": "type"}', b"[DONE]"):
        with pytest.raises(EngineFailedError, match="claude sent garbage"):
            read(started(), payload)


def test_an_endless_answer_is_given_up() -> None:
    with pytest.raises(EngineFailedError, match="over 64 tools"):
        read(*(part for n in range(CALLS_MAX + 1) for part in call(n, "weather")))
    with pytest.raises(EngineFailedError, match="bytes"):
        read(*call(0, "weather", *["x" * 600_000] * 2))
    with pytest.raises(EngineFailedError, match="characters in one answer"):
        read(*[text("x" * 1_000_000)] * 9)
