"""Tokens are checked once, count until they end, and open what keys open."""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from murmurate.config import AuthConfig
from murmurate.core.types import Caller, Finished, FinishReason, Text
from murmurate.gateway.issuers import IssuerUnreachableError
from murmurate.gateway.keyring import Ticket
from murmurate.gateway.ports import Published
from murmurate.gateway.roles import roles_of
from murmurate.gateway.tokenring import TOKENS_MAX, Tokens
from murmurate.gateway.tokens import TokenExpiredError, TokenInvalidError
from tests.fakes import FakeClock, RecordingLog, Saying, until
from tests.gateway.client import HELLO, House, run
from tests.gateway.test_issuers import FakeIssuer, FakeKey
from tests.gateway.test_tokens import GOOD, part

AUTH = AuthConfig(
    issuer=GOOD["iss"], audience=("murmurate",), tenant="a", roles_claim="roles", skew_s=10
)


def signed(clock: FakeClock, *, by: str = "a", role: str = "user", **changes: Any) -> str:
    """Return a token as the fake keys sign it: their name is the signature."""
    exp = clock.unix_ms() / 1000 + 300
    claims = {**GOOD, "exp": exp, "roles": [role], **changes}
    return f"{part({'alg': 'RS256', 'kid': by})}.{part(claims)}.{by}"


