"""People come in with the tokens of their issuer, through real processes."""

import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.e2e.running import Running, running
from tests.e2e.test_up import refused, scripted
from tests.servers.issuer import TokenIssuer

RULES = f"""
tokens_per_s = 10

[[rules]]
match = "long"
text = "{"word " * 200}"

[[rules]]
match = ".*"
text = "good day"
"""


@pytest.fixture
def issuer() -> Iterator[TokenIssuer]:
    server = TokenIssuer()
    yield server
    server.stop()


@pytest.fixture
def service(tmp_path: Path, issuer: TokenIssuer) -> Iterator[Running]:
    more = f"""
[auth.town]
issuer = "{issuer.url}"
audience = ["murmurate"]
tenant = "acme"
roles_claim = "realm_access.roles"
skew_s = 0
outage_s = 3

[roles.user]
scopes = ["chat"]

[[policy.rules]]
effect = "deny"
roles = ["developer"]
models = ["sl*"]
reason = "slow is for users"
"""
    options = scripted(tmp_path, more)
    (tmp_path / "rules.toml").write_text(RULES)
    with running(tmp_path / "state", *options) as it:
        yield it


def test_people_come_in_with_the_tokens_of_their_issuer(
    service: Running, issuer: TokenIssuer
) -> None:
    token = issuer.token()
    said = service.client(token).chat.completions.create(
        model="slow", messages=[{"role": "user", "content": "hello"}]
    )
    assert said.choices[0].message.content == "good day"
    with pytest.raises(openai.PermissionDeniedError, match="no scope 'models'"):
        service.client(token).models.list()
    with pytest.raises(openai.AuthenticationError, match="aud"):
        service.client(issuer.token(aud="account")).models.list()
    status, headers, _ = service.request(
        "/v1/models", headers={"Authorization": f"Bearer {issuer.token(exp=1)}"}
    )
    assert status == 401
    assert "expired at 1970" in headers["www-authenticate"]
    issuer.stop()
    time.sleep(3.5)
    status, headers, answer = service.request(
        "/v1/models", headers={"Authorization": f"Bearer {token}"}
    )
    assert (status, answer["error"]["code"]) == (503, "token.issuer_unreachable")
    assert int(headers["retry-after"]) >= 1
    assert service.request("/v1/models")[0] == 200, "keys of ours go on working"
    logged = b"".join(file.read_bytes() for file in service.state.glob("*.log*"))
    assert token.split(".")[1].encode() not in logged


def test_a_policy_decides_by_role_and_model(service: Running, issuer: TokenIssuer) -> None:
    client = service.client(issuer.token(realm_access={"roles": ["developer"]}))
    with pytest.raises(openai.PermissionDeniedError, match="'slow': slow is for users") as denied:
        client.chat.completions.create(model="slow", messages=[{"role": "user", "content": "hi"}])
    assert denied.value.code == "policy.denied"
    assert "slow" not in [model.id for model in client.models.list()]


def test_a_role_or_rule_about_nothing_stops_the_start_with_one_line(tmp_path: Path) -> None:
    rule = '[[policy.rules]]\neffect = "deny"\nmodels = ["solw"]\n'
    line = refused(tmp_path / "state", *scripted(tmp_path, rule))
    assert "policy.rules[0].models has 'solw', which fits none of " in line
    role = '[roles.reader]\nscopes = ["raed"]\n'
    line = refused(tmp_path / "state2", *scripted(tmp_path, role))
    assert "roles.reader.scopes has 'raed'" in line


def test_a_stream_ends_with_its_token(service: Running, issuer: TokenIssuer) -> None:
    token = issuer.token(exp=int(time.time()) + 3)
    stream = service.client(token).chat.completions.create(
        model="slow", messages=[{"role": "user", "content": "long"}], stream=True
    )
    heard: list[str] = []
    with pytest.raises(openai.APIError, match="the token ended at") as raised:
        heard.extend(chunk.choices[0].delta.content or "" for chunk in stream)
    assert raised.value.code == "token.expired"
