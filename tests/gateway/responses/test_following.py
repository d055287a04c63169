"""A response in the background as a stream of events."""

import asyncio

import pytest

from murmurate.core.errors import LogUnavailableError
from murmurate.core.types import Finished, FinishReason, Text, ToolCall
from murmurate.gateway.responses.following import ending_of
from murmurate.gateway.responses.output import Output
from murmurate.gateway.responses.terms import opened
from tests.fakes import FakeAnswer, FakeFailure, FakeRun, FakeRuns
from tests.gateway.client import House
from tests.gateway.responses.test_body import body
from tests.gateway.responses.test_output import told

DONE = FakeRun("run", "finished", 9_000, FakeAnswer("so it is"))


def finished(house: House) -> str:
    """Let a response be made in the background; return its id."""
    made = house.respond({"background": True}).json()
    house.runs.views[house.runs.ids[-1]] = DONE
    return made["id"]


def test_its_events_are_those_of_an_answer_in_one_piece() -> None:
    house = House()
    events = house.get(f"/v1/responses/{finished(house)}?stream=true").told()
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events] == [
        "response.created",
        "response.queued",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    statuses = [e["response"]["status"] for e in events if "response" in e]
    assert statuses == ["queued", "queued", "in_progress", "completed"]


def test_it_is_followed_from_where_a_client_was() -> None:
    house = House()
    place = f"/v1/responses/{finished(house)}?stream=true"
    whole = house.get(place).told()
    for seen in (0, 4, len(whole) - 1):
        assert house.get(f"{place}&starting_after={seen}").told() == whole[seen + 1 :]


def test_whoever_asks_for_a_stream_follows_at_once() -> None:
    async def story() -> None:
        house = House(runs=FakeRuns(views={}))
        ask = b'{"model":"tiny","input":"hi","background":true,"stream":true}'
        call, served = house.start("POST", "/v1/responses", ask)
        await served
        # The fake's run is queued when its news end: nobody has worked on it.
        assert call.answer.told()[0]["response"]["status"] == "queued"
        assert len(house.runs.begun) == 1

    asyncio.run(story())


def test_an_outage_ends_the_stream_and_not_the_response() -> None:
    house = House(runs=FakeRuns(refusal=LogUnavailableError("the disk is full")))
    made = house.respond({"background": True, "stream": True}).told()
    assert [event["type"] for event in made] == ["response.created", "response.queued", "error"]
    assert made[-1]["code"] == "log.unavailable"


@pytest.mark.parametrize(
    ("run", "types", "status"),
    [
        (FakeRun("run", "cancelled", 9_000), ["response.incomplete"], "cancelled"),
        (
            FakeRun("run", "failed", 9_000, error=FakeFailure("run.poison", "why")),
            ["response.failed"],
            "failed",
        ),
    ],
)
def test_one_without_an_answer_ends_at_once(run: FakeRun, types: list[str], status: str) -> None:
    events = told(ending_of(opened(body(background=True), "resp_1", 7), run))
    assert [event["type"] for event in events] == types
    assert events[-1]["response"]["status"] == status


def test_a_call_that_was_not_allowed_is_told_as_an_error() -> None:
    asked = opened(body(background=True, tool_choice="none"), "resp_1", 7)
    answer = FakeAnswer("", calls=(ToolCall("c1", "now", "{}"),))
    *_, trouble, end = told(ending_of(asked, FakeRun("run", "finished", 9_000, answer)))
    assert (trouble["type"], trouble["code"]) == ("error", "engine.failed")
    assert end["type"] == "response.failed"


def test_the_end_is_what_an_answer_in_the_foreground_would_end_with() -> None:
    asked = opened(body(background=True), "resp_1", 7)
    output = Output(asked, first=3)
    deltas = (Text("so it is"), Finished(FinishReason.STOP))
    foreground = told(event for delta in deltas for event in output.take(delta))
    assert told(ending_of(asked, DONE))[:-1] == foreground
