"""Who may do what: the first rule that fits, asked before anything is begun."""

import asyncio
from typing import Any

import pytest

from murmurate.config import Effect, PolicyConfig, PolicyRule
from murmurate.core.errors import ConfigError
from murmurate.core.types import Caller
from murmurate.gateway.policy import (
    CHAT,
    EMBED,
    Always,
    PolicyUnavailableError,
    Rules,
    check_rules,
    fits,
)
from murmurate.gateway.ports import Action, Decision, Resource
from tests.fakes import Saying
from tests.gateway.client import HELLO, House

ADA = Caller("key_1", "acme", ("chat",), roles=("analyst",))
KEYS = Action("admin", "POST", "/api/keys/{id}/rotate")
ALLOW, DENY = Effect.ALLOW, Effect.DENY


def rule(effect: Effect = DENY, **conditions: Any) -> PolicyRule:
    return PolicyRule(effect=effect, **conditions)


def decided(*rules: PolicyRule, caller: Caller = ADA, model: str | None = "tiny") -> Decision:
    policy = Rules(rules, Always(ALLOW))
    return asyncio.run(policy.decide(caller, CHAT, Resource(model)))


@pytest.mark.parametrize(
    ("conditions", "action", "model", "expected"),
    [
        ({}, CHAT, "tiny", True),
        ({}, KEYS, None, True),
        ({"roles": ("analyst", "user")}, CHAT, "tiny", True),
        ({"roles": ("user",)}, CHAT, "tiny", False),
        ({"tenants": ("acme",)}, CHAT, "tiny", True),
        ({"tenants": ("birch",)}, CHAT, "tiny", False),
        ({"scopes": ("chat",)}, CHAT, "tiny", True),
        ({"scopes": ("chat",)}, EMBED, "minilm", False),
        ({"routes": ("POST /v1/*",)}, CHAT, "tiny", True),
        ({"routes": ("POST /v1/*",)}, KEYS, None, False),
        ({"routes": ("* /api/keys/{id}/rotate",)}, KEYS, None, True),
        ({"routes": ("GET /v1/chat/completions",)}, CHAT, "tiny", False),
        ({"models": ("t*",)}, CHAT, "tiny", True),
        ({"models": ("T*",)}, CHAT, "tiny", False),
        ({"models": ("*",)}, KEYS, None, False),
        ({"roles": ("analyst",), "models": ("big",)}, CHAT, "tiny", False),
        ({"roles": ("analyst",), "tenants": ("acme",), "models": ("tiny",)}, CHAT, "tiny", True),
    ],
)
def test_a_rule_fits_where_all_that_it_names_does(
    conditions: dict[str, Any], action: Action, model: str | None, *, expected: bool
) -> None:
    assert fits(rule(**conditions), ADA, action, Resource(model)) is expected


def test_the_first_rule_that_fits_decides() -> None:
    small = rule(ALLOW, roles=("analyst",), models=("tiny",))
    nothing_else = rule(DENY, roles=("analyst",), reason="analysts use tiny")
    assert decided(small, nothing_else).allowed
    assert decided(small, nothing_else, model="big") == Decision(False, "analysts use tiny")
    assert not decided(nothing_else, small).allowed
    assert decided(rule(DENY, roles=("user",))).allowed, "what no rule fits, the one below decides"
    assert not asyncio.run(Always(DENY).decide(ADA, CHAT, Resource())).allowed


def house(*rules: PolicyRule, default: Effect = ALLOW, **options: Any) -> House:
    return House(policy=Rules(rules, Always(default)), **options)


def test_what_is_denied_is_not_begun_and_told() -> None:
    model = Saying()
    it = house(rule(models=("tiny",), reason="not today"), model=model)
    answer = it.chat()
    assert (answer.status, answer.error["code"]) == (403, "policy.denied")
    assert answer.error["message"] == (
        "the policy does not allow POST /v1/chat/completions with the model 'tiny': not today"
    )
    assert model.asked == []
    assert it.trail._refused == {("a", "key_1", "POST /v1/chat/completions", "policy.denied"): 1}


