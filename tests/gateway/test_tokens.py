"""What a token says, and whether that counts: every refusal before its signature is looked at."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from murmurate.config import AuthConfig
from murmurate.core.types import Caller
from murmurate.gateway.roles import roles_of
from murmurate.gateway.tokens import (
    TOKEN_CHARS_MAX,
    TokenExpiredError,
    TokenInvalidError,
    caller_of,
    check,
    found_at,
    is_token,
    opened,
)

ISSUER = AuthConfig(
    issuer="https://id.example/realms/town",
    audience=("murmurate",),
    tenant="acme",
    roles_claim="realm_access.roles",
)
NOW_S = 1_800_000_000.0
GOOD: dict[str, Any] = {
    "iss": ISSUER.issuer,
    "sub": "ada",
    "aud": "murmurate",
    "exp": NOW_S + 300,
    "realm_access": {"roles": ["user", "offline_access"]},
}
HEADER = {"alg": "RS256", "kid": "k1", "typ": "JWT"}


def part(value: object) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def token(header: object = None, **changes: Any) -> str:
    claims = {name: it for name, it in {**GOOD, **changes}.items() if it is not None}
    return f"{part(header or HEADER)}.{part(claims)}.{part(b'sign')}"


def who(issuer: AuthConfig = ISSUER, **changes: Any) -> Caller:
    return caller_of(opened(token(**changes)), "town", issuer, roles_of({}))


def refused(raw: str, words: str, issuer: AuthConfig = ISSUER) -> None:
    with pytest.raises(TokenInvalidError, match=words) as raised:
        check(opened(raw), issuer, NOW_S)
    assert raised.value.http_status == 401
    assert raw not in raised.value.detail


def test_a_token_in_order_is_taken() -> None:
    check(opened(token()), ISSUER, NOW_S)
    check(opened(token(aud=["account", "murmurate"], nbf=NOW_S - 5, iat=NOW_S)), ISSUER, NOW_S)
    check(opened(token({**HEADER, "typ": "at+jwt", "jku": "http://evil"})), ISSUER, NOW_S)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"alg": "none"}, "alg: 'none' is none of RS256, ES256, EdDSA"),
        ({"alg": "HS256", "kid": "k1"}, "alg: 'HS256'"),
        ({"alg": "RS512"}, "alg: 'RS512'"),
        ({"alg": "rs256"}, "alg: 'rs256'"),
        ({"kid": "k1"}, "missing required field `alg`"),
        ({"alg": 7}, "Expected `str`"),
        ({"alg": "RS256", "kid": 7}, "kid"),
        ({"alg": "RS256", "kid": "k" * 300}, "kid"),
        ({**HEADER, "crit": ["exp"]}, "'crit'"),
        ({**HEADER, "crit": [], "b64": False}, "'crit'"),
        ({**HEADER, "typ": "logout+jwt"}, "'logout\\+jwt'"),
        ({**HEADER, "typ": "dpop+jwt"}, "'dpop\\+jwt'"),
        ([HEADER], "no object"),
        (b'{"alg": "RS256", "alg": "none"}', "header can't be read"),
        (b'{"alg": "RS256"', "header can't be read"),
        (b"\xff\xfe", "header can't be read"),
        (b"[" * 3000, "header can't be read"),
    ],
)
def test_a_header_that_could_mislead_is_refused(header: object, words: str) -> None:
    refused(token(header), words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"aud": "other"}, "aud: the token is not for 'murmurate'"),
        ({"aud": ["murmurate2", ""]}, "aud:"),
        ({"aud": None}, "aud:"),
        ({"aud": {"murmurate": 1}}, "aud"),
        ({"exp": None}, "missing required field `exp`"),
        ({"exp": "2999"}, "exp"),
        ({"exp": True}, "exp"),
        ({"exp": 1e300}, "exp"),
        ({"sub": None}, "sub"),
        ({"sub": ""}, "sub"),
        ({"sub": "x" * 256}, "sub"),
        ({"nbf": NOW_S + 61}, "nbf: the token is good from 2027-01-15T08:01:01Z"),
        ({"iat": NOW_S + 61}, "iat:"),
        ({"nbf": "soon"}, "nbf"),
    ],
)
def test_a_claim_that_is_wrong_is_named(changes: dict[str, Any], words: str) -> None:
    refused(token(**changes), words)


def test_claims_that_say_a_thing_twice_or_without_end_are_refused() -> None:
    for raw in (
        b'{"iss": "a", "iss": "b", "sub": "s", "exp": 1}',
        b'{"iss": "a", "sub": "s", "exp": NaN}',
        b'{"iss": "a", "sub": "s", "exp": 1e999}',
        b'{"iss": "a", "sub": "s", "exp": 1, "x": {"y": 1, "y": 2}}',
    ):
        refused(f"{part(HEADER)}.{part(raw)}.{part(b's')}", "claims can't be read")


@pytest.mark.parametrize(
    "raw",
    [
        "a.b",
        "..",
        f"{part({'alg': 'none'})}.{part(GOOD)}.",
        f"{token()}.{part(b's')}",
        f"{token()}=",
        f" {token()}",
        token().replace(".", ":"),
        token() + "\n",
        token() + "é",
    ],
)
def test_what_is_no_signed_token_is_refused(raw: str) -> None:
    refused(raw, "not signed, or no JWT")


def test_a_token_has_a_size() -> None:
    refused(token(x="y" * TOKEN_CHARS_MAX), f"at most {TOKEN_CHARS_MAX}")


@given(st.text(max_size=60), st.text(max_size=60), st.binary(max_size=60))
def test_whatever_comes_as_a_token_is_a_refusal_or_a_token(a: str, b: str, c: bytes) -> None:
    for raw in (f"{a}.{b}.x", f"{part(c)}.{part(c)}.x", f"{part(HEADER)}.{part(c)}.x"):
        with pytest.raises(TokenInvalidError):
            opened(raw)


def test_clocks_may_be_apart_by_the_skew_and_no_more() -> None:
    issuer = AuthConfig(issuer="i", audience=("murmurate",), tenant="a", skew_s=30)
    check(opened(token(exp=NOW_S - 29, nbf=NOW_S + 30, iat=NOW_S + 30)), issuer, NOW_S)
    with pytest.raises(TokenExpiredError, match="expired at 2027-01-15T07:59:30Z"):
        check(opened(token(exp=NOW_S - 30)), issuer, NOW_S)
    refused(token(nbf=NOW_S + 31), "nbf", issuer)


def test_claims_may_be_required_with_a_value_or_any() -> None:
    issuer = AuthConfig(
        issuer="i",
        audience=("murmurate",),
        required=("jti", "azp=portal", "email_verified=true", "org.kind=school"),
    )
    good = {"jti": "1", "azp": "portal", "email_verified": True, "org": {"kind": ["school"]}}
    check(opened(token(**good)), issuer, NOW_S)
    for change in ({"jti": None}, {"azp": "other"}, {"email_verified": False}, {"org": "school"}):
        refused(token(**{**good, **change}), "the token needs this claim", issuer)


def test_a_bearer_has_the_roles_and_scopes_that_the_configuration_lets_it_have() -> None:
    assert who() == Caller(
        "town:ada",
        "acme",
        ("chat", "embeddings", "models"),
        roles=("user",),
        ends_ms=round((NOW_S + 360) * 1000),
    )
    assert who(realm_access={"roles": ["unknown"]}).scopes == ()
    assert who(realm_access=None).roles == ()
    named = AuthConfig(
        issuer="i",
        audience=("murmurate",),
        tenant="acme",
        roles=("viewer",),
        roles_claim="groups",
        role_names={"/staff/ops": "developer"},
    )
    assert who(named, groups=["/staff/ops", "operator"]).roles == ("viewer", "developer")
    assert who(named, groups="operator admin").roles == ("viewer",)
    scoped = AuthConfig(
        issuer="i",
        audience=("murmurate",),
        tenant="acme",
        scopes_claim="scope",
        scopes_prefix="murmurate:",
    )
    said = "openid chat murmurate:runs murmurate:chat murmurate:* murmurate:nothing"
    assert who(scoped, scope=said).scopes == ("chat", "runs")


def test_a_token_makes_no_operator_outside_of_the_tenant_of_operators() -> None:
    operator = {"roles": ["operator"]}
    assert "operator" not in who(realm_access=operator).scopes
    ours = AuthConfig(
        issuer="i", audience=("m",), tenant="default", roles_claim="realm_access.roles"
    )
    assert "operator" in who(ours, realm_access=operator).scopes


def test_an_issuer_speaks_for_its_own_tenants_only() -> None:
    issuer = AuthConfig(
        issuer="i", audience=("m",), tenant_claim="org", tenants=("acme", "birch"), roles=("user",)
    )
    assert who(issuer, org="birch").tenant == "birch"
    assert who(issuer, org=["acme"]).tenant == "acme"
    for org in ("default", "system", "Acme", ["acme", "birch"], [], None, {"acme": {}}, 7):
        with pytest.raises(TokenInvalidError, match="org: "):
            who(issuer, org=org)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("realm_access.roles", ["user"]),
        ("https://id.example/roles", "direct"),
        ("realm_access.other", None),
        ("sub.name", None),
        ("none.at.all", None),
    ],
)
def test_a_claim_is_found_by_its_name_or_its_path(path: str, value: object) -> None:
    claims = {
        "sub": "ada",
        "realm_access": {"roles": ["user"]},
        "https://id.example/roles": "direct",
    }
    assert found_at(claims, path) == value


def test_a_key_is_not_taken_for_a_token() -> None:
    assert is_token(token())
    assert is_token(f"{part(HEADER)}.{part(GOOD)}.")
    assert not is_token("mur_0123456789abcdefghij")
