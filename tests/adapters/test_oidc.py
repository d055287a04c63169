"""Tokens of real issuers, over real HTTP: one of ours that can misbehave, and one of PyPI."""

import asyncio
import base64
import hmac
import json
import re
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from http.client import HTTPConnection
from threading import Event
from typing import Any

import pytest
from joserfc.jwk import ECKey, RSAKey

from murmurate.adapters.fetcher import HttpFetcher
from murmurate.adapters.oidc import BYTES_MAX, WHOLE_S, OidcIssuer
from murmurate.config import AuthConfig
from murmurate.core.clock import SystemClock
from murmurate.core.errors import KeyInvalidError
from murmurate.core.reach import Reach
from murmurate.core.types import Caller
from murmurate.gateway.issuers import IssuerUnreachableError
from murmurate.gateway.roles import roles_of
from murmurate.gateway.tokenring import Tokens
from murmurate.gateway.tokens import TokenInvalidError
from tests.fakes import RecordingLog
from tests.servers.issuer import KEYS, METADATA, TokenIssuer

pytestmark = [
    pytest.mark.filterwarnings("ignore:EdDSA is deprecated"),
    pytest.mark.filterwarnings("ignore:Key size should be"),
]


@pytest.fixture
def issuer() -> Iterator[TokenIssuer]:
    server = TokenIssuer()
    yield server
    server.stop()


def config(issuer: TokenIssuer, **changes: Any) -> AuthConfig:
    settings: dict[str, Any] = {
        "issuer": issuer.url,
        "audience": ("murmurate",),
        "tenant": "acme",
        "roles_claim": "realm_access.roles",
    }
    return AuthConfig(**(settings | changes))


class Door:
    """Our side, with the real adapter."""

    def __init__(
        self, auth: AuthConfig, *, outgoing: Reach | None = None, whole_s: float = WHOLE_S
    ) -> None:
        fetcher = HttpFetcher(outgoing or Reach())
        self.adapter = OidcIssuer(auth, outgoing=fetcher, whole_s=whole_s)
        self.tokens = Tokens(
            {"town": auth},
            {"town": self.adapter},
            roles=roles_of({}),
            clock=SystemClock(),
            events=RecordingLog(),
        )

    async def admit(self, token: str) -> Caller:
        return (await self.tokens.admit(token)).caller

    async def refuses(self, token: str, words: str) -> None:
        with pytest.raises(TokenInvalidError, match=words):
            await self.admit(token)

    def may_ask_again(self) -> None:
        """Let the seconds pass in which an issuer is left alone."""
        for trusted in self.tokens._issuers.values():
            trusted.trust._next_s = 0.0


def at(door: Door, story: Callable[[Door], Awaitable[None]]) -> None:
    async def told() -> None:
        try:
            await story(door)
        finally:
            await door.adapter.close()

    asyncio.run(told())


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_token_like_keycloaks_is_taken(issuer: TokenIssuer, algorithm: str) -> None:
    key = issuer.rotate(algorithm)

    async def story(door: Door) -> None:
        caller = await door.admit(issuer.token(key=key, algorithm=algorithm))
        assert caller.key_id == "town:f3b2c1d0-5a6b-4c7d-8e9f-0a1b2c3d4e5f"
        assert caller.roles == ("user",)
        assert caller.scopes == ("chat", "embeddings", "models")
        assert issuer.asked == [METADATA, KEYS]

    at(Door(config(issuer)), story)


def test_further_algorithms_are_taken_where_the_configuration_says_so(issuer: TokenIssuer) -> None:
    async def story(door: Door) -> None:
        for algorithm in ("PS256", "RS512", "ES384"):
            key = issuer.key if algorithm != "ES384" else issuer.new_key("ES384")
            door.may_ask_again()
            await door.admit(issuer.token(key=key, algorithm=algorithm))
        await door.refuses(issuer.token(), "alg: 'RS256' is none of PS256, RS512, ES384")

    at(Door(config(issuer, algorithms=("PS256", "RS512", "ES384"))), story)


