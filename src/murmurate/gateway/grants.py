"""Who may make, replace and withdraw which key. Pure.

A key of the tenant `default` with the scope `operator` (or `*`) manages the keys of all tenants;
one with the scope `admin` those of its own. Nobody passes on more than they have.
"""

from collections.abc import Iterable

from murmurate.core.errors import GrantTooWideError, KeyStateError, LastOperatorError
from murmurate.gateway.keys import Key, KeyRecord, Standing, rate_of
from murmurate.gateway.quota import Rate
from murmurate.gateway.scopes import EVERYTHING, Scope, rights
from murmurate.gateway.times import shown


def sees(actor: Key, key: Key) -> bool:
    """Tell whether a key exists for the actor; another tenant's does not."""
    return Scope.OPERATOR in actor.rights or key.record.tenant == actor.record.tenant


def check_grant(actor: Key, wanted: KeyRecord, default: Rate) -> None:
    """Return when the actor may make such a key; `GrantTooWideError` names the field if not."""
    is_operator = Scope.OPERATOR in actor.rights
    if not is_operator and wanted.tenant != actor.record.tenant:
        raise GrantTooWideError(
            "tenant: this key manages keys of its own tenant only; leave it out, or use a key "
            f"with the scope {Scope.OPERATOR.value!r}",
            param="tenant",
        )
    beyond = rights(wanted.tenant, wanted.scopes) - actor.rights
    if beyond:
        raise GrantTooWideError(
            f"scopes: this key lacks {_listed(beyond)} itself and can't pass it on", param="scopes"
        )
    if strange := _strange_roles(actor, wanted):
        raise GrantTooWideError(
            f"roles: this key lacks {', '.join(map(repr, strange))} itself and can't pass it on",
            param="roles",
        )
    end_ms = actor.record.expires_ms
    if end_ms is not None and (wanted.expires_ms is None or wanted.expires_ms > end_ms):
        raise GrantTooWideError(
            f"expires: this key ends at {shown(end_ms)}, and none that it makes may outlive it",
            param="expires",
        )
    own, given = rate_of(actor, default), rate_of(Key(wanted, 1), default)
    if not is_operator and (given.per_s > own.per_s or given.burst > own.burst):
        raise GrantTooWideError(
            f"limits: this key may ask {own.per_s * 60:g} times a minute, {own.burst:g} at once, "
            "and can't pass on more: set both limits",
            param="limits",
        )


def check_manages(actor: Key, key: Key) -> None:
    """Return when the actor may rotate or revoke the key: it has all the key's rights itself."""
    beyond = key.rights - actor.rights
    if beyond and actor.record.id != key.record.id:
        raise GrantTooWideError(
            f"key {key.record.id} has {_listed(beyond)}, which this key lacks: use one that has it"
        )
    if (strange := _strange_roles(actor, key.record)) and actor.record.id != key.record.id:
        raise GrantTooWideError(
            f"key {key.record.id} has the role {strange[0]!r}, which this key lacks: use one that"
            " has it"
        )


def _strange_roles(actor: Key, wanted: KeyRecord) -> list[str]:
    """Return the roles of a key that the actor may not give.

    A policy may allow a role what no scope says, so only who has it gives it, or who owns all:
    operators, and in its tenant a key with `*`.
    """
    if Scope.OPERATOR in actor.rights or EVERYTHING in actor.record.scopes:
        return []
    return [role for role in wanted.roles if role not in actor.record.roles]


def check_active(key: Key, now_ms: int) -> None:
    """Return when the key has not ended: a new secret would not bring it back."""
    standing = key.standing(now_ms)
    if standing is not Standing.ACTIVE:
        raise KeyStateError(f"key {key.record.id} is {standing.value}: create another one")


def check_leaves_operator(key: Key, keys: Iterable[Key], now_ms: int) -> None:
    """Return when somebody can still manage keys without this one."""
    if is_usable_operator(key, now_ms) and not any(
        is_usable_operator(other, now_ms) for other in keys if other.record.id != key.record.id
    ):
        raise LastOperatorError(
            f"key {key.record.id} is the last one that manages all keys: create another with the "
            f"scope {Scope.OPERATOR.value!r} first, or rotate it"
        )


def is_usable_operator(key: Key, now_ms: int) -> bool:
    """Tell whether somebody can manage all keys with it."""
    return Scope.OPERATOR in key.rights and key.standing(now_ms) is Standing.ACTIVE


def _listed(scopes: Iterable[Scope]) -> str:
    return ", ".join(repr(scope.value) for scope in Scope if scope in scopes)