def test_every_route_is_decided_on_with_a_model_or_without() -> None:
    """A new route needs nothing for that; one whose handler asks itself must do so."""
    it = house(default=DENY)
    bodies: dict[str, Any] = {
        "/v1/chat/completions": dict(HELLO),
        "/v1/embeddings": {"model": "minilm", "input": "x"},
        "/v1/completions": {"model": "tiny", "prompt": "x"},
        "/v1/responses": {"model": "tiny", "input": "x"},
        "/v1/responses/compact": {"model": "tiny", "input": "x"},
        "/api/runs": dict(HELLO),
    }
    for route in it.app.routes:
        path = route.path.replace("{id}", "x")
        body = bodies.get(path, b"") if route.method == "POST" else b""
        answer = asyncio.run(it.send(route.method, path, body))
        assert (answer.status, answer.error["code"]) == (403, "policy.denied"), route.path
        assert ("with the model" in answer.error["message"]) is route.names_model, route.path
    assert it.runs.begun == []


def test_a_scope_that_is_missing_is_no_question_for_the_policy() -> None:
    it = house(default=DENY, scopes=("models",))
    answer = it.chat()
    assert (answer.status, answer.error["code"]) == (403, "key.scope_missing")


def test_models_that_may_not_be_used_are_not_listed() -> None:
    it = house(
        rule(ALLOW, routes=("GET /v1/*",)),
        rule(ALLOW, routes=("POST /v1/chat/completions",), models=("tiny",)),
        default=DENY,
    )
    assert [model["id"] for model in it.get("/v1/models").json()["data"]] == ["tiny"]
    assert it.get("/v1/models/tiny").status == 200
    gone = it.get("/v1/models/minilm")
    assert (gone.status, gone.error["code"]) == (404, "model_not_found")
    assert it.trail._refused == {}, "to list is no try"


def test_a_replay_with_another_model_needs_that_model() -> None:
    it = house(rule(models=("big",)))
    answer = it.post("/api/runs/run_1/replay", {"model": "big"})
    assert (answer.status, answer.error["code"]) == (403, "policy.denied")


def test_no_decision_is_no_permission() -> None:
    class Down:
        async def decide(self, caller: Caller, action: Action, resource: Resource) -> Decision:
            raise PolicyUnavailableError("the policy server is down", retry_s=1)

    it = House(policy=Rules([rule(ALLOW, routes=("GET /api/keys",))], Down()))
    answer = it.chat()
    assert (answer.status, answer.error["code"]) == (503, "policy.unavailable")
    assert answer.headers["retry-after"] == "1"
    assert it.get("/v1/models").status == 503
    assert it.get("/api/keys").status == 200, "a rule needs no server"
    assert it.get("/healthz").status == 200


@pytest.mark.parametrize(
    ("conditions", "words"),
    [
        ({"roles": ("analist",)}, r"policy.rules\[1\].roles has 'analist', which fits none of ana"),
        ({"scopes": ("chta",)}, r"policy.rules\[1\].scopes has 'chta'"),
        ({"routes": ("POST /v1/chat",)}, r"policy.rules\[1\].routes has 'POST /v1/chat'"),
        ({"models": ("tiny", "bgi*")}, r"policy.rules\[1\].models has 'bgi\*', which fits none of"),
    ],
)
def test_a_rule_about_nothing_stops_the_start(conditions: dict[str, Any], words: str) -> None:
    it = House()
    routes = [f"{route.method} {route.path}" for route in it.app.routes]
    config = PolicyConfig(rules=(rule(models=("b*",)), rule(**conditions)))
    with pytest.raises(ConfigError, match=words):
        check_rules(config, roles=["analyst"], routes=routes, models=["tiny", "big"])
    good = PolicyConfig(rules=(rule(roles=("analyst",), routes=("GET *",), models=("*",)),))
    check_rules(good, roles=["analyst"], routes=routes, models=["tiny"])


def test_a_policy_calls_routes_as_the_table_does() -> None:
    assert {CHAT, EMBED} <= {route.action for route in House().app.routes}
