"""The data path, through the whole gateway: bodies in, answers and streams out."""

import asyncio
import base64
import json
import struct
from typing import Any

import pytest

from murmurate.core.errors import (
    BadRequestError,
    EngineFailedError,
    MurmurateError,
    OverloadedError,
    PromptTooLongError,
)
from murmurate.core.types import (
    Cited,
    Diverted,
    Finished,
    FinishReason,
    Lane,
    Sampling,
    SessionRef,
    Text,
    Tool,
    ToolCall,
    Usage,
)
from tests.fakes import DONE, FakePlatform, Saying, until, user
from tests.gateway.client import House
from tests.gateway.test_chat import CITATION

HI = (Text("Hel"), Text("lo"), Usage(3, 2), DONE)


# Plain answers.


def test_an_answer_is_one_object_in_openais_form() -> None:
    answer = House(Saying(*HI)).chat()
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    whole = answer.json()
    assert whole.pop("id").startswith("chatcmpl_")
    assert whole == {
        "object": "chat.completion",
        "created": 1000,
        "model": "tiny",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Hello",
                    "refusal": None,
                    "annotations": [],
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 2,
            "total_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }


def test_the_model_sees_one_typed_request() -> None:
    model = Saying(*HI)
    house = House(model, scopes=("chat",))
    tool = {"type": "function", "function": {"name": "now"}}
    house.chat({"tools": [tool], "seed": 4}, headers={"x-murmurate-lane": "batch"})
    (asked,) = model.asked
    assert asked.id.startswith("req_")
    assert (asked.tenant, asked.model, asked.scopes) == ("a", "tiny", ("chat",))
    assert asked.messages == (user("hello"),)
    assert asked.tools == (Tool("now", "", "{}"),)
    assert asked.sampling == Sampling(seed=4)
    assert asked.lane is Lane.BATCH
    assert asked.session is None
    assert asked.trace.span_id == "gateway"


def test_the_first_delta_and_the_tokens_are_noted() -> None:
    house = House(Saying(*HI))
    house.chat()
    assert house.meter.firsts == ["tiny"]
    attributes = house.tracer.named("gateway").attributes
    assert attributes == {
        "tenant": "a",
        "path": "/v1/chat/completions",
        "model": "tiny",
        "lane": "urgent",
        "first_ms": 0.0,
        "tokens_in": 3,
        "tokens_out": 2,
        "finish": "stop",
        "status": 200,
    }


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_is_told_once_when_another_model_answers(stream: bool) -> None:
    house = House(Saying(Diverted("other"), Diverted("other"), *HI))
    answer = house.chat({"stream": stream})
    assert answer.headers["x-murmurate-model"] == "other"
    assert b"Diverted" not in answer.body
    assert house.meter.firsts == ["tiny"]
    late = House(Saying(Text("Hel"), Diverted("other"), Text("lo"), DONE)).chat({"stream": stream})
    assert late.status == 200
    assert late.headers.get("x-murmurate-model") == (None if stream else "other")
    assert "x-murmurate-model" not in House(Saying(*HI)).chat({"stream": stream}).headers


def test_nothing_is_sent_before_the_other_model_has_begun_its_answer() -> None:
    failing = Saying(Diverted("other"), EngineFailedError("broke off"))
    assert House(failing).chat({"stream": True}).status == 502


# Streams.


def test_a_stream_has_the_role_first_the_reason_last_and_an_end_mark() -> None:
    answer = House(Saying(*HI)).chat({"stream": True})
    assert answer.status == 200
    assert answer.headers["cache-control"] == "no-cache"
    *chunks, mark = answer.events()
    assert mark == "[DONE]"
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    assert all("usage" not in chunk for chunk in chunks)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(choice["delta"].get("content", "") for choice in choices) == "Hello"
    assert [choice["finish_reason"] for choice in choices] == [None, None, None, "stop"]


def test_usage_is_streamed_only_when_asked_for() -> None:
    house = House(Saying(*HI))
    body = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, used, mark = house.chat(body).events()
    assert mark == "[DONE]"
    assert [chunk["usage"] for chunk in chunks] == [None] * 4
    assert used["choices"] == []
    assert used["usage"]["total_tokens"] == 5
    without = house.chat({**body, "stream_options": {"include_usage": False}}).events()
    assert all("usage" not in chunk for chunk in without[:-1])


def test_tool_calls_and_citations_are_streamed_with_their_index() -> None:
    calls = (ToolCall("c1", "a", "{}"), ToolCall("c2", "b", "{}"))
    end = Finished(FinishReason.TOOL_CALLS)
    events = House(Saying(*calls, Cited((CITATION,)), end)).chat({"stream": True}).events()
    deltas = [event["choices"][0]["delta"] for event in events[:-1]]
    assert [delta["tool_calls"][0]["index"] for delta in deltas[1:3]] == [0, 1]
    assert deltas[3]["annotations"][0]["file_citation"]["filename"] == "a.md"
    assert events[-2]["choices"][0]["finish_reason"] == "tool_calls"


def test_nothing_is_sent_before_the_first_delta_is_there() -> None:
    async def story() -> None:
        gate = asyncio.Event()
        call, served = House(Saying(gate, *HI)).start_chat(stream=True)
        for _ in range(20):
            await asyncio.sleep(0)
        assert call.answer.status == 0
        gate.set()
        await served
        assert call.answer.status == 200

    asyncio.run(story())


def test_deltas_go_out_one_by_one() -> None:
    async def story() -> None:
        gate = asyncio.Event()
        call, served = House(Saying(Text("first"), gate, DONE)).start_chat(stream=True)
        await until(lambda: b"first" in call.answer.body)
        assert not call.answer.ended
        gate.set()
        await served

    asyncio.run(story())


# Errors of the model.


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("error", "status", "code", "retry_after"),
    [
        (OverloadedError("full", retry_s=2.2), 503, "router.overloaded", "3"),
        (OverloadedError("full", retry_s=0.1), 503, "router.overloaded", "1"),
        (PromptTooLongError("long"), 400, "context_length_exceeded", None),
        (BadRequestError("no", param="tools"), 400, "request.invalid", None),
        (EngineFailedError("broke"), 502, "engine.failed", None),
    ],
)
def test_an_error_before_the_first_delta_is_a_plain_answer_with_its_status(
    error: MurmurateError, status: int, code: str, retry_after: str | None, *, stream: bool
) -> None:
    answer = House(Saying(error)).chat({"stream": stream})
    assert answer.status == status
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers.get("retry-after") == retry_after
    assert answer.error == {
        "message": error.detail,
        "type": error.kind,
        "param": error.param,
        "code": code,
    }
    assert "x-murmurate-trace" in answer.headers


