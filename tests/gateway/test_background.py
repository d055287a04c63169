"""The routes of runs, through the whole gateway."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from murmurate.core.errors import LogUnavailableError, RunOverError
from murmurate.core.types import Lane, SessionRef
from murmurate.gateway.background import or_silence
from tests.fakes import FakePlatform, FakeRuns, RunNews
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


def test_with_an_idempotency_key_the_same_request_begins_one_run() -> None:
    house = House()
    key = {"idempotency-key": '"8e03978e"', "x-murmurate-session": "new"}
    first = house.post("/api/runs", {**HELLO, "priority": 1}, headers=key)
    again = house.post("/api/runs", {"priority": 1, **HELLO}, headers=key)  # in another order
    assert (first.status, again.status) == (202, 202)
    assert first.json() == again.json() == {"id": "run_1", "status": "queued"}
    assert first.headers["x-murmurate-session"] == again.headers["x-murmurate-session"]
    assert len(house.runs.begun) == 1


@pytest.mark.parametrize(
    ("fields", "headers"),
    [
        ({"priority": 2}, {}),
        ({}, {"x-murmurate-lane": "batch"}),
        ({}, {"x-murmurate-session": "s"}),
    ],
)
def test_an_idempotency_key_with_another_request_is_refused(
    fields: dict[str, Any], headers: dict[str, str]
) -> None:
    house = House()
    key = {"idempotency-key": "k"}
    assert house.post("/api/runs", {**HELLO}, headers=key).status == 202
    answer = house.post("/api/runs", {**HELLO, **fields}, headers={**key, **headers})
    assert (answer.status, answer.json()["error"]["code"]) == (422, "run.key_reused")
    assert len(house.runs.begun) == 1


@pytest.mark.parametrize("key", ["", "k" * 256])
def test_an_idempotency_key_has_bounds(key: str) -> None:
    answer = House().post("/api/runs", {**HELLO}, headers={"idempotency-key": key})
    assert answer.status == 400
    assert "Idempotency-Key: expected 1 to 255" in answer.json()["error"]["message"]


def test_while_nothing_happens_a_follower_hears_that_the_connection_lives() -> None:
    async def story() -> list[str | None]:
        go_on = asyncio.Event()

        async def events() -> AsyncGenerator[RunNews]:
            yield RunNews("run.begun")
            await go_on.wait()
            yield RunNews("run.finished")

        seen: list[str | None] = []
        async with aclosing(or_silence(events(), silence_s=0.01)) as news:
            async for one in news:
                seen.append(None if one is None else one.kind)
                if seen.count(None) == 3:
                    go_on.set()
        return seen

    first, *silence, last = asyncio.run(story())
    assert (first, last) == ("run.begun", "run.finished")
    assert len(silence) >= 3
    assert set(silence) == {None}


def test_what_fails_while_nothing_happens_is_raised_and_who_leaves_ends_the_wait() -> None:
    async def story() -> None:
        ended: list[str] = []

        async def events(error: Exception | None) -> AsyncGenerator[RunNews]:
            try:
                yield RunNews("run.begun")
                await asyncio.sleep(0.02 if error else 60)
                raise error or AssertionError
            finally:
                ended.append("events")

        async with aclosing(events(LogUnavailableError("gone"))) as failing:
            news = or_silence(failing, silence_s=60)
            assert await anext(news) is not None
            with pytest.raises(LogUnavailableError):
                await anext(news)
        async with aclosing(events(None)) as lasting:
            news = or_silence(lasting, silence_s=0.01)
            assert await anext(news) is not None
            assert await anext(news) is None
            await news.aclose()
        assert ended == ["events", "events"]

    asyncio.run(story())
