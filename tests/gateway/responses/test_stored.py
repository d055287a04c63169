"""What can be asked of a stored response."""

from typing import Any

import pytest

from murmurate.core.errors import RunOverError
from murmurate.core.types import Text
from murmurate.gateway.responses.stored import CANCEL_LOOK_S, CANCEL_LOOKS
from tests.fakes import DONE, FakeAnswer, FakeRun, Saying
from tests.gateway.client import Answer, House, run

ABSENT = "resp_" + "0" * 26


def house_with(*items: dict[str, Any], **fields: Any) -> tuple[House, str]:
    """Return a house with a stored response, and its path."""
    house = House(Saying(Text("so"), DONE))
    if items:
        fields["input"] = list(items)
    return house, f"/v1/responses/{house.respond(fields).json()['id']}"


def says(*words: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": word} for word in words]


def delete(house: House, path: str) -> Answer:
    return run(lambda: house.send("DELETE", path))


def test_a_response_is_shown_and_deleted() -> None:
    house, place = house_with()
    assert house.get(place).json()["output"][0]["content"][0]["text"] == "so"
    answer = delete(house, place)
    name = place.rpartition("/")[2]
    assert answer.json() == {"id": name, "object": "response.deleted", "deleted": True}
    assert house.get(place).status == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("GET", "?stream=true"),
        ("DELETE", ""),
        ("POST", "/cancel"),
        ("GET", "/input_items"),
    ],
)
def test_what_nobody_has_is_not_found(method: str, path: str) -> None:
    answer = run(lambda: House().send(method, f"/v1/responses/{ABSENT}{path}"))
    assert answer.status == 404
    assert answer.error["type"] == "invalid_request_error"
    assert ABSENT in answer.error["message"]


def test_one_in_the_background_is_shown_as_far_as_it_is() -> None:
    house, place = house_with(background=True)
    assert house.get(place).json()["status"] == "queued"
    house.runs.views[house.runs.ids[0]] = FakeRun("run", "finished", 9_000, FakeAnswer("so"))
    shown = house.get(place).json()
    assert (shown["status"], shown["completed_at"]) == ("completed", 9)


def test_only_one_in_the_background_is_followed() -> None:
    house, place = house_with()
    answer = house.get(f"{place}?stream=true")
    assert (answer.status, answer.error["param"]) == (400, "stream")


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("?stream=perhaps", "stream"),
        ("?stream=true&starting_after=-1", "starting_after"),
        ("?stream=true&starting_after=x", "starting_after"),
        ("?stream=true&starting_after=" + "9" * 5000, "starting_after"),
    ],
)
def test_a_wrong_parameter_is_named(query: str, param: str) -> None:
    house, place = house_with(background=True)
    answer = house.get(place + query)
    assert (answer.status, answer.error["param"]) == (400, param)


# Cancelling.


def test_one_in_the_background_is_cancelled_and_stays_so() -> None:
    house, place = house_with(background=True)
    for _ in range(2):
        answer = house.post(f"{place}/cancel", b"")
        assert (answer.status, answer.json()["status"]) == (200, "cancelled")
    assert house.runs.asked == [("cancel", house.runs.ids[0])]


def test_one_that_has_ended_meanwhile_is_shown_as_it_is() -> None:
    house, place = house_with(background=True)
    house.runs.refusal = RunOverError("run_1 has finished already")
    house.clock.slept_s.clear()
    assert house.post(f"{place}/cancel", b"").json()["status"] == "queued"
    assert house.clock.slept_s == [CANCEL_LOOK_S] * CANCEL_LOOKS, "it waits only so long"


def test_one_that_a_client_waits_for_is_not_cancelled() -> None:
    house, place = house_with()
    answer = house.post(f"{place}/cancel", b"")
    assert (answer.status, answer.error["param"]) == (400, "response_id")
    assert "close its connection" in answer.error["message"]


# What was asked.


def test_the_newest_input_comes_first_unless_the_client_says_otherwise() -> None:
    house, place = house_with(*says("one", "two", "three"))
    for order, words in (("", "three two one"), ("?order=asc", "one two three")):
        listed = house.get(f"{place}/input_items{order}").json()
        assert listed["object"] == "list"
        assert [it["content"][0]["text"] for it in listed["data"]] == words.split()
        assert listed["first_id"] == listed["data"][0]["id"]
        assert listed["last_id"] == listed["data"][2]["id"]
        assert listed["has_more"] is False