def resigned(token: str, **header: Any) -> str:
    """Return the token with another header, and the same signature."""
    _, claims, signature = token.split(".")
    said = base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode()
    return f"{said}.{claims}.{signature}"


def test_whatever_is_not_signed_by_the_issuer_is_refused(issuer: TokenIssuer) -> None:
    stranger = RSAKey.generate_key(2048, {"kid": str(issuer.key.kid)})
    good = issuer.token()
    header, claims, signature = good.split(".")
    other_claims = issuer.token(sub="root").split(".")[1]
    flipped = ("A" if signature[10] != "A" else "B").join((signature[:10], signature[11:]))

    async def story(door: Door) -> None:
        await door.refuses(issuer.token(key=stranger), "signature is wrong")
        await door.refuses(f"{header}.{other_claims}.{signature}", "signature is wrong")
        await door.refuses(f"{header}.{claims}.{flipped}", "signature is wrong")
        await door.refuses(f"{header}.{claims}.AAAA", "signature is wrong")
        await door.refuses(f"{header}.{claims}.", "not signed")
        await door.refuses(resigned(good, alg="none"), "alg: 'none'")
        await door.refuses(resigned(good, alg="RS256", kid="../../dev/null"), "publishes no")
        await door.admit(good)

    at(Door(config(issuer)), story)


def by_secret(token: str, secret: bytes, **header: Any) -> str:
    """Return the token's claims signed with HS256 and a secret."""
    signed, _, _ = resigned(token, alg="HS256", **header).rpartition(".")
    signature = hmac.digest(secret, signed.encode(), "sha256")
    return f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def test_a_public_key_is_no_shared_secret(issuer: TokenIssuer) -> None:
    """Who signs with HS256 and the published RSA key as the secret gets nowhere."""
    pem = issuer.key.as_pem(private=False)
    secrets = (pem, json.dumps(issuer.key.as_dict(private=False)).encode(), b"")
    forged = [by_secret(issuer.token(), secret, kid=issuer.key.kid) for secret in secrets]
    issuer.new_key("HS256", key_id="shared")

    async def story(door: Door) -> None:
        for token in forged:
            await door.refuses(token, "alg: 'HS256'")
        own = issuer.token(key=issuer.published[-1], algorithm="HS256")
        await door.refuses(own, "alg: 'HS256'")
        await door.admit(issuer.token())
        door.may_ask_again()
        await door.refuses(resigned(forged[0], alg="RS256", kid="shared"), "publishes no 'shared'")
        await door.refuses(
            resigned(issuer.token(), alg="ES256", kid=issuer.key.kid), "publishes no"
        )

    at(Door(config(issuer)), story)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"aud": "account"}, "aud"),
        ({"iss": "http://127.0.0.1:1/realms/town"}, "iss"),
        ({"exp": int(time.time()) - 3600}, "expired"),
        ({"nbf": int(time.time()) + 3600}, "nbf"),
        ({"exp": None}, "exp"),
    ],
)
def test_a_well_signed_token_that_is_not_for_us_or_now_is_refused(
    issuer: TokenIssuer, changes: dict[str, Any], words: str
) -> None:
    async def story(door: Door) -> None:
        await door.refuses(issuer.token(**changes), words)
        assert issuer.asked == [], "that takes no look at the issuer's keys"

    at(Door(config(issuer)), story)


def test_keys_that_are_no_keys_to_sign_with_are_left_out(issuer: TokenIssuer) -> None:
    good = issuer.key
    encrypting = RSAKey.generate_key(2048, {"kid": "enc", "use": "enc"})
    short = RSAKey.generate_key(1024, {"kid": "short", "use": "sig"})
    odd = ECKey.generate_key("secp256k1", {"kid": "odd"})
    issuer.published = [encrypting, short, odd, good]
    published = json.loads(issuer.said_at(KEYS)[1])["keys"]
    broken: list[Any] = [{}, {"kty": 7}, {"kty": "RSA", "kid": "n", "n": "?", "e": "AQAB"}]
    broken += [{"kty": "RSA", "n": 5, "e": "AQAB"}, {"kty": "RSA", "n": [], "e": None}]
    broken += [{"kty": "EC", "crv": "P-256", "x": 1}, {"kty": "OKP", "crv": "Ed25519"}]
    broken += [{**published[3], "kid": "other", "alg": "RS512"}, {"kty": "oct", "k": "AAAA"}]
    issuer.answers[KEYS] = (200, json.dumps({"keys": [*published, *broken]}).encode())

    async def story(door: Door) -> None:
        found = await door.adapter.published()
        assert [key.id for key in found.keys] == [good.kid]
        assert "PyJWK" not in repr(found.keys)
        await door.admit(issuer.token())

    at(Door(config(issuer)), story)


