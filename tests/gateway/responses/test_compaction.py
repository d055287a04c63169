"""A long conversation becomes its questions and a summary."""

import asyncio
from typing import Any

import pytest

from murmurate.core.types import Role, Sampling, Text, Usage
from murmurate.gateway.responses.compaction import SUMMARY_TOKENS_MAX, TASK, task_of
from murmurate.gateway.responses.items import (
    CallItem,
    CompactionItem,
    InputText,
    Item,
    MessageItem,
    ReasoningItem,
    ResultItem,
    SummaryText,
)
from tests.fakes import DONE, FakePlatform, Saying, until
from tests.gateway.client import House
from tests.gateway.responses.test_service import kept

SUMMARY = (Text("Alice wants "), Text("tea."), Usage(9, 4), DONE)


def test_a_conversation_becomes_its_questions_and_a_summary() -> None:
    model = Saying(*SUMMARY)
    house = House(model)
    asked = [
        {"role": "user", "content": "I want tea."},
        {"role": "assistant", "content": "Which one?"},
        {"role": "user", "content": "The green one."},
    ]
    made = house.post("/v1/responses/compact", {"model": "tiny", "input": asked}).json()
    assert (made["object"], made["created_at"]) == ("response.compaction", 1000)
    *questions, summary = made["output"]
    assert [it["content"][0]["text"] for it in questions] == ["I want tea.", "The green one."]
    assert summary["type"] == "compaction"
    assert made["usage"]["total_tokens"] == 13
    [request] = model.asked
    assert request.sampling == Sampling(tokens_max=SUMMARY_TOKENS_MAX)
    assert (
        request.messages[1].text == "user: I want tea.\nassistant: Which one?\nuser: The green one."
    )
    assert kept(house) == [], "nothing is stored"
    house.respond({"input": [*made["output"], {"role": "user", "content": "So?"}]})
    said = [message.text for message in model.asked[1].messages]
    assert said[2:] == ["What was said before, in short:\nAlice wants tea.", "So?"]


def test_what_a_response_continues_is_compacted() -> None:
    model = Saying(*SUMMARY)
    house = House(model)
    first = house.respond().json()["id"]
    body = {"model": "tiny", "previous_response_id": first, "instructions": "In French."}
    made = house.post("/v1/responses/compact", body).json()
    assert [it["type"] for it in made["output"]] == ["message", "compaction"]
    system, told = model.asked[1].messages
    assert system.text == f"{TASK}\n\nIn French."
    assert told.text == "user: hello\nassistant: Alice wants tea."


def test_an_agents_model_writes_the_summary() -> None:
    model = Saying(*SUMMARY)
    house = House(model, platform=FakePlatform(chats=("assistant", "tiny")))
    house.post("/v1/responses/compact", {"model": "assistant", "input": "hi"})
    assert model.asked[0].model == "tiny"


def test_everything_that_was_said_is_told() -> None:
    items: list[Item] = [
        CompactionItem.of("cmp_1", "long ago"),
        MessageItem("msg_1", "completed", "user", (InputText("hi"),)),
        ReasoningItem("rs_1", (SummaryText("hm"),)),
        CallItem("fc_1", "c1", "now", "{}", "completed"),
        ResultItem("fco_1", "c1", "noon", "completed"),
    ]
    system, told = task_of(None, items)
    assert (system.role, told.role) == (Role.SYSTEM, Role.USER)
    assert told.text.split("\n") == [
        "before: long ago",
        "user: hi",
        "tool now is called with {}",
        "the tool answers: noon",
    ]


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"model": "gpt-9", "input": "hi"}, 404, "model"),
        ({}, 400, "input"),
        ({"input": "hi", "colour": "red"}, 400, "colour"),
        ({"previous_response_id": "resp_none"}, 404, "previous_response_id"),
    ],
)
def test_a_wrong_request_is_named(fields: dict[str, Any], status: int, param: str) -> None:
    answer = House(Saying(*SUMMARY)).post("/v1/responses/compact", {"model": "tiny", **fields})
    assert (answer.status, answer.error["param"]) == (status, param)


def test_a_model_that_says_nothing_has_failed() -> None:
    answer = House(Saying(Text(" "), DONE)).post(
        "/v1/responses/compact", {"model": "tiny", "input": "hi"}
    )
    assert (answer.status, answer.error["code"]) == (502, "engine.failed")


def test_a_client_that_leaves_stops_the_model() -> None:
    async def story() -> None:
        model = Saying(asyncio.Event())
        house = House(model)
        body = b'{"model":"tiny","input":"hi"}'
        call, served = house.start("POST", "/v1/responses/compact", body)
        await until(lambda: bool(model.asked))
        call.leave()
        await served
        assert model.closed_early == 1

    asyncio.run(story())