def test_an_error_in_mid_stream_is_the_last_event_and_there_is_no_end_mark() -> None:
    house = House(Saying(Text("Hel"), EngineFailedError("broke off")))
    answer = house.chat({"stream": True})
    assert answer.status == 200
    *_, text, error = answer.events()
    assert text["choices"][0]["delta"] == {"content": "Hel"}
    assert error["error"]["code"] == "engine.failed"
    assert b"[DONE]" not in answer.body
    assert house.log.named("stream.broken") == [{"code": "engine.failed"}]
    assert house.tracer.named("gateway").attributes["error"] == "engine.failed"


def test_an_error_in_the_middle_of_a_plain_answer_is_a_plain_error() -> None:
    answer = House(Saying(Text("Hel"), EngineFailedError("broke off"))).chat()
    assert answer.status == 502
    assert answer.error["code"] == "engine.failed"


def test_a_fault_before_the_first_byte_is_a_500_that_tells_nothing() -> None:
    house = House(Saying(ValueError("the secret is 42")))
    answer = house.chat({"stream": True})
    assert answer.status == 500
    assert answer.error["code"] == "internal"
    assert b"42" not in answer.body
    assert b"ValueError" not in answer.body
    [fault] = house.log.named("request.fault")
    assert fault["type"] == "ValueError"
    assert fault["file"].endswith("fakes.py")
    assert "secret" not in str(fault)


def test_a_model_that_says_nothing_at_all_is_a_fault() -> None:
    house = House(Saying())
    assert house.chat({"stream": True}).status == 500


def test_a_fault_in_mid_stream_breaks_the_response_off() -> None:
    async def story() -> None:
        house = House(Saying(Text("Hel"), ValueError("secret")))
        call, served = house.start_chat(stream=True)
        with pytest.raises(MurmurateError) as raised:
            await served
        assert "secret" not in raised.value.detail
        assert not call.answer.ended
        assert b"secret" not in call.answer.body
        assert house.meter.under_way == 0

    asyncio.run(story())


# Clients that leave.


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_before_the_first_delta_stops_the_model(stream: bool) -> None:
    async def story() -> None:
        model = Saying(asyncio.Event())
        house = House(model)
        call, served = house.start_chat(stream=stream)
        await until(lambda: bool(model.asked))
        call.leave()
        await served
        assert model.closed_early == 1
        assert call.answer.status == 0
        assert house.meter.requests == [("/v1/chat/completions", 499)]
        assert house.meter.under_way == 0

    asyncio.run(story())


def test_a_client_that_leaves_in_mid_stream_stops_the_model_at_once() -> None:
    async def story() -> None:
        model = Saying(Text("first"), asyncio.Event())
        house = House(model)
        call, served = house.start_chat(stream=True)
        await until(lambda: b"first" in call.answer.body)
        call.leave()
        ticks = 0
        while not model.closed_early:
            await asyncio.sleep(0)
            ticks += 1
            assert ticks < 10
        await served
        assert house.meter.requests == [("/v1/chat/completions", 499)]
        assert house.tracer.named("gateway").error is not None

    asyncio.run(story())


def test_a_client_that_leaves_while_sending_its_body_reaches_no_model() -> None:
    async def story() -> None:
        model = Saying(DONE)
        house = House(model)
        call, served = house.start("POST", "/v1/chat/completions", [b"{", b"}"])
        call.leave()
        await served
        assert not model.asked
        assert house.meter.requests == [("/v1/chat/completions", 499)]

    asyncio.run(story())


