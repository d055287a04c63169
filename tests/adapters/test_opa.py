"""An Open Policy Agent decides; whatever is no decision of it is none."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from murmurate.adapters.oidc import configured_fetcher
from murmurate.adapters.opa import ANSWERS_MAX, BYTES_MAX, Opa
from murmurate.core.types import Caller
from murmurate.gateway.policy import CHAT, PolicyUnavailableError
from murmurate.gateway.ports import Action, Decision, Resource
from tests.fakes import FakeClock, FakeFetcher
from tests.servers.opa import PolicyServer

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "policies.md"
ADA = Caller("key_1", "acme", ("chat",), roles=("analyst",))
RUNS = Action("runs", "GET", "/api/runs")
TINY = Resource("tiny")


def of_the_page() -> str:
    """Return the policies that the documentation shows."""
    found = re.search(r"```rego\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def server() -> Iterator[PolicyServer]:
    made = PolicyServer(of_the_page())
    yield made
    made.stop()


def at(server: PolicyServer, story: Callable[[Opa], Awaitable[None]], **changes: Any) -> None:
    settings: dict[str, Any] = {"clock": FakeClock(), "whole_s": 5.0, "kept_s": 5.0}

    async def told() -> None:
        fetcher = configured_fetcher(server.url)
        await story(Opa(server.url, fetcher, **(settings | changes)))
        await fetcher.close()

    asyncio.run(told())


def test_the_policies_of_the_documentation_decide_as_it_says(server: PolicyServer) -> None:
    async def story(opa: Opa) -> None:
        assert await opa.decide(ADA, CHAT, TINY) == Decision(True)
        denied = Decision(False, "ask the platform team for access")
        assert await opa.decide(ADA, CHAT, Resource("big")) == denied
        assert await opa.decide(ADA, RUNS, Resource()) == denied
        operator = Caller("town:eve", "default", ("operator",), roles=("operator",), ends_ms=1)
        assert await opa.decide(operator, RUNS, Resource()) == Decision(True)

    at(server, story)
    assert server.inputs[0] == {
        "caller": {
            "id": "key_1",
            "tenant": "acme",
            "roles": ["analyst"],
            "scopes": ["chat"],
            "kind": "key",
        },
        "action": {"scope": "chat", "method": "POST", "route": "/v1/chat/completions"},
        "resource": {"model": "tiny"},
    }
    assert server.inputs[3]["caller"]["kind"] == "token"


@pytest.mark.parametrize(
    ("module", "decision"),
    [
        ("package murmurate\nallow := true", Decision(True)),
        ("package murmurate\ndefault allow := false", Decision(False)),
        ("package other\nallow := true", Decision(False, "the policies say nothing of it")),
        ('package murmurate\nallow := {"allow": true, "id": 7}', Decision(True)),
    ],
)
def test_a_decision_is_a_truth_value_or_an_object_with_one(
    server: PolicyServer, module: str, decision: Decision
) -> None:
    server.module = module

    async def story(opa: Opa) -> None:
        assert await opa.decide(ADA, CHAT, TINY) == decision

    at(server, story)


def test_an_answer_counts_for_its_time_and_for_that_question_only(server: PolicyServer) -> None:
    clock = FakeClock()

    async def story(opa: Opa) -> None:
        for _ in range(3):
            assert (await opa.decide(ADA, CHAT, TINY)).allowed
        assert len(server.inputs) == 1
        other = Caller("key_2", "acme", ("chat",), roles=("analyst",))
        await opa.decide(other, CHAT, TINY)
        await opa.decide(ADA, CHAT, Resource("big"))
        assert len(server.inputs) == 3
        server.module = "package murmurate\nallow := false"
        clock.time_s += 4.9
        assert (await opa.decide(ADA, CHAT, TINY)).allowed
        clock.time_s += 0.1
        assert not (await opa.decide(ADA, CHAT, TINY)).allowed

    at(server, story, clock=clock)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((500, b'{"code": "internal_error"}'), "answers with status 500"),
        ((401, b"{}"), "answers with status 401"),
        ((200, b'{"result": "yes"}'), "what is no decision"),
        ((200, b'{"result": null}'), "what is no decision"),
        ((200, b'{"result": {"permit": true}}'), "what is no decision"),
        ((200, b"true"), "what is no decision"),
        ((200, b"<html>"), "what is no decision"),
        ((200, b'{"result": ' + b"[" * 50_000), "what is no decision"),
        ((200, b'{"result": true' + b" " * BYTES_MAX + b"}"), "answers with status 200"),
    ],
)
def test_whatever_is_no_decision_allows_nothing_and_is_not_remembered(
    server: PolicyServer, answer: tuple[int, bytes], words: str
) -> None:
    server.answer = answer

    async def story(opa: Opa) -> None:
        with pytest.raises(PolicyUnavailableError, match=words) as raised:
            await opa.decide(ADA, CHAT, TINY)
        assert raised.value.retry_s == 1.0
        server.answer = None
        assert (await opa.decide(ADA, CHAT, TINY)).allowed

    at(server, story)


def test_a_server_that_is_down_or_slow_allows_nothing(server: PolicyServer) -> None:
    async def slow(opa: Opa) -> None:
        server.answering.clear()
        with pytest.raises(PolicyUnavailableError, match=r"did not answer within 0\.2 s: nothing"):
            await opa.decide(ADA, CHAT, TINY)

    async def gone(opa: Opa) -> None:
        server.stop()
        with pytest.raises(PolicyUnavailableError, match="no connection"):
            await opa.decide(ADA, CHAT, TINY)
        server.start()
        assert (await opa.decide(ADA, CHAT, TINY)).allowed

    at(server, slow, whole_s=0.2)
    at(server, gone)


def test_it_gets_its_key(server: PolicyServer) -> None:
    async def story(opa: Opa) -> None:
        await opa.decide(ADA, CHAT, TINY)
        assert server.keys == ["Bearer opa-secret"]

    at(server, story, key="opa-secret")


def test_only_so_many_answers_are_remembered() -> None:
    class Yes(FakeFetcher):
        async def fetch(self, fetch: Any) -> Any:
            self.sent.append(fetch)
            return type("Fetched", (), {"status": 200, "cut": False, "body": b'{"result": true}'})

    async def story() -> None:
        fetcher = Yes()
        opa = Opa("http://opa.example/v1/data/x", fetcher, clock=FakeClock(), whole_s=1, kept_s=5)
        for number in range(ANSWERS_MAX + 5):
            await opa.decide(ADA, CHAT, Resource(str(number)))
        assert len(opa._known) == ANSWERS_MAX
        await opa.decide(ADA, CHAT, Resource("0"))
        assert len(fetcher.sent) == ANSWERS_MAX + 6

    asyncio.run(story())
