"""What a key may do: a small closed set of scopes, each guarding some routes. Pure."""

from collections.abc import Collection
from enum import StrEnum

from murmurate.core.errors import BadRequestError, ScopeMissingError
from murmurate.core.types import Caller

OPERATOR_TENANT = "default"
"""The tenant of whoever runs the service: only its keys can act for other tenants."""

EVERYTHING = "*"
"""Stands for all scopes that a key of its tenant can have."""


class Scope(StrEnum):
    """A part of the service that a key opens."""

    CHAT = "chat"
    EMBEDDINGS = "embeddings"
    MODELS = "models"
    SESSIONS = "sessions"
    RUNS = "runs"
    """Begin runs in the background; see, cancel and resume all runs of its tenant."""
    APPROVE = "approve"
    """See and decide what the agents of its tenant ask for; not what its own runs ask."""
    FILES = "files"
    """Upload files; see, read and delete all files of its tenant."""
    BATCHES = "batches"
    """Begin batches; see and cancel all batches of its tenant."""
    TRACES = "traces"
    USAGE = "usage"
    """See what its tenant has used, and what it cost."""
    KNOWLEDGE = "knowledge"
    INGEST = "ingest"
    ADMIN = "admin"
    """Manage the keys of its own tenant."""
    OPERATOR = "operator"
    """Manage the keys of every tenant, too; only in the tenant `default`."""


SCOPES_DEFAULT = (Scope.CHAT.value, Scope.EMBEDDINGS.value, Scope.MODELS.value)
"""What an application needs, and a new key gets when nothing else is asked for."""


def rights(tenant: str, scopes: Collection[str]) -> frozenset[Scope]:
    """Return what scopes amount to in a tenant; words that nobody knows open nothing."""
    every = set(Scope) if EVERYTHING in scopes else {s for s in Scope if s.value in scopes}
    if tenant != OPERATOR_TENANT:
        every.discard(Scope.OPERATOR)
    if Scope.OPERATOR in every:
        every.add(Scope.ADMIN)
    return frozenset(every)


def is_operator(caller: Caller) -> bool:
    """Tell whether the caller manages every tenant."""
    return Scope.OPERATOR in rights(caller.tenant, caller.scopes)


def check_scope(caller: Caller, needed: Scope) -> None:
    """Return when the caller has the scope; else `ScopeMissingError` names it."""
    if EVERYTHING in caller.scopes and needed is not Scope.OPERATOR:
        return
    if needed not in rights(caller.tenant, caller.scopes):
        raise ScopeMissingError(
            f"this key has no scope {needed.value!r}: ask for a key that has it"
        )


def checked(scopes: Collection[str], tenant: str) -> tuple[str, ...]:
    """Return scopes that were asked for, each once, in their fixed order."""
    known = [*(scope.value for scope in Scope), EVERYTHING]
    for scope in scopes:
        if scope not in known:
            raise BadRequestError(
                f"scopes: there is no scope {scope[:64]!r}; there are: {', '.join(known)}",
                param="scopes",
            )
    if not scopes:
        raise BadRequestError("scopes: a key without any opens nothing: name one", param="scopes")
    if Scope.OPERATOR.value in scopes and tenant != OPERATOR_TENANT:
        raise BadRequestError(
            f"scopes: 'operator' is for keys of the tenant {OPERATOR_TENANT!r} only",
            param="scopes",
        )
    if EVERYTHING in scopes:
        return (EVERYTHING,)
    return tuple(scope for scope in known if scope in scopes)
