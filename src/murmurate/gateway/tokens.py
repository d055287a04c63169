"""A token: what it says of itself, whether that counts here, and whom it makes of its bearer. Pure.

Nothing of it is believed before its signature was checked (`tokenring.py`); what can be refused
without that is refused first, for it costs less.
"""

import base64
import binascii
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NoReturn, cast

import msgspec
from msgspec import Meta

from murmurate.config import TENANT_NAME, AuthConfig
from murmurate.core.errors import KeyInvalidError
from murmurate.core.types import Caller, Frozen
from murmurate.gateway.keys import REGISTRY
from murmurate.gateway.roles import Roles, scopes_of
from murmurate.gateway.scopes import EVERYTHING, Scope
from murmurate.gateway.times import shown

TOKEN_CHARS_MAX = 8192
"""Keycloak's are 1 to 2 KB; those of users in hundreds of groups grow to some more."""
SUBJECT_CHARS_MAX = 255
"""As long as OpenID Connect Core 1.0 lets a `sub` be."""
ROLES_MAX = 100
"""Of one token; the rest is left out."""
TYPES = {"jwt", "at+jwt", "application/at+jwt"}
"""What a token's header may call it; a logout token or a proof is none to come in by."""

_FORM = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_MOMENT_MAX = 1e11
"""Seconds since 1970: the year 5138."""
_Moment = Annotated[float, Meta(ge=0, le=_MOMENT_MAX)]


class TokenInvalidError(KeyInvalidError):
    """The token can't be used here: the message says what is wrong with it.

    Get a new one of the issuer; if it is refused, too, compare `[auth.NAME]` with its claims.
    """

    code = "token.invalid"


class TokenExpiredError(TokenInvalidError):
    """The token was valid until the time in the message; in the middle of a stream, too.

    Get a new one of the issuer.
    """

    code = "token.expired"


class Header(Frozen, frozen=True):
    """What a token says of its signature; further fields lead nowhere (`jku`, `jwk`, `x5u`)."""

    alg: str
    kid: Annotated[str, Meta(max_length=SUBJECT_CHARS_MAX)] | None = None
    typ: str | None = None


class Claims(Frozen, frozen=True):
    """The claims that every token has to have, or has in one form only."""

    iss: str
    sub: Annotated[str, Meta(min_length=1, max_length=SUBJECT_CHARS_MAX)]
    exp: _Moment
    aud: str | tuple[str, ...] = ()
    nbf: _Moment | None = None
    iat: _Moment | None = None


class Token(Frozen, frozen=True):
    """A token taken apart; `all_claims` holds those that a configuration may name, too."""

    header: Header
    claims: Claims
    all_claims: Mapping[str, Any]


def is_token(secret: str) -> bool:
    """Tell whether it has the form of a token rather than that of a key."""
    return secret.count(".") == 2


def opened(token: str) -> Token:
    """Take a token apart. `TokenInvalidError`: it is none that two readers understand alike."""
    if len(token) > TOKEN_CHARS_MAX:
        raise TokenInvalidError(f"the token has {len(token)} characters; at most {TOKEN_CHARS_MAX}")
    found = _FORM.fullmatch(token)
    if found is None:
        raise TokenInvalidError("the token is not signed, or no JWT: expected HEADER.CLAIMS.SIGN")
    header, claims = _decoded(found[1], "header"), _decoded(found[2], "claims")
    if "crit" in header:
        raise TokenInvalidError("the token's header has 'crit': no extension is known here")
    try:
        opened = Token(msgspec.convert(header, Header), msgspec.convert(claims, Claims), claims)
    except msgspec.ValidationError as cause:
        raise TokenInvalidError(f"the token can't be read: {cause}") from None
    if opened.header.typ is not None and opened.header.typ.lower() not in TYPES:
        raise TokenInvalidError(
            f"the token is a {opened.header.typ[:32]!r}: expected an access token"
        )
    return opened


