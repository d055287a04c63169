"""Roles stand for scopes; those of the configuration come over ours."""

import pytest

from murmurate.config import AuthConfig, RoleConfig
from murmurate.core.errors import BadRequestError, ConfigError
from murmurate.gateway.roles import BUILT_IN, check_issuers, checked_roles, roles_of, scopes_of
from murmurate.gateway.scopes import Scope


def test_the_roles_of_our_own_grow_from_viewer_to_operator() -> None:
    assert list(BUILT_IN) == ["viewer", "user", "developer", "admin", "operator"]
    assert set(BUILT_IN["user"]) < set(BUILT_IN["developer"]) < set(BUILT_IN["admin"])
    assert set(BUILT_IN["viewer"]) < set(BUILT_IN["developer"])
    assert Scope.ADMIN.value not in BUILT_IN["developer"]
    assert set(BUILT_IN["operator"]) == {scope.value for scope in Scope}
    assert Scope.CHAT.value not in BUILT_IN["viewer"], "a viewer begins nothing"


def test_a_configured_role_is_added_or_replaces_ours() -> None:
    roles = roles_of(
        {"user": RoleConfig(scopes=("chat",)), "reporter": RoleConfig(scopes=("runs", "traces"))}
    )
    assert roles["user"] == ("chat",)
    assert scopes_of(["user", "reporter"], roles, tenant="acme") == ("chat", "runs", "traces")
    assert scopes_of(["viewer", "nobody"], roles, tenant="acme") == BUILT_IN["viewer"]
    assert scopes_of([], roles, tenant="acme") == ()


def test_a_role_with_everything_is_everything() -> None:
    roles = roles_of({"owner": RoleConfig(scopes=("*",))})
    assert scopes_of(["user", "owner"], roles, tenant="acme") == ("*",)


def test_operators_are_of_their_tenant_only() -> None:
    assert "operator" in scopes_of(["operator"], BUILT_IN, tenant="default")
    assert "operator" not in scopes_of(["operator"], BUILT_IN, tenant="acme")


def test_a_scope_or_role_that_is_none_stops_the_start() -> None:
    with pytest.raises(ConfigError, match=r"roles.x.scopes has 'chta': expected some of chat"):
        roles_of({"x": RoleConfig(scopes=("chta",))})
    issuer = AuthConfig(issuer="i", audience=("m",), tenant="a", role_names={"ops": "oprator"})
    with pytest.raises(ConfigError, match=r"auth.town.role_names has 'oprator'"):
        check_issuers({"town": issuer}, BUILT_IN)
    with pytest.raises(ConfigError, match=r"auth.town.roles has 'usr'"):
        check_issuers({"town": AuthConfig(issuer="i", audience=("m",), roles=("usr",))}, BUILT_IN)


def test_asked_for_roles_are_known_ones_each_once() -> None:
    assert checked_roles(["user", "viewer", "user"], BUILT_IN) == ("user", "viewer")
    with pytest.raises(BadRequestError, match="there is no role 'usr'; there are: admin, dev"):
        checked_roles(["usr"], BUILT_IN)