# Wrong requests.


def test_an_unknown_model_is_a_404_that_lists_the_known() -> None:
    house = House(platform=FakePlatform(chats=("assistant", "tiny")))
    answer = house.chat({"model": "gpt-9"})
    assert answer.status == 404
    assert answer.error["code"] == "model_not_found"
    assert answer.error["param"] == "model"
    assert "assistant, tiny" in answer.error["message"]


def test_an_embedder_does_not_chat() -> None:
    assert House().chat({"model": "minilm"}).status == 404


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "assistant", "content": "I"}]}, "messages"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"model": 5}, "model"),
        ({"stream": "yes"}, "stream"),
        ({"streem": True}, "streem"),
    ],
)
def test_a_wrong_field_is_a_400_that_names_it(fields: dict[str, Any], param: str) -> None:
    model = Saying(DONE)
    answer = House(model).chat(fields)
    assert answer.status == 400
    assert answer.error["type"] == "invalid_request_error"
    assert answer.error["param"] == param
    assert param in answer.error["message"]
    assert not model.asked


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"null", b'{"model":"tiny"'])
def test_malformed_json_is_a_400(raw: bytes) -> None:
    answer = House().post("/v1/chat/completions", raw)
    assert answer.status == 400
    assert answer.error["code"] == "request.invalid"


def test_a_body_over_the_limit_is_a_413_by_its_announced_length() -> None:
    answer = House().post("/v1/chat/completions", b"{}", headers={"content-length": "10001"})
    assert answer.status == 413
    assert answer.error["code"] == "request.too_large"


def test_a_body_over_the_limit_is_a_413_without_an_announced_length() -> None:
    answer = House().post("/v1/chat/completions", [b" " * 6000] * 2)
    assert answer.status == 413


# Sessions and lanes.


def test_a_new_session_gets_an_id_that_the_client_hears() -> None:
    model = Saying(DONE)
    answer = House(model).chat(headers={"x-murmurate-session": "new"})
    session = model.asked[0].session
    assert session is not None
    assert session.new
    assert session.id.startswith("sess_")
    assert answer.headers["x-murmurate-session"] == session.id


def test_a_named_session_is_continued_and_named_again() -> None:
    model = Saying(DONE)
    answer = House(model).chat({"stream": True}, headers={"x-murmurate-session": "sess_1"})
    assert model.asked[0].session == SessionRef("sess_1")
    assert answer.headers["x-murmurate-session"] == "sess_1"


def test_without_the_header_there_is_no_session() -> None:
    assert "x-murmurate-session" not in House().chat().headers


def test_a_wrong_lane_is_a_400_that_names_the_lanes() -> None:
    answer = House().chat(headers={"x-murmurate-lane": "fast"})
    assert answer.status == 400
    assert answer.error["param"] == "x-murmurate-lane"
    assert "urgent or batch" in answer.error["message"]


# Embeddings.


def test_embeddings_come_as_numbers() -> None:
    answer = House().post("/v1/embeddings", {"model": "minilm", "input": ["ab", "c"]})
    assert answer.status == 200
    whole = answer.json()
    assert [item["embedding"] for item in whole["data"]] == [[1.0, 0.0], [1.0, 0.0]]
    assert whole["usage"] == {"prompt_tokens": 3, "total_tokens": 3}


def test_embeddings_come_as_base64() -> None:
    asked = {"model": "minilm", "input": "ab", "encoding_format": "base64", "dimensions": 2}
    (item,) = House().post("/v1/embeddings", asked).json()["data"]
    assert struct.unpack("<2f", base64.b64decode(item["embedding"])) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"input": ""}, 400, "input"),
        ({"input": []}, 400, "input"),
        ({"input": [1, 2]}, 400, "input[0]"),
        ({"dimensions": 5}, 400, "dimensions"),
        ({"encoding_format": "hex"}, 400, "encoding_format"),
        ({"inputs": "a"}, 400, "inputs"),
        ({"model": "tiny"}, 404, "model"),
    ],
)
def test_wrong_embedding_requests_name_the_field(
    fields: dict[str, Any], status: int, param: str
) -> None:
    answer = House().post("/v1/embeddings", {"model": "minilm", "input": "a", **fields})
    assert (answer.status, answer.error["param"]) == (status, param)


def test_where_no_embedder_is_installed_the_answer_says_so() -> None:
    answer = House(embedders={}).post("/v1/embeddings", {"model": "minilm", "input": "a"})
    assert answer.status == 404
    assert "none is installed" in answer.error["message"]


def test_prompts_and_answers_stay_out_of_log_and_trace() -> None:
    house = House(Saying(Text("private answer"), DONE))
    house.chat({"messages": [{"role": "user", "content": "private question"}]})
    seen = json.dumps(house.log.events) + json.dumps([s.attributes for s in house.tracer.spans])
    assert "private" not in seen


def test_a_refused_turn_starts_no_session() -> None:
    answer = House(Saying(OverloadedError("full", retry_s=1))).chat(
        headers={"x-murmurate-session": "new"}
    )
    assert answer.status == 503
    assert "x-murmurate-session" not in answer.headers
