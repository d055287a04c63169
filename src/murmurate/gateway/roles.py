"""Roles: names for several scopes, of our own and of the configuration. Pure.

A key keeps the scopes that its roles had when it was made; a token has what they have now.
"""

from collections.abc import Collection, Mapping

from murmurate.config import AuthConfig, RoleConfig
from murmurate.core.errors import BadRequestError, ConfigError
from murmurate.gateway.scopes import EVERYTHING, OPERATOR_TENANT, Scope

_READS = (Scope.MODELS, Scope.SESSIONS, Scope.TRACES, Scope.USAGE, Scope.KNOWLEDGE)
_USES = (Scope.CHAT, Scope.EMBEDDINGS, Scope.MODELS)
_DEVELOPS = (*_USES, *_READS, Scope.RUNS, Scope.FILES, Scope.BATCHES, Scope.INGEST)

BUILT_IN: Mapping[str, tuple[str, ...]] = {
    "viewer": tuple(scope.value for scope in _READS),
    "user": tuple(scope.value for scope in _USES),
    "developer": tuple(scope.value for scope in Scope if scope in _DEVELOPS),
    "admin": tuple(scope.value for scope in Scope if scope is not Scope.OPERATOR),
    "operator": tuple(scope.value for scope in Scope),
}

Roles = Mapping[str, tuple[str, ...]]
"""The scopes of each role, by its name."""


def roles_of(config: Mapping[str, RoleConfig]) -> Roles:
    """Return our roles, with those of the configuration over them. `ConfigError`: no such scope."""
    known = [*(scope.value for scope in Scope), EVERYTHING]
    for name, role in config.items():
        for scope in role.scopes:
            if scope not in known:
                raise ConfigError(
                    f"roles.{name}.scopes has {scope!r}: expected some of {', '.join(known)}"
                )
    return {**BUILT_IN, **{name: role.scopes for name, role in config.items()}}


def check_issuers(config: Mapping[str, AuthConfig], roles: Roles) -> None:
    """Return when issuers give roles that there are; else `ConfigError` names the key."""
    for name, issuer in config.items():
        given = {"roles": issuer.roles, "role_names": tuple(issuer.role_names.values())}
        for key, names in given.items():
            for role in names:
                if role not in roles:
                    known = ", ".join(sorted(roles))
                    raise ConfigError(f"auth.{name}.{key} has {role!r}: expected some of {known}")


def scopes_of(names: Collection[str], roles: Roles, *, tenant: str) -> tuple[str, ...]:
    """Return what roles open together, in a fixed order.

    A role is no way to become an operator: outside of its tenant that scope falls away.
    """
    opened = {scope for name in names for scope in roles.get(name, ())}
    if EVERYTHING in opened:
        return (EVERYTHING,)
    if tenant != OPERATOR_TENANT:
        opened.discard(Scope.OPERATOR.value)
    return tuple(scope.value for scope in Scope if scope.value in opened)


def checked_roles(names: Collection[str], roles: Roles) -> tuple[str, ...]:
    """Return roles that were asked for, each once; `BadRequestError`: there is no such."""
    for name in names:
        if name not in roles:
            known = ", ".join(sorted(roles))
            raise BadRequestError(
                f"roles: there is no role {name[:64]!r}; there are: {known}", param="roles"
            )
    return tuple(dict.fromkeys(names))
