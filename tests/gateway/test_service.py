"""What surrounds every request: who may ask, how fast, and how it is counted."""

import asyncio

import pytest

from murmurate.gateway.quota import Bucket, Rate
from murmurate.gateway.service import BUCKETS_MAX
from tests.fakes import DONE, Saying, Text, until
from tests.gateway.client import House, run

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize("authorization", [None, "Bearer mur_wrong", "Basic x"])
def test_without_a_known_key_the_answer_is_401(authorization: str | None) -> None:
    model = Saying(DONE)
    answer = House(model).chat(headers={"authorization": authorization})
    assert answer.status == 401
    assert answer.error["code"] == "invalid_api_key"
    assert answer.error["type"] == "authentication_error"
    assert not model.asked


@pytest.mark.parametrize("name", ["host", "origin"])
def test_a_foreign_place_is_a_403_even_with_a_key(name: str) -> None:
    answer = House().get("/v1/models", headers={name: "https://evil.example"})
    assert answer.status == 403
    assert answer.error["code"] == "forbidden"


def test_a_configured_host_may_ask() -> None:
    headers: dict[str, str | None] = {"host": "murmurate.example"}
    assert House().get("/v1/models", headers=headers).status == 200


def test_an_unknown_path_is_a_404() -> None:
    answer = House().get("/v2/chat")
    assert answer.status == 404
    assert answer.error["code"] == "not_found"
    assert "/v2/chat" in answer.error["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/chat/completions"), ("POST", "/v1/models"), ("DELETE", "/api/sessions/s1")],
)
def test_a_wrong_method_is_a_405(method: str, path: str) -> None:
    answer = run(lambda: House().send(method, path))
    assert answer.status == 405
    assert answer.error["code"] == "method_not_allowed"


def test_a_key_over_its_rate_is_a_429_that_says_when_to_come_back() -> None:
    house = House(rate=Rate(per_s=0.1, burst=2.0))
    assert [house.get("/v1/models").status for _ in range(2)] == [200, 200]
    answer = house.get("/v1/models")
    assert answer.status == 429
    assert answer.error["code"] == "rate_limit_exceeded"
    assert answer.headers["retry-after"] == "10"
    house.clock.time_s += 10
    assert house.get("/v1/models").status == 200


def test_health_is_answered_whatever_the_rate() -> None:
    house = House(rate=Rate(per_s=0.1, burst=1.0))
    assert [house.get("/healthz").status for _ in range(3)] == [200] * 3


def test_a_wrong_path_or_key_costs_no_rate() -> None:
    house = House(rate=Rate(per_s=0.1, burst=1.0))
    house.get("/nowhere")
    house.get("/v1/models", headers={"authorization": None})
    assert house.get("/v1/models").status == 200


def test_the_rates_of_keys_that_were_forgotten_are_forgotten_too() -> None:
    house = House(rate=Rate(per_s=0.1, burst=1.0))
    house.app._buckets |= {f"key_gone_{number}": Bucket(1.0, 0.0) for number in range(BUCKETS_MAX)}
    assert house.get("/v1/models").status == 200
    assert list(house.app._buckets) == ["key_1"]
    assert house.get("/v1/models").status == 429


def test_too_many_requests_at_a_time_are_a_503() -> None:
    async def story() -> None:
        model = Saying(asyncio.Event())
        house = House(model, requests_max=2)
        calls = [house.start_chat() for _ in range(2)]
        await until(lambda: len(model.asked) == 2)
        answer = await house.send("GET", "/v1/models")
        assert answer.status == 503
        assert answer.error["code"] == "router.overloaded"
        assert answer.headers["retry-after"] == "1"
        for call, served in calls:
            call.leave()
            await served
        assert (await house.send("GET", "/v1/models")).status == 200

    asyncio.run(story())


def test_a_draining_server_refuses_what_is_new_and_finishes_what_runs() -> None:
    async def story() -> None:
        gate = asyncio.Event()
        model = Saying(gate, Text("late"), DONE)
        house = House(model)
        call, served = house.start_chat()
        await until(lambda: bool(model.asked))
        house.app.drain()
        answer = await house.send("GET", "/v1/models")
        assert answer.status == 503
        assert answer.error["code"] == "server.draining"
        assert (await house.send("GET", "/healthz")).status == 200
        gate.set()
        await served
        assert call.answer.status == 200

    asyncio.run(story())


def test_a_request_joins_the_callers_own_trace() -> None:
    house = House()
    header = f"00-{TRACE_ID}-00f067aa0ba902b7-01"
    answer = house.chat(headers={"traceparent": header})
    assert answer.headers["x-murmurate-trace"] == TRACE_ID
    parent = house.tracer.named("gateway").parent
    assert (parent.trace_id, parent.span_id) == (TRACE_ID, "00f067aa0ba902b7")


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "nonsense",
        f"01-{TRACE_ID}-00f067aa0ba902b7-01",
        f"00-{TRACE_ID.upper()}-00f067aa0ba902b7-01",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID}-00f067aa0ba902b7-01-x",
    ],
)
def test_a_malformed_traceparent_begins_a_trace_of_its_own(header: str | None) -> None:
    house = House()
    answer = house.chat(headers={"traceparent": header})
    assert answer.status == 200
    trace_id = answer.headers["x-murmurate-trace"]
    assert len(trace_id) == 32
    assert trace_id.lower() != TRACE_ID
    assert house.tracer.named("gateway").parent.span_id is None


@pytest.mark.parametrize(
    ("path", "route", "status"),
    [
        ("/v1/models", "/v1/models", 200),
        ("/v1/models/minilm", "/v1/models/{id}", 200),
        ("/api/sessions/s1", "/api/sessions/{id}", 404),
        ("/healthz", "/healthz", 200),
        ("/whatever/a/client/invents", "other", 404),
    ],
)
def test_requests_are_counted_under_a_bounded_number_of_routes(
    path: str, route: str, status: int
) -> None:
    house = House()
    house.get(path)
    assert house.meter.requests == [(route, status)]
    assert house.meter.under_way == 0


def test_every_request_is_one_line_of_the_log_and_health_none() -> None:
    house = House()
    trace = house.get("/v1/models").headers["x-murmurate-trace"]
    house.get("/healthz")
    house.get("/v1/models", headers={"authorization": None})
    assert house.log.named("request.done") == [
        {"route": "/v1/models", "status": 200, "ms": 0.0, "trace": trace},
        {"route": "/v1/models", "status": 401, "ms": 0.0, "trace": ""},
    ]