def test_no_request_is_lost_while_the_keys_are_rotated(issuer: TokenIssuer) -> None:
    async def story(door: Door) -> None:
        await door.admit(issuer.token())
        for _ in range(3):
            door.may_ask_again()
            issuer.rotate("ES256")
            tokens = [issuer.token(algorithm="ES256", jti=str(number)) for number in range(20)]
            await asyncio.gather(*map(door.admit, tokens))
        assert issuer.keys_asked == 4

    at(Door(config(issuer)), story)


def test_an_issuer_that_restarts_is_not_missed(issuer: TokenIssuer) -> None:
    async def story(door: Door) -> None:
        token = issuer.token()
        await door.admit(token)
        issuer.stop()
        await door.admit(token)
        await door.admit(issuer.token(jti="new"))
        door.may_ask_again()
        with pytest.raises(IssuerUnreachableError, match="no connection"):
            await door.admit(issuer.token(header={"kid": "unknown"}))
        issuer.start()
        door.may_ask_again()
        await door.refuses(issuer.token(header={"kid": "unknown"}), "publishes no 'unknown'")

    at(Door(config(issuer)), story)


@pytest.mark.parametrize(
    ("path", "answer", "words"),
    [
        (METADATA, (404, b"{}"), "answers with status 404"),
        (METADATA, (302, b"{}"), "answers with status 302"),
        (METADATA, (200, b"<html>"), "does not say where its keys are"),
        (METADATA, (200, b'{"issuer": "x"}'), "does not say where its keys are"),
        (METADATA, (200, b'{"issuer": "x", "jwks_uri": "y"}'), "says that the issuer is 'x'"),
        (METADATA, (200, b"[" * 100_000), "does not say where its keys are"),
        (KEYS, (500, b"{}"), "answers with status 500"),
        (KEYS, (200, b"[]"), "no set of keys"),
        (KEYS, (200, b'{"keys": []}'), "no key for any of RS256"),
        (KEYS, (200, b" " * (BYTES_MAX + 1)), f"more than {BYTES_MAX} bytes"),
    ],
)
def test_an_issuer_that_answers_nonsense_is_said_to(
    issuer: TokenIssuer, path: str, answer: tuple[int, bytes], words: str
) -> None:
    issuer.answers[path] = answer

    async def story(door: Door) -> None:
        with pytest.raises(IssuerUnreachableError, match=words) as raised:
            await door.admit(issuer.token())
        assert raised.value.http_status == 503
        assert len(issuer.asked) == (1 if path == METADATA else 2)

    at(Door(config(issuer)), story)


@pytest.mark.parametrize(
    "url", ["", "file:///etc/passwd", "https://h:99999/", "https://[x", "ftp://h/", "//h/keys"]
)
def test_keys_at_a_place_that_is_none_are_not_looked_for(issuer: TokenIssuer, url: str) -> None:
    issuer.metadata["jwks_uri"] = url

    async def story(door: Door) -> None:
        with pytest.raises(IssuerUnreachableError):
            await door.admit(issuer.token())
        assert issuer.asked == [METADATA]

    at(Door(config(issuer)), story)


def test_an_issuer_that_takes_too_long_is_given_up(issuer: TokenIssuer) -> None:
    issuer.answering.clear()

    async def story(door: Door) -> None:
        with pytest.raises(IssuerUnreachableError, match=r"did not answer within 0\.2 s"):
            await door.admit(issuer.token())

    at(Door(config(issuer), whole_s=0.2), story)


