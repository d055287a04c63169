"""The routes of runs, through the whole gateway."""

import json
from typing import Any

import pytest

from murmurate.core.errors import LogUnavailableError, RunOverError
from murmurate.core.types import Lane, SessionRef
from tests.fakes import FakePlatform, FakeRuns
from tests.gateway.client import HELLO, Answer, House


def begun(house: House, **fields: Any) -> str:
    """Begin a run; return its id."""
    answer = house.post("/api/runs", {**HELLO, **fields})
    assert answer.status == 202, answer.body
    return answer.json()["id"]


def named_events(answer: Answer) -> list[tuple[str | None, Any]]:
    """Return the server-sent events with their names."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    *blocks, rest = answer.body.decode().split("\n\n")
    assert rest == "", "the stream ends in the middle of an event"
    found: list[tuple[str | None, Any]] = []
    for block in blocks:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        assert set(fields) <= {"event", "data"}
        found.append((fields.get("event"), json.loads(fields["data"])))
    return found


def test_a_run_is_accepted_with_its_id_and_belongs_to_the_caller() -> None:
    house = House()
    answer = house.post("/api/runs", {**HELLO, "temperature": 0.5, "priority": 3})
    assert (answer.status, answer.json()) == (202, {"id": "run_1", "status": "queued"})
    assert "x-murmurate-session" not in answer.headers
    [(request, priority)] = house.runs.begun
    assert (request.tenant, request.model, request.messages[0].text) == ("a", "tiny", "hello")
    assert (request.sampling.temperature, request.session, priority) == (0.5, None, 3)


def test_without_a_priority_it_is_0_and_a_lane_may_be_named() -> None:
    house = House()
    house.post("/api/runs", {**HELLO}, headers={"x-murmurate-lane": "batch"})
    [(request, priority)] = house.runs.begun
    assert (request.lane, priority) == (Lane.BATCH, 0)


def test_the_session_of_a_run_is_told_in_a_header() -> None:
    house = House()
    answer = house.post("/api/runs", {**HELLO}, headers={"x-murmurate-session": "new"})
    session = answer.headers["x-murmurate-session"]
    house.post("/api/runs", {**HELLO}, headers={"x-murmurate-session": session})
    assert [request.session for request, _ in house.runs.begun] == [
        SessionRef(session, new=True),
        SessionRef(session),
    ]


@pytest.mark.parametrize("priority", [-10, 10])
def test_the_outermost_priorities_are_taken(priority: int) -> None:
    house = House()
    begun(house, priority=priority)
    assert house.runs.begun[0][1] == priority


@pytest.mark.parametrize("priority", [-11, 11, 1.5, "high", None])
def test_a_priority_out_of_bounds_begins_nothing(priority: Any) -> None:
    house = House()
    answer = house.post("/api/runs", {**HELLO, "priority": priority})
    assert (answer.status, answer.error["param"]) == (400, "priority")
    assert house.runs.begun == []


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"model": "tiny"}', {**HELLO, "messages": []}, {**HELLO, "prio": 1}]
)
def test_a_wrong_body_begins_nothing(body: Any) -> None:
    house = House()
    assert house.post("/api/runs", body).status == 400
    assert house.runs.begun == []


def test_a_model_that_is_unknown_or_anothers_begins_nothing() -> None:
    house = House(platform=FakePlatform(own_chats={"b": ["theirs"]}))
    for name in ("big", "theirs"):
        answer = house.post("/api/runs", {**HELLO, "model": name})
        assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    assert house.runs.begun == []


def test_runs_are_listed_and_shown_to_their_tenant() -> None:
    house = House()
    assert house.get("/api/runs").json() == {"runs": []}
    run_id = begun(house)
    assert house.get("/api/runs").json() == {"runs": [{"id": run_id}]}
    assert house.get(f"/api/runs/{run_id}").json() == {"id": run_id, "status": "queued"}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("GET", "/events"),
        ("POST", "/cancel"),
        ("POST", "/resume"),
        ("POST", "/replay"),
    ],
)
def test_an_unknown_run_is_a_plain_404(method: str, path: str) -> None:
    house = House()
    place = f"/api/runs/run_9{path}"
    answer = house.get(place) if method == "GET" else house.post(place, b"")
    assert (answer.status, answer.error["code"]) == (404, "not_found")
    assert answer.headers["content-type"] == "application/json"


def test_events_come_by_name_until_the_run_is_over() -> None:
    house = House()
    answer = house.get(f"/api/runs/{begun(house)}/events")
    assert answer.status == 200
    assert named_events(answer) == [
        ("run.begun", {"kind": "run.begun"}),
        ("run.finished", {"kind": "run.finished"}),
    ]


def test_events_that_break_off_end_with_the_error() -> None:
    house = House(runs=FakeRuns(refusal=LogUnavailableError("the disk is full")))
    answer = house.get(f"/api/runs/{begun(house)}/events")
    assert answer.status == 200
    [first, (name, last)] = named_events(answer)
    assert first == ("run.begun", {"kind": "run.begun"})
    assert name is None
    assert last["error"]["code"] == "log.unavailable"
    assert last["error"]["message"] == "the disk is full"


@pytest.mark.parametrize("verb", ["cancel", "resume"])
def test_a_run_is_cancelled_and_resumed(verb: str) -> None:
    house = House()
    run_id = begun(house)
    answer = house.post(f"/api/runs/{run_id}/{verb}", b"")
    assert (answer.status, answer.json()) == (202, {"id": run_id})
    assert house.runs.asked == [(verb, run_id)]


@pytest.mark.parametrize("verb", ["cancel", "resume", "replay"])
def test_what_is_too_late_for_a_run_is_a_conflict(verb: str) -> None:
    house = House(runs=FakeRuns(refusal=RunOverError("run_1 has finished already")))
    answer = house.post(f"/api/runs/{begun(house)}/{verb}", b"")
    assert (answer.status, answer.error["code"]) == (409, "run.over")
    assert answer.error["message"] == "run_1 has finished already"


@pytest.mark.parametrize(("body", "model"), [(b"", None), ({}, None), ({"model": "big"}, "big")])
def test_a_run_is_replayed_perhaps_with_another_model(body: Any, model: str | None) -> None:
    house = House()
    run_id = begun(house)
    answer = house.post(f"/api/runs/{run_id}/replay", body)
    assert (answer.status, answer.json()) == (200, {"id": run_id, "same": True})
    assert house.runs.asked == [(f"replay with {model}", run_id)]


def test_a_wrong_body_replays_nothing() -> None:
    house = House()
    answer = house.post(f"/api/runs/{begun(house)}/replay", {"modell": "big"})
    assert answer.status == 400
    assert house.runs.asked == []
