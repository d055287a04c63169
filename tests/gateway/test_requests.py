"""A chat's body and headers become the one internal form."""

from typing import Any

import pytest

from murmurate.core.errors import BadRequestError, ModelUnknownError
from murmurate.core.types import Caller, Lane, Request, Role
from murmurate.gateway.chat import ChatBody, MessageBody
from murmurate.gateway.exchange import Exchange
from murmurate.gateway.requests import Requests, name_session, session_of
from tests.fakes import TRACE, FakeLedger, FakePlatform, FakeSpan, ask, seeded_ids
from tests.gateway.client import Call

CALLER = Caller("key_1", "a", scopes=("chat",), lane=Lane.BATCH)


def exchange(**headers: str) -> Exchange:
    """Return an exchange with these headers; `_` stands for a hyphen."""
    call = Call([b""])
    sent = [(name.replace("_", "-").encode(), it.encode()) for name, it in headers.items()]
    scope = {"type": "http", "method": "POST", "path": "/", "headers": sent}
    return Exchange(scope, call.receive, call.send)


def body(text: str = "hello", *, model: str = "tiny", **fields: Any) -> ChatBody:
    return ChatBody(model=model, messages=[MessageBody("user", text)], **fields)


def made(chat: ChatBody | None = None, /, **headers: str) -> Request:
    """Return the request that a caller's body and headers become."""
    requests = Requests(
        platform=FakePlatform(own_chats={"a": ["mine"], "b": ["theirs"]}),
        ledger=FakeLedger(),
        ids=seeded_ids(),
    )
    return requests.of(exchange(**headers), CALLER, chat or body(), FakeSpan("x", TRACE, {}))


def test_a_request_carries_who_asks_what_where() -> None:
    request = made(body("what?", model="mine", temperature=0.5))
    assert (request.tenant, request.scopes, request.model) == ("a", ("chat",), "mine")
    assert [(message.role, message.text) for message in request.messages] == [(Role.USER, "what?")]
    assert request.sampling.temperature == 0.5
    assert request.trace.span_id == "x", "what follows hangs below the span of the request"
    assert request.id.startswith("req_")
    assert request.session is None


@pytest.mark.parametrize("name", ["theirs", "minilm", "nobodys", ""])
def test_only_what_chats_for_the_tenant_can_be_asked(name: str) -> None:
    with pytest.raises(ModelUnknownError, match=r"there are: tiny, mine$") as refused:
        made(body(model=name))
    assert refused.value.param == "model"


def test_a_session_is_new_or_goes_on() -> None:
    new, known = made(x_murmurate_session="new").session, made(x_murmurate_session="s1").session
    assert new is not None
    assert new.new
    assert new.id.startswith("sess_")
    assert known is not None
    assert (known.id, known.new) == ("s1", False)


def test_a_tool_s_result_may_stand_alone_only_where_a_stored_session_has_its_call() -> None:
    result = ChatBody(model="tiny", messages=[MessageBody("tool", "12", tool_call_id="call_1")])
    assert made(result, x_murmurate_session="s1").messages[0].role is Role.TOOL
    for headers in ({}, {"x_murmurate_session": "new"}):
        with pytest.raises(BadRequestError, match="no earlier message made this call"):
            made(result, **headers)


@pytest.mark.parametrize(
    ("headers", "lane"),
    [({}, Lane.BATCH), ({"x_murmurate_lane": "urgent"}, Lane.URGENT)],
)
def test_a_lane_is_the_header_s_or_the_key_s(headers: dict[str, str], lane: Lane) -> None:
    assert made(**headers).lane is lane


def test_a_lane_that_does_not_exist_is_refused() -> None:
    with pytest.raises(BadRequestError, match="expected urgent or batch") as refused:
        made(x_murmurate_lane="express")
    assert refused.value.param == "x-murmurate-lane"


def test_the_client_hears_the_name_of_its_session() -> None:
    told, untold = exchange(), exchange()
    name_session(told, session_of(made(x_murmurate_session="s1")))
    name_session(untold, session_of(ask()))
    assert (b"x-murmurate-session", b"s1") in told.headers
    assert all(name != b"x-murmurate-session" for name, _ in untold.headers)