class Desk:
    """Tokens, their issuer and a clock."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.issuer = FakeIssuer()
        self.tokens = Tokens(
            {"town": AUTH},
            {"town": self.issuer},
            roles=roles_of({}),
            clock=self.clock,
            events=RecordingLog(),
        )

    async def admit(self, token: str) -> Ticket:
        return await self.tokens.admit(token)


def desk(story: Callable[[Desk], Awaitable[None]]) -> None:
    async def told() -> None:
        await story(Desk())

    asyncio.run(told())


def test_a_good_token_is_checked_once() -> None:
    class Counting(FakeKey):
        checked = 0

        def signed(self, token: str, algorithm: str) -> bool:
            Counting.checked += 1
            return super().signed(token, algorithm)

    async def story(it: Desk) -> None:
        it.issuer.keys = [Counting("a")]
        token = signed(it.clock)
        first = await it.admit(token)
        assert first.caller.key_id == "town:ada"
        assert first.sha256 == hashlib.sha256(token.encode()).hexdigest()
        assert await it.admit(token) is first
        assert Counting.checked == 1
        assert token not in repr(vars(it.tokens))

    desk(story)


def test_a_wrong_signature_is_refused_every_time() -> None:
    async def story(it: Desk) -> None:
        forged = signed(it.clock).rsplit(".", 1)[0] + ".b"
        for _ in range(2):
            with pytest.raises(TokenInvalidError, match="signature is wrong"):
                await it.admit(forged)
        with pytest.raises(TokenInvalidError, match="iss: 'https://evil' is not trusted here"):
            await it.admit(signed(it.clock, iss="https://evil"))
        assert len(it.issuer.asked_at_s) == 1, "a strange issuer is asked nothing"

    desk(story)


def test_a_token_ends_with_its_time_also_when_it_was_known() -> None:
    async def story(it: Desk) -> None:
        token = signed(it.clock)
        await it.admit(token)
        it.clock.time_s += 309
        await it.admit(token)
        it.clock.time_s += 1
        for words in ("ended at", "expired at"):  # known, and from scratch
            with pytest.raises(TokenExpiredError, match=words):
                await it.admit(token)

    desk(story)


def test_a_withdrawn_key_takes_its_tokens_with_it() -> None:
    async def story(it: Desk) -> None:
        old = signed(it.clock, exp=it.clock.time_s + 10_000)
        await it.admit(old)
        it.clock.time_s += 400
        it.issuer.keys = [FakeKey("b")]
        assert (await it.admit(signed(it.clock, by="b"))).caller.key_id == "town:ada"
        with pytest.raises(TokenInvalidError, match="publishes no 'a'"):
            await it.admit(old)

    desk(story)


def test_known_tokens_count_no_more_when_the_issuer_is_gone_for_too_long() -> None:
    async def story(it: Desk) -> None:
        token = signed(it.clock, exp=it.clock.time_s + 100_000)
        await it.admit(token)
        it.issuer.failure = IssuerUnreachableError("no connection")
        it.clock.time_s += 3599
        await it.admit(token)
        await asyncio.sleep(0.01)
        it.clock.time_s += 3
        with pytest.raises(IssuerUnreachableError):
            await it.admit(token)

    desk(story)


def test_only_so_many_tokens_are_remembered() -> None:
    async def story(it: Desk) -> None:
        for number in range(TOKENS_MAX + 50):
            await it.admit(signed(it.clock, jti=str(number)))
        assert len(it.tokens._checked) == TOKENS_MAX
        await it.admit(signed(it.clock, jti="0"))

    desk(story)


def test_without_an_issuer_a_token_is_an_unknown_key() -> None:
    house = House()
    answer = house.get("/v1/models", headers=with_token(signed(house.clock)))
    assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")


def house(**options: Any) -> House:
    return House(auth={"town": AUTH}, issuers={"town": FakeIssuer()}, **options)


def with_token(token: str) -> dict[str, str | None]:
    return {"authorization": f"Bearer {token}"}


def test_a_token_opens_what_its_roles_open_and_no_more() -> None:
    it = house()
    token = with_token(signed(it.clock))
    assert it.chat(headers=token).status == 200
    refused = it.get("/api/keys", headers=token)
    assert (refused.status, refused.error["code"]) == (403, "key.scope_missing")
    assert it.chat().status == 200, "keys work as before"


def test_a_refusal_says_in_its_challenge_what_is_wrong() -> None:
    it = house()
    answer = it.get("/v1/models", headers=with_token(signed(it.clock, aud='o"ther')))
    assert (answer.status, answer.error["code"]) == (401, "token.invalid")
    assert answer.headers["www-authenticate"] == (
        'Bearer error="invalid_token", error_description="aud: the token is not for \'murmurate\'"'
    )
    odd = it.get("/v1/models", headers=with_token(signed(it.clock, iss='a"\\\u00e9\n')))
    challenge = odd.headers["www-authenticate"]
    assert challenge.isascii()
    assert challenge.count('"') == 4
    assert "\n" not in challenge


@pytest.mark.parametrize("query", ["access_token=abc", "a=1&access_token=", "access%5Ftoken=x"])
def test_a_token_in_the_url_is_refused_also_beside_a_good_one(query: str) -> None:
    it = house()
    answer = it.get(f"/v1/models?{query}")
    assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
    assert "take it for stolen" in answer.error["message"]
    assert it.get("/v1/models?limit=3").status == 200


def test_the_rate_is_that_of_the_person_whatever_the_token() -> None:
    it = house()
    statuses: list[int] = []

    async def story() -> None:
        for number in range(62):
            token = with_token(signed(it.clock, jti=str(number)))
            statuses.append((await it.send("GET", "/v1/models", headers=token)).status)

    run(story)
    assert statuses == [200] * 60 + [429] * 2
    other = with_token(signed(it.clock, sub="grace"))
    assert it.get("/v1/models", headers=other).status == 200


def test_a_stream_ends_when_its_token_does() -> None:
    it = house(model=Saying(Text("one"), asyncio.Event(), Finished(FinishReason.STOP)))

    async def story() -> None:
        token = signed(it.clock, exp=it.clock.time_s - 9.8)  # and ten seconds of skew
        body = json.dumps({**HELLO, "stream": True}).encode()
        call, served = it.start("POST", "/v1/chat/completions", body, headers=with_token(token))
        await until(lambda: len(call.answer.chunks) >= 2)
        await asyncio.wait_for(served, 5)
        *_, last = call.answer.events()
        assert last["error"]["code"] == "token.expired"
        assert call.answer.ended

    run(story)


def test_an_admin_with_a_token_manages_keys_and_stands_in_the_log() -> None:
    it = house()
    admin = with_token(signed(it.clock, role="admin"))

    async def story() -> None:
        made = await it.send("POST", "/api/keys", {"scopes": ["chat"]}, headers=admin)
        assert made.status == 200
        assert made.json()["tenant"] == "a"
        assert made.json()["expires_at"] is None, "it may outlive the token"
        wide = await it.send("POST", "/api/keys", {"scopes": ["*"], "tenant": "b"}, headers=admin)
        assert (wide.status, wide.error["code"]) == (403, "key.grant_too_wide")
        audit = [entry async for entry in it.kept.read("system", "audit/keys")]
        assert msgspec.json.decode(audit[-1].body)["by"] == "town:ada"

    run(story)


def test_neither_logs_nor_traces_hold_a_token() -> None:
    it = house()
    good, bad = signed(it.clock), signed(it.clock, aud="x")
    it.chat(headers=with_token(good))
    it.chat(headers=with_token(bad))
    written = repr(it.log.events) + repr([(s.name, s.attributes) for s in it.tracer.spans])
    assert "request.done" in written
    for token in (good, bad):
        for piece in token.split(".")[:2]:
            assert piece not in written


def test_a_bearer_is_no_key_that_opens_anything() -> None:
    it = house()
    caller = Caller("town:ada", "a", ("admin",), ends_ms=1)
    assert it.keys.get(caller.key_id) is None
    assert it.keys.rate(caller.key_id, it.rate) == it.rate


def test_published_keys_are_compared_by_what_they_are() -> None:
    assert Published((FakeKey("a"),), 1.0) == Published((FakeKey("a"),), 1.0)
