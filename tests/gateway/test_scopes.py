"""What scopes amount to: `*` is all of a tenant's own, and only `default` has operators."""

import pytest

from murmurate.core.errors import BadRequestError, ScopeMissingError
from murmurate.core.types import Caller
from murmurate.gateway.scopes import Scope, check_scope, checked, is_operator, rights

ALL_BUT_OPERATOR = frozenset(Scope) - {Scope.OPERATOR}


@pytest.mark.parametrize(
    ("tenant", "scopes", "expected"),
    [
        ("acme", ("chat",), {Scope.CHAT}),
        ("acme", ("chat", "models"), {Scope.CHAT, Scope.MODELS}),
        ("acme", ("*",), ALL_BUT_OPERATOR),
        ("acme", ("operator",), set[Scope]()),
        ("acme", ("unheard of",), set[Scope]()),
        ("acme", (), set[Scope]()),
        ("default", ("*",), frozenset(Scope)),
        ("default", ("operator",), {Scope.OPERATOR, Scope.ADMIN}),
        ("default", ("admin",), {Scope.ADMIN}),
    ],
)
def test_scopes_amount_to_rights(
    tenant: str, scopes: tuple[str, ...], expected: frozenset[Scope]
) -> None:
    assert rights(tenant, scopes) == expected
    caller = Caller("key_1", tenant, scopes)
    assert is_operator(caller) is (Scope.OPERATOR in expected)
    for scope in Scope:
        if scope in expected:
            check_scope(caller, scope)
        else:
            with pytest.raises(ScopeMissingError, match=f"'{scope.value}'"):
                check_scope(caller, scope)


def test_scopes_are_kept_once_each_and_in_one_order() -> None:
    assert checked(["models", "chat", "chat"], "acme") == ("chat", "models")
    assert checked(["chat", "*"], "acme") == ("*",)
    assert checked(["operator"], "default") == ("operator",)


@pytest.mark.parametrize(
    ("scopes", "words"),
    [
        (["chat", "cat"], "no scope 'cat'; there are: chat, "),
        ([], "opens nothing"),
        (["operator"], "only"),
    ],
)
def test_scopes_that_make_no_sense_are_refused(scopes: list[str], words: str) -> None:
    with pytest.raises(BadRequestError, match=words) as raised:
        checked(scopes, "acme")
    assert raised.value.param == "scopes"
