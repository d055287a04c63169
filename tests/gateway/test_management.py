"""The questions about the service itself, through the whole gateway."""

import asyncio
import json
from typing import Any

import pytest

from murmurate.core.errors import FolderMissingError, NotFoundError
from tests.fakes import FakePlatform, until
from tests.gateway.client import House


def test_models_are_listed_with_embedders() -> None:
    answer = House().get("/v1/models")
    assert answer.json() == {
        "object": "list",
        "data": [
            {"id": "tiny", "object": "model", "created": 0, "owned_by": "murmurate"},
            {"id": "minilm", "object": "model", "created": 0, "owned_by": "murmurate"},
        ],
    }


def test_models_of_another_tenant_are_neither_listed_nor_shown() -> None:
    platform = FakePlatform(own_chats={"a": ["mine"], "b": ["theirs"]})
    house = House(platform=platform)
    listed = [model["id"] for model in house.get("/v1/models").json()["data"]]
    assert listed == ["tiny", "mine", "minilm"]
    assert house.get("/v1/models/theirs").status == 404


def test_one_model_is_shown_by_its_name() -> None:
    assert House().get("/v1/models/minilm").json()["id"] == "minilm"


def test_an_unknown_model_is_a_404() -> None:
    answer = House().get("/v1/models/big")
    assert answer.status == 404
    assert answer.error["code"] == "model_not_found"


def test_a_trace_is_shown_to_its_tenant_only() -> None:
    house = House(platform=FakePlatform(traces={("a", "t1"): [{"name": "x"}], ("b", "t2"): []}))
    assert house.get("/api/traces/t1").json() == {"trace_id": "t1", "spans": [{"name": "x"}]}
    assert house.get("/api/traces/t2").status == 404


def test_a_session_is_shown_to_its_tenant_only() -> None:
    house = House(platform=FakePlatform(sessions={("a", "s1"): ["m"], ("b", "s2"): ["m"]}))
    assert house.get("/api/sessions/s1").json() == {"id": "s1", "messages": ["m"]}
    assert house.get("/api/sessions/s2").status == 404


def test_the_state_of_collections_is_the_tenants_own() -> None:
    answer = House().get("/api/knowledge")
    assert answer.json() == {"collections": [{"collection": "docs", "tenant": "a"}]}


def test_ingest_reports_progress_line_by_line() -> None:
    platform = FakePlatform(progress=({"read": 1}, {"done": True}))
    answer = House(platform=platform).post("/api/ingest", {"collections": ["docs"]})
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.chunks == [b'{"read":1}\n', b'{"done":true}\n']
    assert platform.ingested == [["docs"]]


def test_ingest_without_a_body_means_everything() -> None:
    platform = FakePlatform()
    answer = House(platform=platform, scopes=("ingest",)).post("/api/ingest", b"")
    assert (answer.status, answer.body) == (200, b"")
    assert platform.ingested == [[]]


def test_an_ingest_that_cannot_begin_is_a_plain_error() -> None:
    platform = FakePlatform(progress=(NotFoundError("there is no collection 'x'"),))
    answer = House(platform=platform).post("/api/ingest", {"collections": ["x"]})
    assert answer.status == 404


def test_an_ingest_that_breaks_off_says_so_in_its_last_line() -> None:
    platform = FakePlatform(progress=({"read": 1}, FolderMissingError("gone")))
    answer = House(platform=platform).post("/api/ingest", b"{}")
    assert answer.status == 200
    assert json.loads(answer.chunks[-1])["error"]["code"] == "knowledge.folder_missing"


@pytest.mark.parametrize(
    ("path", "field", "many"),
    [
        ("/api/ingest", "collections", 101),
        ("/api/ingest", "paths", 1001),
        ("/api/search", "collections", 101),
    ],
)
def test_there_is_an_end_to_the_names_in_one_body(path: str, field: str, many: int) -> None:
    platform = FakePlatform()
    house = House(platform=platform)
    body: dict[str, Any] = {"question": "x"} if path == "/api/search" else {}
    answer = house.post(path, {**body, field: ["/a"] * many})
    assert (answer.status, answer.error["param"]) == (400, field)
    assert platform.ingested == []
    assert house.post(path, {**body, field: ["/a"] * (many - 1)}).status == 200


