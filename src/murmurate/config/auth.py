"""The sections of who may come in by a token, and of what the names of roles stand for."""

from typing import Annotated

import msgspec
from msgspec import Meta

from murmurate.config.sections import Amount, Section

ALGORITHMS = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
)
"""Those with a public key. With `none` or a shared secret (HS256) anybody could sign."""


class AuthConfig(Section, frozen=True):
    """An issuer of tokens (OpenID Connect), such as a realm of Keycloak.

    A claim is named by itself, or by the path to it: `realm_access.roles`.
    """

    issuer: str
    """Its URL, exactly as its tokens have it in `iss`; its keys are found below it, at
    `/.well-known/openid-configuration`."""
    audience: Annotated[tuple[str, ...], Meta(min_length=1)]
    """Whom its tokens must be for: one of these must stand in their `aud`."""
    tenant: str | None = None
    """The tenant of all its tokens; this or `tenant_claim`."""
    tenant_claim: str | None = None
    """The claim that names a token's tenant; only one of `tenants` is believed."""
    tenants: tuple[str, ...] = ()
    """With `tenant_claim`: the tenants that its tokens may name."""
    roles: tuple[str, ...] = ()
    """Roles that every token of it has."""
    roles_claim: str | None = None
    """The claim with further roles, such as `realm_access.roles`: a list, or words."""
    role_names: dict[str, str] = msgspec.field(default_factory=dict)
    """What the values of `roles_claim` are called here: `{ staff = "user" }`; others are left out.
    [the same as there]"""
    scopes_claim: str | None = None
    """A claim with scopes, such as `scope`: a list, or words; unknown ones are left out."""
    scopes_prefix: str = ""
    """What scopes of ours begin with there, such as `murmurate:`; others are left out."""
    algorithms: Annotated[tuple[str, ...], Meta(min_length=1)] = ("RS256", "ES256", "EdDSA")
    """How its tokens may be signed; never with a shared secret."""
    required: tuple[str, ...] = ()
    """Claims that a token must have, with any value (`jti`) or with one (`azp=portal`)."""
    skew_s: Annotated[float, Meta(ge=0, le=600)] = 60.0
    """How far its clock and ours may be apart."""
    outage_s: Amount = 3600.0
    """How long its keys are trusted after it was last heard of; then its tokens get status 503."""
    jwks_url: str | None = None
    """Where its keys are, for an issuer that does not say. [asked of the issuer]"""
    ca_file: str | None = None
    """A file of certificates (PEM) to trust besides the system's, for the issuer's own host."""


class RoleConfig(Section, frozen=True):
    """A name for several scopes, to be given to keys and named by tokens and policies."""

    scopes: Annotated[tuple[str, ...], Meta(min_length=1)]
    """What it opens."""
