"""`POST /v1/responses`, through the whole gateway."""

import asyncio
from typing import Any

import pytest

from murmurate.core.errors import (
    EngineFailedError,
    LogUnavailableError,
    MurmurateError,
    OverloadedError,
    PromptTooLongError,
)
from murmurate.core.ports import Entry
from murmurate.core.types import (
    CallPart,
    Finished,
    FinishReason,
    Lane,
    Role,
    Sampling,
    SessionRef,
    Text,
    Tool,
    ToolCall,
    Usage,
)
from tests.fakes import DONE, FakePlatform, Saying, until, user
from tests.gateway.client import House, run

HI = (Text("Hel"), Text("lo"), Usage(3, 2), DONE)
NOW = {"type": "function", "name": "now"}
CALLS = (ToolCall("c1", "now", "{}"), Usage(1, 1), Finished(FinishReason.TOOL_CALLS))


def kept(house: House) -> list[str]:
    """Return the streams of the responses that are stored."""

    async def names() -> list[str]:
        return [it.stream async for it in house.kept.streams("a", "response/")]

    return run(names)


# Plain answers.


def test_an_answer_is_one_response() -> None:
    answer = House(Saying(*HI)).respond({"metadata": {"a": "b"}})
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    whole = answer.json()
    suffix = whole["id"].removeprefix("resp_")
    assert len(suffix) == 26
    assert (whole["object"], whole["status"], whole["model"]) == ("response", "completed", "tiny")
    assert (whole["created_at"], whole["completed_at"]) == (1000, 1000)
    assert whole["metadata"] == {"a": "b"}
    assert whole["usage"]["total_tokens"] == 5
    [message] = whole["output"]
    assert message["id"] == f"msg_{suffix}_0"
    assert message["content"][0]["text"] == "Hello"


def test_the_model_sees_one_typed_request() -> None:
    model = Saying(*HI)
    house = House(model, scopes=("chat",))
    answer = house.respond(
        {
            "instructions": "Be brief.",
            "tools": [NOW],
            "max_output_tokens": 9,
            "service_tier": "flex",
        }
    )
    [asked] = model.asked
    assert asked.id.startswith("req_")
    assert (asked.tenant, asked.model, asked.scopes) == ("a", "tiny", ("chat",))
    assert [message.role for message in asked.messages] == [Role.SYSTEM, Role.USER]
    assert asked.messages[1] == user("hello")
    assert asked.tools == (Tool("now", "", "{}"),)
    assert asked.sampling == Sampling(tokens_max=9)
    assert asked.lane is Lane.BATCH
    assert answer.json()["service_tier"] == "flex"


def test_lanes_are_told_as_in_a_chat_where_the_tier_says_nothing() -> None:
    model = Saying(*HI)
    house = House(model)
    house.respond(headers={"x-murmurate-lane": "batch"})
    house.respond({"service_tier": "priority"})
    assert [asked.lane for asked in model.asked] == [Lane.BATCH, Lane.URGENT]


def test_the_first_delta_and_the_tokens_are_noted() -> None:
    house = House(Saying(*HI))
    house.respond()
    assert house.meter.firsts == ["tiny"]
    noted = house.tracer.named("gateway").attributes
    assert (noted["tokens_in"], noted["tokens_out"], noted["finish"]) == (3, 2, "stop")


def test_a_call_comes_back_and_its_result_goes_in() -> None:
    model = Saying(*CALLS)
    house = House(model)
    first = house.respond({"tools": [NOW]}).json()
    [call] = first["output"]
    assert (call["type"], call["call_id"], call["name"]) == ("function_call", "c1", "now")
    result = {"type": "function_call_output", "call_id": "c1", "output": "noon"}
    asked = [{"role": "user", "content": "hello"}, call, result]
    house.respond({"tools": [NOW], "input": asked})
    house.respond({"tools": [NOW], "input": [result], "previous_response_id": first["id"]})
    by_hand, by_id = (it.messages for it in model.asked[1:])
    assert by_hand == by_id
    assert by_hand[1].parts == (CallPart("c1", "now", "{}"),)


def test_a_call_of_a_tool_that_is_not_allowed_is_an_error() -> None:
    tools = [NOW, {"type": "function", "name": "then"}]
    choice = {"type": "function", "name": "then"}
    answer = House(Saying(*CALLS)).respond({"tools": tools, "tool_choice": choice})
    assert (answer.status, answer.error["code"]) == (502, "engine.failed")


