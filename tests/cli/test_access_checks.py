"""The doctor says how issuers and the policy server are."""

import asyncio
from collections.abc import Iterator

import pytest

from murmurate.cli.access_checks import check_issuer, check_policy, check_roles
from murmurate.cli.findings import Finding
from murmurate.cli.remote_checks import asked, checks
from murmurate.config import AuthConfig, Config, PolicyConfig, parse
from tests.servers.issuer import KEYS, TokenIssuer
from tests.servers.opa import PolicyServer


@pytest.fixture
def issuer() -> Iterator[TokenIssuer]:
    made = TokenIssuer()
    yield made
    made.stop()


def looked_at(url: str) -> Finding:
    auth = AuthConfig(issuer=url, audience=("murmurate",), tenant="acme", roles=("user",))
    return asyncio.run(check_issuer("town", auth, Config()))


def test_an_issuer_is_asked_for_its_keys(issuer: TokenIssuer) -> None:
    issuer.new_key("ES256")
    found = looked_at(issuer.url)
    assert (found.about, found.verdict) == ("issuer town", "ok")
    assert found.detail == f"{issuer.url}, 2 keys for ES256, RS256"
    issuer.answers[KEYS] = (503, b"")
    found = looked_at(issuer.url)
    assert found.verdict == "fail"
    assert "answers with status 503" in found.detail
    issuer.stop()
    assert "no connection" in looked_at(issuer.url).detail


def test_the_policy_server_is_asked_about_nobody() -> None:
    server = PolicyServer("package murmurate\ndefault allow := false")
    try:
        found = asyncio.run(check_policy(PolicyConfig(opa_url=server.url)))
        assert (found.verdict, found.detail) == (
            "ok",
            f"{server.url}: who has no role may not chat",
        )
        server.answer = (200, b"[]")
        found = asyncio.run(check_policy(PolicyConfig(opa_url=server.url)))
        assert found.verdict == "fail"
        assert "no decision" in found.detail
    finally:
        server.stop()


def test_both_are_among_what_the_doctor_asks() -> None:
    config = parse(
        {
            "auth": {
                "town": {
                    "issuer": "http://127.0.0.1:9/x",
                    "audience": ["m"],
                    "tenant": "a",
                    "roles": ["user"],
                }
            },
            "policy": {"opa_url": "http://127.0.0.1:9/v1/data/x"},
        }
    )
    found = checks(config, embedded_by=None, timeout_s=5.0)
    assert list(found) == ["issuer town", "policy"]
    done = asyncio.run(asked(found, timeout_s=5.0, on_done=lambda about: None))
    assert [it.verdict for it in done] == ["fail", "fail"]


def test_a_role_that_is_none_is_said_before_the_start() -> None:
    issuer = {"issuer": "http://x", "audience": ["m"], "tenant": "a", "roles": ["usr"]}
    [found] = check_roles(parse({"auth": {"town": issuer}}))
    assert (found.verdict, "auth.town.roles has 'usr'" in found.detail) == ("fail", True)
    assert check_roles(Config()) == []