def check(token: Token, issuer: AuthConfig, now_s: float) -> None:
    """Return when an issuer's token is for us and now, whoever signed it."""
    claims = token.claims
    if token.header.alg not in issuer.algorithms:
        allowed = ", ".join(issuer.algorithms)
        raise TokenInvalidError(f"alg: {token.header.alg[:32]!r} is none of {allowed}")
    named = {claims.aud} if isinstance(claims.aud, str) else set(claims.aud)
    if named.isdisjoint(issuer.audience):
        wanted = " or ".join(map(repr, issuer.audience))
        raise TokenInvalidError(f"aud: the token is not for {wanted}")
    if now_s >= claims.exp + issuer.skew_s:
        raise TokenExpiredError(f"the token expired at {shown(round(claims.exp * 1000))}")
    for name, moment in (("nbf", claims.nbf), ("iat", claims.iat)):
        if moment is not None and moment > now_s + issuer.skew_s:
            at = shown(round(moment * 1000))
            raise TokenInvalidError(f"{name}: the token is good from {at}; compare the clocks")
    for wanted in issuer.required:
        name, equals, value = wanted.partition("=")
        found = found_at(token.all_claims, name)
        if found is None or (equals and value not in _words(found)):
            raise TokenInvalidError(f"{name}: the token needs this claim{equals}{value}")


def caller_of(token: Token, name: str, issuer: AuthConfig, roles: Roles) -> Caller:
    """Return whom a token stands for; `name` is its issuer's name in the configuration."""
    tenant = issuer.tenant if issuer.tenant_claim is None else _tenant_of(token, issuer)
    assert tenant is not None, "the configuration was checked"
    held = list(issuer.roles)
    if issuer.roles_claim is not None:
        there = _words(found_at(token.all_claims, issuer.roles_claim))
        names = issuer.role_names
        held += [names[role] for role in there if role in names] if names else there
    known = tuple(dict.fromkeys(role for role in held if role in roles))
    scopes = {*scopes_of(known, roles, tenant=tenant), *_scopes_in(token, issuer)}
    return Caller(
        key_id=f"{name}:{token.claims.sub}",
        tenant=tenant,
        scopes=(EVERYTHING,) if EVERYTHING in scopes else tuple(sorted(scopes)),
        roles=known,
        ends_ms=round((token.claims.exp + issuer.skew_s) * 1000),
    )


def found_at(claims: Mapping[str, Any], path: str) -> Any:  # noqa: ANN401 - any of JSON's types
    """Return the claim of that name (names may hold dots), or at the end of that path; or None."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for step in path.split("."):
        if not isinstance(found, dict):
            return None
        found = cast("dict[str, Any]", found).get(step)
    return found


def _tenant_of(token: Token, issuer: AuthConfig) -> str:
    assert issuer.tenant_claim is not None, "asked only then"
    found = _words(found_at(token.all_claims, issuer.tenant_claim))
    if len(found) != 1:
        raise TokenInvalidError(f"{issuer.tenant_claim}: expected the name of one tenant")
    [tenant] = found
    if tenant not in issuer.tenants or tenant == REGISTRY or not TENANT_NAME.fullmatch(tenant):
        raise TokenInvalidError(
            f"{issuer.tenant_claim}: this issuer may not speak for the tenant {tenant[:64]!r}"
        )
    return tenant


def _scopes_in(token: Token, issuer: AuthConfig) -> list[str]:
    """Return the scopes that a token names itself: known ones, one by one, never all at once."""
    if issuer.scopes_claim is None:
        return []
    prefix, known = issuer.scopes_prefix, {scope.value for scope in Scope}
    named = _words(found_at(token.all_claims, issuer.scopes_claim))
    return [bare for it in named if it.startswith(prefix) and (bare := it[len(prefix) :]) in known]


def _words(value: object) -> list[str]:
    """Return a claim as a list of texts: a list as it is, a text by its words, a fact by its name.

    Objects have none: their keys may be anything.
    """
    match value:
        case str():
            return value.split()[:ROLES_MAX]
        case bool():
            return [str(value).lower()]
        case int():
            return [str(value)]
        case list():
            every = cast("Sequence[object]", value)
            return [word for word in every if isinstance(word, str)][:ROLES_MAX]
        case _:
            return []


def _decoded(part: str, what: str) -> dict[str, Any]:
    """Decode one part of a token; a name that stands there twice makes it unreadable."""
    try:
        raw = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
        found = json.loads(raw, object_pairs_hook=_once, parse_constant=_refused)
    except (binascii.Error, ValueError, RecursionError):
        raise TokenInvalidError(f"the token's {what} can't be read") from None
    if not isinstance(found, dict):
        raise TokenInvalidError(f"the token's {what} is no object")
    return cast("dict[str, Any]", found)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs) or any(map(_is_endless, found.values())):
        raise ValueError
    return found


def _is_endless(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _refused(_: str) -> NoReturn:
    raise ValueError