# What is stored.


def test_a_response_is_stored_unless_the_client_wants_none() -> None:
    house = House(Saying(*HI))
    made = house.respond().json()
    house.respond({"store": False})
    assert kept(house) == [f"response/{made['id']}"]
    assert house.get(f"/v1/responses/{made['id']}").json() == made


def test_a_response_goes_on_from_an_earlier_one() -> None:
    model = Saying(*HI)
    house = House(model)
    first = house.respond({"instructions": "Be brief."}).json()
    second = house.respond({"input": "more", "previous_response_id": first["id"]}).json()
    house.respond({"input": "yet more", "previous_response_id": second["id"]})
    said = [message.text for message in model.asked[2].messages]
    assert said == ["hello", "Hello", "more", "Hello", "yet more"]
    assert second["previous_response_id"] == first["id"]
    assert second["instructions"] is None, "instructions are not carried over"


def test_an_item_of_an_earlier_response_can_be_referred_to() -> None:
    model = Saying(*HI)
    house = House(model)
    [message] = house.respond().json()["output"]
    reference = {"type": "item_reference", "id": message["id"]}
    asked = [{"role": "user", "content": "hello"}, reference, {"role": "user", "content": "more"}]
    made = house.respond({"input": asked}).json()
    assert [message.text for message in model.asked[1].messages] == ["hello", "Hello", "more"]
    listed = house.get(f"/v1/responses/{made['id']}/input_items?order=asc").json()["data"]
    assert listed[1] == message, "what was referred to is stored with the response"


def test_an_answer_that_can_not_be_stored_is_an_error() -> None:
    house = House(Saying(*HI))
    broken(house)
    answer = house.respond()
    assert (answer.status, answer.error["code"]) == (503, "log.unavailable")
    *_, trouble, failed = house.respond({"stream": True}).told()
    assert trouble["error"]["code"] == "log.unavailable"
    assert failed["type"] == "response.failed"
    assert house.respond({"store": False}).status == 200


def broken(house: House) -> None:
    async def append(entries: list[Entry]) -> None:
        raise LogUnavailableError("the disk is full")

    house.kept.append = append  # pyright: ignore[reportAttributeAccessIssue]


# Streams.


def test_a_stream_tells_all_of_it_and_ends_with_the_mark() -> None:
    answer = House(Saying(*HI)).respond({"stream": True})
    assert answer.status == 200
    assert answer.headers["cache-control"] == "no-cache"
    events = answer.told()
    assert [event["sequence_number"] for event in events] == list(range(10))
    assert "".join(e["delta"] for e in events if "delta" in e) == "Hello"
    assert events[-1]["type"] == "response.completed"


def test_what_was_streamed_is_what_is_stored() -> None:
    house = House(Saying(*HI))
    end = house.respond({"stream": True}).told()[-1]["response"]
    assert house.get(f"/v1/responses/{end['id']}").json() == end


def test_the_last_event_tells_of_a_response_that_is_stored() -> None:
    async def story() -> None:
        house = House(Saying(*HI))
        storing = asyncio.Event()
        append = house.kept.append

        async def late(entries: list[Entry]) -> Any:
            await storing.wait()
            return await append(entries)

        house.kept.append = late  # pyright: ignore[reportAttributeAccessIssue]
        call, served = house.start(
            "POST", "/v1/responses", b'{"model":"tiny","input":"hi","stream":true}'
        )
        await until(lambda: b"response.output_item.done" in call.answer.body)
        for _ in range(20):
            await asyncio.sleep(0)
        assert b"response.completed" not in call.answer.body
        storing.set()
        await served
        assert call.answer.told()[-1]["type"] == "response.completed"

    asyncio.run(story())


