"""Routes are found by path, counted under few names, and each has its scope."""

import pytest

from murmurate.core.errors import NotFoundError
from murmurate.core.ports import Span
from murmurate.core.types import Caller
from murmurate.gateway.exchange import Exchange
from murmurate.gateway.routes import PATH_UNKNOWN, Route, Routes
from murmurate.gateway.scopes import Scope
from tests.gateway.client import House, run


async def nothing(exchange: Exchange, caller: Caller, span: Span) -> None:
    """Answer nothing."""


TABLE = Routes(
    [
        Route("GET", "/things", Scope.CHAT, nothing),
        Route("POST", "/things", Scope.ADMIN, nothing),
        Route("GET", "/things/{id}", Scope.CHAT, nothing),
        Route("POST", "/things/{id}/turn", Scope.ADMIN, nothing),
        Route("GET", "/things/{id}/parts/{part}", Scope.CHAT, nothing),
    ]
)

EXPECTED = {
    ("POST", "/v1/chat/completions"): Scope.CHAT,
    ("POST", "/v1/completions"): Scope.CHAT,
    ("POST", "/v1/responses"): Scope.CHAT,
    ("POST", "/v1/responses/compact"): Scope.CHAT,
    ("GET", "/v1/responses/{id}"): Scope.CHAT,
    ("DELETE", "/v1/responses/{id}"): Scope.CHAT,
    ("POST", "/v1/responses/{id}/cancel"): Scope.CHAT,
    ("GET", "/v1/responses/{id}/input_items"): Scope.CHAT,
    ("POST", "/v1/conversations"): Scope.CHAT,
    ("GET", "/v1/conversations/{id}"): Scope.CHAT,
    ("POST", "/v1/conversations/{id}"): Scope.CHAT,
    ("DELETE", "/v1/conversations/{id}"): Scope.CHAT,
    ("POST", "/v1/conversations/{id}/items"): Scope.CHAT,
    ("GET", "/v1/conversations/{id}/items"): Scope.CHAT,
    ("GET", "/v1/conversations/{id}/items/{item}"): Scope.CHAT,
    ("DELETE", "/v1/conversations/{id}/items/{item}"): Scope.CHAT,
    ("POST", "/v1/embeddings"): Scope.EMBEDDINGS,
    ("POST", "/v1/files"): Scope.FILES,
    ("GET", "/v1/files"): Scope.FILES,
    ("GET", "/v1/files/{id}"): Scope.FILES,
    ("GET", "/v1/files/{id}/content"): Scope.FILES,
    ("DELETE", "/v1/files/{id}"): Scope.FILES,
    ("POST", "/v1/batches"): Scope.BATCHES,
    ("GET", "/v1/batches"): Scope.BATCHES,
    ("GET", "/v1/batches/{id}"): Scope.BATCHES,
    ("POST", "/v1/batches/{id}/cancel"): Scope.BATCHES,
    ("GET", "/v1/models"): Scope.MODELS,
    ("GET", "/v1/models/{id}"): Scope.MODELS,
    ("GET", "/api/sessions/{id}"): Scope.SESSIONS,
    ("POST", "/api/runs"): Scope.RUNS,
    ("GET", "/api/runs"): Scope.RUNS,
    ("GET", "/api/runs/{id}"): Scope.RUNS,
    ("GET", "/api/runs/{id}/events"): Scope.RUNS,
    ("POST", "/api/runs/{id}/cancel"): Scope.RUNS,
    ("POST", "/api/runs/{id}/resume"): Scope.RUNS,
    ("POST", "/api/runs/{id}/replay"): Scope.RUNS,
    ("GET", "/api/approvals"): Scope.APPROVE,
    ("POST", "/api/approvals/{id}"): Scope.APPROVE,
    ("GET", "/api/schedules"): Scope.RUNS,
    ("GET", "/api/usage"): Scope.USAGE,
    ("GET", "/api/traces/{id}"): Scope.TRACES,
    ("GET", "/api/knowledge"): Scope.KNOWLEDGE,
    ("POST", "/api/ingest"): Scope.INGEST,
    ("POST", "/api/search"): Scope.KNOWLEDGE,
    ("GET", "/api/keys"): Scope.ADMIN,
    ("POST", "/api/keys"): Scope.ADMIN,
    ("GET", "/api/keys/{id}"): Scope.ADMIN,
    ("DELETE", "/api/keys/{id}"): Scope.ADMIN,
    ("POST", "/api/keys/{id}/rotate"): Scope.ADMIN,
    ("GET", "/api/audit"): Scope.ADMIN,
}
"""Which scope guards what, written down a second time on purpose."""


@pytest.mark.parametrize(
    ("path", "label", "methods"),
    [
        ("/things", "/things", {"GET", "POST"}),
        ("/things/7", "/things/{id}", {"GET"}),
        ("/things/7/turn", "/things/{id}/turn", {"POST"}),
        ("/things/", "/things/{id}", {"GET"}),
        ("/things/7/parts/8", "/things/{id}/parts/{part}", {"GET"}),
    ],
)
def test_a_path_leads_to_its_routes(path: str, label: str, methods: set[str]) -> None:
    assert set(TABLE.methods(path)) == methods
    assert TABLE.label(path) == label


@pytest.mark.parametrize(
    "path", ["/", "/thing", "/things/7/", "/things/a/b", "/things/a/b/turn", "/things/7/parts"]
)
def test_what_is_no_route_is_not_found(path: str) -> None:
    assert TABLE.label(path) == PATH_UNKNOWN
    with pytest.raises(NotFoundError, match="nothing at"):
        TABLE.methods(path)


def test_two_handlers_for_one_place_are_a_mistake() -> None:
    twice = [Route("GET", "/things", Scope.CHAT, nothing)] * 2
    with pytest.raises(AssertionError, match="two handlers for GET /things"):
        Routes(twice)


def test_every_route_has_the_scope_that_it_should_and_three_are_open() -> None:
    app = House().app
    assert {(route.method, route.path): route.scope for route in app.routes} == EXPECTED
    assert app.open_paths == ("/healthz", "/readyz", "/metrics")


@pytest.mark.parametrize(("method", "path"), EXPECTED)
@pytest.mark.parametrize("scope", [scope for scope in Scope if scope is not Scope.OPERATOR])
def test_a_route_opens_to_its_scope_alone(method: str, path: str, scope: Scope) -> None:
    house = House(scopes=(scope.value,))
    answer = run(lambda: house.send(method, path.replace("{id}", "x"), b""))
    needed = EXPECTED[method, path]
    if scope is needed:
        assert house.tracer.spans, "the handler ran, whatever it made of an empty body"
        return
    assert answer.status == 403
    assert answer.error["code"] == "key.scope_missing"
    assert answer.error["type"] == "permission_error"
    assert repr(needed.value) in answer.error["message"]
    assert house.tracer.spans == [], "refused before anything was begun"


def test_a_key_without_the_scope_costs_no_rate_and_hears_405_and_404_first() -> None:
    house = House(scopes=())
    assert house.get("/nowhere").status == 404
    assert house.get("/api/ingest").status == 405
    codes = [house.get("/v1/models").error["code"] for _ in range(100)]
    assert set(codes) == {"key.scope_missing"}
