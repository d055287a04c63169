"""Nobody passes on, replaces or withdraws more than they have."""

from typing import Any

import msgspec
import pytest

from murmurate.core.errors import GrantTooWideError, KeyStateError, LastOperatorError
from murmurate.gateway.grants import (
    check_active,
    check_grant,
    check_leaves_operator,
    check_manages,
    is_usable_operator,
    sees,
)
from murmurate.gateway.keys import Key, KeyRecord
from murmurate.gateway.quota import Rate

DEFAULT = Rate(per_s=10.0, burst=60.0)


def key(tenant: str, *scopes: str, id: str = "key_1", **fields: Any) -> Key:
    return Key(KeyRecord(id, "hash", tenant, scopes, 0, **fields), 1)


OPERATOR = key("default", "*")
ADMIN = key("acme", "admin", "chat")
WHOLE = key("acme", "*")


@pytest.mark.parametrize(
    ("actor", "tenant", "seen"),
    [
        (OPERATOR, "default", True),
        (OPERATOR, "acme", True),
        (key("default", "operator"), "acme", True),
        (key("default", "admin"), "acme", False),
        (key("acme", "operator", "admin"), "default", False),
        (ADMIN, "acme", True),
        (WHOLE, "acme", True),
        (WHOLE, "default", False),
    ],
)
def test_only_operators_see_the_keys_of_other_tenants(
    actor: Key, tenant: str, *, seen: bool
) -> None:
    assert sees(actor, key(tenant, "chat", id="key_2")) is seen


@pytest.mark.parametrize(
    ("actor", "wanted"),
    [
        (OPERATOR, key("default", "*")),
        (OPERATOR, key("acme", "*", requests_per_minute=1e6, burst=10**6)),
        (key("default", "operator", "chat"), key("acme", "admin", "chat")),
        (ADMIN, key("acme", "admin")),
        (ADMIN, key("acme", "chat", requests_per_minute=600.0, burst=60)),
        (WHOLE, key("acme", "*")),
        (WHOLE, key("acme", "ingest", "admin")),
        (key("acme", "*", expires_ms=100), key("acme", "chat", expires_ms=100)),
    ],
)
def test_what_one_has_can_be_passed_on(actor: Key, wanted: Key) -> None:
    check_grant(actor, wanted.record, DEFAULT)


@pytest.mark.parametrize(
    ("actor", "wanted", "param"),
    [
        (ADMIN, key("default", "chat"), "tenant"),
        (WHOLE, key("default", "chat"), "tenant"),
        (key("default", "admin"), key("acme", "admin"), "tenant"),
        (ADMIN, key("acme", "*"), "scopes"),
        (ADMIN, key("acme", "chat", "ingest"), "scopes"),
        (key("default", "admin"), key("default", "operator"), "scopes"),
        (key("default", "operator"), key("acme", "chat"), "scopes"),
        (key("default", "operator"), key("default", "*"), "scopes"),
        (key("acme", "*", expires_ms=100), key("acme", "chat"), "expires"),
        (key("acme", "*", expires_ms=100), key("acme", "chat", expires_ms=101), "expires"),
        (key("default", "*", expires_ms=100), key("default", "*"), "expires"),
        (WHOLE, key("acme", "chat", requests_per_minute=601.0), "limits"),
        (WHOLE, key("acme", "chat", burst=61), "limits"),
        (key("acme", "*", requests_per_minute=10.0), key("acme", "chat"), "limits"),
        (key("acme", "*", burst=5), key("acme", "chat"), "limits"),
    ],
)
def test_what_one_lacks_can_not(actor: Key, wanted: Key, param: str) -> None:
    with pytest.raises(GrantTooWideError, match=f"^.*{param}: ") as raised:
        check_grant(actor, wanted.record, DEFAULT)
    assert raised.value.param == param


def test_who_rotates_a_key_gets_its_rights_and_must_have_them() -> None:
    check_manages(WHOLE, key("acme", "chat", id="key_2"))
    check_manages(OPERATOR, key("acme", "*", id="key_2"))
    with pytest.raises(GrantTooWideError, match="'ingest', which this key lacks"):
        check_manages(ADMIN, key("acme", "ingest", "chat", id="key_2"))
    with pytest.raises(GrantTooWideError):
        check_manages(key("default", "admin"), key("default", "*", id="key_2"))
    check_manages(ADMIN, ADMIN)


def test_a_key_that_has_ended_gets_no_new_secret() -> None:
    check_active(key("acme", "chat", expires_ms=100), 99)
    with pytest.raises(KeyStateError, match="is expired"):
        check_active(key("acme", "chat", expires_ms=100), 100)
    with pytest.raises(KeyStateError, match="is revoked"):
        check_active(msgspec.structs.replace(ADMIN, revoked_ms=1), 100)


@pytest.mark.parametrize(
    "others",
    [
        [],
        [WHOLE],
        [key("default", "admin", "chat", id="key_2")],
        [key("default", "*", id="key_2", expires_ms=50)],
        [msgspec.structs.replace(key("default", "*", id="key_2"), revoked_ms=1)],
    ],
)
def test_the_last_operator_stays(others: list[Key]) -> None:
    with pytest.raises(LastOperatorError):
        check_leaves_operator(OPERATOR, [OPERATOR, *others], 100)


def test_an_operator_goes_when_another_stays_or_it_had_ended_anyway() -> None:
    check_leaves_operator(OPERATOR, [OPERATOR, key("default", "operator", id="key_2")], 100)
    expired = key("default", "*", expires_ms=50)
    check_leaves_operator(expired, [expired], 100)
    check_leaves_operator(ADMIN, [ADMIN], 100)
    assert not is_usable_operator(expired, 100)
    assert is_usable_operator(OPERATOR, 100)


@pytest.mark.parametrize(
    ("actor", "roles", "may"),
    [
        (OPERATOR, ("analyst",), True),
        (WHOLE, ("analyst",), True),
        (ADMIN, (), True),
        (ADMIN, ("analyst",), False),
        (key("acme", "admin", "chat", roles=("analyst",)), ("analyst",), True),
        (key("acme", "admin", "chat", roles=("analyst",)), ("analyst", "user"), False),
    ],
)
def test_a_role_is_given_by_who_has_it_or_owns_all(
    actor: Key, roles: tuple[str, ...], *, may: bool
) -> None:
    """A policy may let a role do what no scope tells of."""
    wanted = key("acme", "chat", id="key_2", roles=roles)
    if may:
        check_grant(actor, wanted.record, DEFAULT)
        check_manages(actor, wanted)
        return
    with pytest.raises(GrantTooWideError, match="lacks") as raised:
        check_grant(actor, wanted.record, DEFAULT)
    assert raised.value.param == "roles"
    with pytest.raises(GrantTooWideError, match="has the role"):
        check_manages(actor, wanted)