def test_an_error_in_mid_stream_is_told_and_stored_as_a_failure() -> None:
    house = House(Saying(Text("Hel"), EngineFailedError("broke off")))
    *_, trouble, failed = house.respond({"stream": True}).told()
    assert (trouble["type"], trouble["code"]) == ("error", "engine.failed")
    assert failed["type"] == "response.failed"
    assert failed["response"]["error"]["message"] == "broke off"
    assert house.get(f"/v1/responses/{failed['response']['id']}").json() == failed["response"]
    assert house.log.named("stream.broken") == [{"code": "engine.failed"}]
    assert house.tracer.named("gateway").attributes["error"] == "engine.failed"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (OverloadedError("full", retry_s=2.2), 503, "router.overloaded"),
        (PromptTooLongError("long"), 400, "context_length_exceeded"),
        (EngineFailedError("broke"), 502, "engine.failed"),
    ],
)
def test_an_error_before_the_first_delta_is_a_plain_answer_and_nothing_is_stored(
    error: MurmurateError, status: int, code: str, *, stream: bool
) -> None:
    house = House(Saying(error))
    answer = house.respond({"stream": stream})
    assert (answer.status, answer.error["code"]) == (status, code)
    assert kept(house) == []


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_stops_the_model_and_nothing_is_stored(stream: bool) -> None:
    async def story() -> House:
        model = Saying(Text("first"), asyncio.Event())
        house = House(model)
        body = b'{"model":"tiny","input":"hi","stream":%b}' % (b"true" if stream else b"false")
        call, served = house.start("POST", "/v1/responses", body)
        await until(lambda: bool(model.asked))
        call.leave()
        await served
        assert model.closed_early == 1
        assert house.meter.requests == [("/v1/responses", 499)]
        return house

    assert kept(asyncio.run(story())) == []


def test_a_stream_whose_key_ends_breaks_off_in_its_own_form() -> None:
    async def story() -> None:
        house = House(Saying(Text("first"), asyncio.Event()))
        body = b'{"model":"tiny","input":"hi","stream":true}'
        call, served = house.start("POST", "/v1/responses", body)
        await until(lambda: b"first" in call.answer.body)
        house.keys.drop("key_1")
        await served
        *_, trouble, failed = call.answer.told()
        assert (trouble["type"], trouble["code"]) == ("error", "invalid_api_key")
        assert failed["type"] == "response.failed"
        assert failed["sequence_number"] == trouble["sequence_number"] + 1

    asyncio.run(story())


# Sessions.


def test_a_response_may_continue_a_stored_session() -> None:
    model = Saying(*HI)
    house = House(model)
    answer = house.respond(headers={"x-murmurate-session": "new"})
    session = answer.headers["x-murmurate-session"]
    result = {"type": "function_call_output", "call_id": "c1", "output": "noon"}
    house.respond({"input": [result]}, headers={"x-murmurate-session": session})
    first, second = model.asked
    assert first.session == SessionRef(session, new=True)
    assert second.session == SessionRef(session)
    both = house.respond(
        {"previous_response_id": answer.json()["id"]}, headers={"x-murmurate-session": session}
    )
    assert (both.status, both.error["param"]) == (400, "previous_response_id")


# In the background.


def test_a_response_in_the_background_is_queued_and_durable_with_its_run() -> None:
    model = Saying(*HI)
    house = House(model)
    answer = house.respond({"background": True})
    made = answer.json()
    assert (answer.status, made["status"], made["background"]) == (200, "queued", True)
    assert made["output"] == []
    assert house.runs.ids == [made["id"].replace("resp", "run")]
    assert kept(house) == [f"response/{made['id']}"]
    assert model.asked == []
    [(request, _)] = house.runs.begun
    assert request.messages == (user("hello"),)


def test_work_in_the_background_needs_its_scope() -> None:
    house = House(Saying(*HI), scopes=("chat",))
    answer = house.respond({"background": True})
    assert (answer.status, answer.error["code"]) == (403, "key.scope_missing")
    assert house.runs.begun == []


# Wrong requests.


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"model": "gpt-9"}, 404, "model"),
        ({"colour": "red"}, 400, "colour"),
        ({"input": None}, 400, "input"),
        ({"input": []}, 400, "input"),
        ({"tools": [{"type": "web_search"}]}, 400, "tools[0].type"),
        ({"previous_response_id": "resp_none"}, 404, "previous_response_id"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, 404, "input[0].id"),
    ],
)
def test_a_wrong_request_is_refused_by_the_name_of_its_field(
    fields: dict[str, Any], status: int, param: str
) -> None:
    model = Saying(*HI)
    answer = House(model, platform=FakePlatform(chats=("tiny",))).respond(fields)
    assert (answer.status, answer.error["param"]) == (status, param)
    assert answer.error["type"] == "invalid_request_error"
    assert model.asked == []