def test_keys_on_another_host_are_fetched_only_where_that_is_allowed(issuer: TokenIssuer) -> None:
    other = TokenIssuer()
    issuer.published, other.published = [], [issuer.key]
    issuer.metadata["jwks_uri"] = f"http://127.0.0.1:{other.port}{KEYS}"

    async def refused(door: Door) -> None:
        with pytest.raises(IssuerUnreachableError, match=r"is not allowed; outgoing\.ports"):
            await door.admit(issuer.token())
        assert other.asked == []

    async def taken(door: Door) -> None:
        await door.admit(issuer.token())

    try:
        at(Door(config(issuer)), refused)
        at(Door(config(issuer), outgoing=Reach.of(["127.0.0.0/8"], [other.port])), taken)
        named = config(issuer, jwks_url=issuer.metadata["jwks_uri"])
        issuer.stop()
        at(Door(named), taken)
    finally:
        other.stop()


@pytest.mark.parametrize(("said_s", "kept_s"), [(None, 300.0), (77, 77.0)])
def test_how_long_keys_are_good_is_the_issuers_word(
    issuer: TokenIssuer, said_s: int | None, kept_s: float
) -> None:
    issuer.max_age_s = said_s

    async def story(door: Door) -> None:
        assert (await door.adapter.published()).again_s == kept_s

    at(Door(config(issuer)), story)


@pytest.fixture(scope="module")
def foreign() -> Iterator[str]:
    """An issuer that others wrote: oidc-provider-mock, on Flask and Authlib."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    claims = json.dumps({"sub": "ada", "groups": ["staff"], "org": "acme"})
    command = [sys.executable, "-W", "ignore", "-m", "oidc_provider_mock", "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--user-claims", claims], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{url}/.well-known/openid-configuration", timeout=1).close()
                break
            except OSError:
                Event().wait(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


def logged_in(url: str, *, subject: str, client: str) -> str:
    """Log somebody in as a browser and a web application would; return the ID token."""
    place = urllib.parse.urlsplit(url)
    assert place.hostname is not None
    back = "http://app.example/back"
    asked = {
        "client_id": client,
        "redirect_uri": back,
        "response_type": "code",
        "scope": "openid profile",
    }
    form = {"Content-Type": "application/x-www-form-urlencoded"}

    def post(path: str, body: dict[str, str], headers: dict[str, str]) -> Any:
        connection = HTTPConnection(place.hostname or "", place.port, timeout=10)
        connection.request("POST", path, urllib.parse.urlencode(body), headers)
        response = connection.getresponse()
        said = response.read()
        connection.close()
        return response, said

    consent = f"/oauth2/authorize?{urllib.parse.urlencode(asked)}"
    response, _ = post(consent, {"sub": subject}, form)
    found = re.search(r"[?&]code=([^&]+)", response.headers["Location"])
    assert found is not None
    basic = base64.b64encode(f"{client}:secret".encode()).decode()
    _, said = post(
        "/oauth2/token",
        {"grant_type": "authorization_code", "code": found[1], "redirect_uri": back},
        {**form, "Authorization": f"Basic {basic}"},
    )
    return json.loads(said)["id_token"]


def test_a_token_of_an_issuer_that_others_wrote_is_taken(foreign: str) -> None:
    auth = AuthConfig(
        issuer=foreign,
        audience=("murmurate",),
        tenant_claim="org",
        tenants=("acme",),
        roles_claim="groups",
        role_names={"staff": "developer"},
    )
    good = logged_in(foreign, subject="ada", client="murmurate")
    other = logged_in(foreign, subject="ada", client="elsewhere")

    async def story(door: Door) -> None:
        caller = await door.admit(good)
        assert (caller.key_id, caller.tenant, caller.roles) == ("town:ada", "acme", ("developer",))
        await door.refuses(other, "aud: the token is not for 'murmurate'")

    at(Door(auth), story)


def test_every_refusal_is_one_of_authentication() -> None:
    assert issubclass(TokenInvalidError, KeyInvalidError)