@pytest.mark.parametrize("body", [b'{"collections":"docs"}', b'{"collection":[]}'])
def test_a_wrong_ingest_body_is_a_400(body: bytes) -> None:
    assert House().post("/api/ingest", body).status == 400


def test_an_ingest_may_name_files() -> None:
    platform = FakePlatform()
    House(platform=platform).post("/api/ingest", {"collections": ["a"], "paths": ["/b/c.md"]})
    assert platform.ingested == [["a", "/b/c.md"]]


def test_a_search_is_answered_for_the_caller_s_tenant() -> None:
    answer = House().post("/api/search", {"question": "cats?", "collections": ["docs"], "limit": 2})
    [passage] = answer.json()["passages"]
    assert passage == {"tenant": "a", "in": ["docs"], "question": "cats?", "limit": 2}


@pytest.mark.parametrize(
    "body", [{}, {"question": ""}, {"question": "x", "limit": 51}, {"question": "x", "k": 1}]
)
def test_a_wrong_search_body_is_a_400(body: dict[str, Any]) -> None:
    assert House().post("/api/search", body).status == 400


def test_a_client_that_leaves_stops_the_ingest() -> None:
    async def story() -> None:
        platform = FakePlatform(progress=({"read": 1}, asyncio.Event()))
        house = House(platform=platform)
        call, served = house.start("POST", "/api/ingest")
        await until(lambda: bool(call.answer.chunks))
        call.leave()
        await served
        assert platform.closed_early == 1

    asyncio.run(story())


def test_health_is_open_to_everybody() -> None:
    answer = House().get("/healthz", headers={"authorization": None, "host": "evil.example"})
    assert (answer.status, answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize(("ready", "status"), [(True, 200), (False, 503)])
def test_readiness_is_a_status_and_what_each_part_says(ready: bool, status: int) -> None:
    house = House(platform=FakePlatform(ready=ready))
    answer = house.get("/readyz", headers={"authorization": None})
    assert answer.status == status
    assert answer.json() == {
        "status": "ready" if ready else "not ready",
        "parts": {"model tiny": "ready" if ready else "not reachable"},
    }


@pytest.mark.parametrize("client", ["127.0.0.1", "::1", ""])
def test_metrics_are_open_on_loopback(client: str) -> None:
    answer = House().get("/metrics", headers={"authorization": None}, client=client)
    assert (answer.status, answer.body) == (200, b"requests 1\n")
    assert answer.headers["content-type"].startswith("text/plain")


def test_metrics_are_closed_to_other_machines() -> None:
    answer = House().get("/metrics", client="192.168.7.7")
    assert answer.status == 403
    assert answer.error["code"] == "forbidden"


@pytest.mark.parametrize(
    ("client", "headers", "is_told"),
    [
        ("127.0.0.1", {"host": "localhost:8080"}, True),
        ("::1", {"host": "[::1]:8080"}, True),
        ("192.168.7.7", {"host": "localhost"}, False),
        ("127.0.0.1", {"host": "evil.example"}, False),
        ("127.0.0.1", {"host": "localhost", "origin": "https://evil.example"}, False),
    ],
)
def test_what_may_quote_files_is_told_on_this_machine_only(
    client: str, headers: dict[str, str], is_told: bool
) -> None:
    said = "ended: it exited with 1; its last words: secret.md"
    house = House(platform=FakePlatform(parts_here={"process library": said}))
    parts = house.get("/readyz", headers=headers, client=client).json()["parts"]
    assert ("process library" in parts) == is_told
    assert house.get("/metrics", headers=headers, client=client).status == (200 if is_told else 403)
