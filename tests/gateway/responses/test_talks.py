"""Conversations over HTTP, and responses in them."""

from typing import Any

import pytest

from murmurate.core.errors import EngineFailedError
from murmurate.core.types import Finished, FinishReason, Text, ToolCall
from tests.fakes import DONE, Saying
from tests.gateway.client import Answer, House, run
from tests.gateway.responses.test_service import kept
from tests.gateway.responses.test_stored import says

ABSENT = "conv_" + "0" * 26


def begun(house: House, *words: str) -> str:
    """Begin a conversation; return its path."""
    made = house.post("/v1/conversations", {"items": says(*words)}).json()
    return f"/v1/conversations/{made['id']}"


def words_of(house: House, place: str) -> list[str]:
    listed = house.get(f"{place}/items?order=asc&limit=100").json()["data"]
    return [it["content"][0]["text"] for it in listed]


def delete(house: House, path: str) -> Answer:
    return run(lambda: house.send("DELETE", path))


def test_a_conversation_is_begun_shown_updated_and_deleted() -> None:
    house = House()
    made = house.post("/v1/conversations", {"metadata": {"a": "b"}}).json()
    place = f"/v1/conversations/{made['id']}"
    assert made == {
        "id": made["id"],
        "object": "conversation",
        "created_at": 1000,
        "metadata": {"a": "b"},
    }
    assert made["id"].startswith("conv_")
    assert house.get(place).json() == made
    updated = house.post(place, {"metadata": {"c": "d"}}).json()
    assert updated == house.get(place).json() == {**made, "metadata": {"c": "d"}}
    gone = {"id": made["id"], "object": "conversation.deleted", "deleted": True}
    assert delete(house, place).json() == gone
    assert house.get(place).status == 404


def test_a_conversation_needs_no_body() -> None:
    house = House()
    made = house.post("/v1/conversations", b"")
    assert (made.status, made.json()["metadata"]) == (200, {})


def test_items_are_added_listed_shown_and_deleted() -> None:
    house = House()
    place = begun(house, "one")
    new = house.post(f"{place}/items", {"items": says("two", "three")}).json()
    assert (new["object"], new["has_more"]) == ("list", False)
    assert [it["content"][0]["text"] for it in new["data"]] == ["two", "three"]
    assert words_of(house, place) == ["one", "two", "three"]
    newest = house.get(f"{place}/items?limit=1").json()
    assert newest["has_more"] is True
    assert newest["data"] == new["data"][1:]
    item = new["data"][0]
    assert house.get(f"{place}/items/{item['id']}").json() == item
    assert delete(house, f"{place}/items/{item['id']}").json()["object"] == "conversation"
    assert words_of(house, place) == ["one", "three"]
    assert house.get(f"{place}/items/{item['id']}").status == 404


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("", {"items": says(*"x" * 21)}, "items"),
        ("", {"items": [{"type": "message"}]}, "items[0].role"),
        ("", {"metadata": {"k": "v" * 513}}, "metadata"),
        ("", {"colour": "red"}, "colour"),
        ("/ID", {}, "metadata"),
        ("/ID/items", {"items": []}, "items"),
        ("/ID/items", {"items": [{"type": "item_reference", "id": "msg_1"}]}, "items[0].id"),
    ],
)
def test_a_wrong_request_is_named(path: str, body: dict[str, Any], param: str) -> None:
    house = House()
    place = begun(house, "one")
    answer = house.post(f"/v1/conversations{path}".replace("/v1/conversations/ID", place), body)
    assert answer.status in {400, 404}
    assert answer.error["param"] == param
    assert words_of(house, place) == ["one"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", b""),
        ("POST", "", b'{"metadata":{}}'),
        ("DELETE", "", b""),
        ("GET", "/items", b""),
        ("POST", "/items", b'{"items":[{"role":"user","content":"hi"}]}'),
        ("GET", "/items/msg_1", b""),
        ("DELETE", "/items/msg_1", b""),
    ],
)
def test_what_nobody_has_is_not_found(method: str, path: str, body: bytes) -> None:
    answer = run(lambda: House().send(method, f"/v1/conversations/{ABSENT}{path}", body))
    assert answer.status == 404
    assert ABSENT in answer.error["message"]


# Responses in a conversation.


def test_a_response_goes_on_in_its_conversation_and_adds_its_turn() -> None:
    model = Saying(Text("so"), DONE)
    house = House(model)
    place = begun(house, "one")
    name = place.rpartition("/")[2]
    first = house.respond({"input": "two", "conversation": name}).json()
    house.respond({"input": "three", "conversation": {"id": name}, "stream": True}).told()
    assert first["conversation"] == {"id": name}
    assert [message.text for message in model.asked[0].messages] == ["one", "two"]
    said = [message.text for message in model.asked[1].messages]
    assert said == ["one", "two", "so", "three"]
    assert words_of(house, place) == ["one", "two", "so", "three", "so"]
    [message] = first["output"]
    assert house.get(f"{place}/items/{message['id']}").json() == message


def test_an_item_of_the_conversation_can_be_referred_to() -> None:
    model = Saying(Text("so"), DONE)
    house = House(model)
    place = begun(house, "one")
    [item] = house.get(f"{place}/items").json()["data"]
    reference = [{"type": "item_reference", "id": item["id"]}]
    house.respond({"input": reference, "conversation": place.rpartition("/")[2]})
    assert [message.text for message in model.asked[0].messages] == ["one", "one"]
    assert words_of(house, place) == ["one", "so"], "it stays where it was"


def test_a_turn_is_kept_even_where_its_response_is_not() -> None:
    house = House(Saying(Text("so"), DONE))
    place = begun(house)
    asked = {"input": "one", "conversation": place.rpartition("/")[2], "store": False}
    assert house.respond(asked).status == 200
    assert words_of(house, place) == ["one", "so"]
    assert kept(house) == []


def test_a_response_that_fails_adds_nothing() -> None:
    house = House(Saying(Text("so"), EngineFailedError("broke off")))
    place = begun(house, "one")
    asked = {"input": "two", "conversation": place.rpartition("/")[2], "stream": True}
    assert house.respond(asked).told()[-1]["type"] == "response.failed"
    assert words_of(house, place) == ["one"]


def test_a_call_waits_for_its_result_in_the_conversation() -> None:
    tool = {"type": "function", "name": "now"}
    house = House(Saying(ToolCall("c1", "now", "{}"), Finished(FinishReason.TOOL_CALLS)))
    name = begun(house).rpartition("/")[2]
    asked: dict[str, Any] = {"conversation": name, "tools": [tool]}
    house.respond(asked)
    assert house.respond(asked).error["message"].endswith("for the call 'c1'")
    result = {"type": "function_call_output", "call_id": "c1", "output": "noon"}
    assert house.respond({**asked, "input": [result]}).status == 200


@pytest.mark.parametrize(
    ("fields", "headers", "status"),
    [
        ({"previous_response_id": "resp_1"}, {}, 400),
        ({"background": True}, {}, 400),
        ({}, {"x-murmurate-session": "new"}, 400),
        ({"conversation": ABSENT}, {}, 404),
    ],
)
def test_what_does_not_go_with_a_conversation_is_refused(
    fields: dict[str, Any], headers: dict[str, str], status: int
) -> None:
    model = Saying(Text("so"), DONE)
    house = House(model)
    asked = {"conversation": begun(house).rpartition("/")[2], **fields}
    answer = house.respond(asked, headers=headers)
    assert answer.status == status
    assert "conversation" in answer.error["message"]
    assert model.asked == []
