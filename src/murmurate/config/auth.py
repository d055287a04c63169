"""The sections of who may come in by a token, what roles stand for, and who may do what."""

from enum import StrEnum
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


class Effect(StrEnum):
    """What a policy says."""

    ALLOW = "allow"
    DENY = "deny"


class PolicyRule(Section, frozen=True):
    """One rule: it holds where all that it names fits."""

    effect: Effect
    """`allow` or `deny`."""
    roles: tuple[str, ...] = ()
    """The caller has one of these roles. [any]"""
    tenants: tuple[str, ...] = ()
    """The caller is of one of these tenants. [any]"""
    scopes: tuple[str, ...] = ()
    """The route needs one of these scopes. [any]"""
    routes: tuple[str, ...] = ()
    """It is one of these routes, `*` for anything: `POST /v1/*`, `GET /api/runs/{id}`. [any]"""
    models: tuple[str, ...] = ()
    """One of these agents or models is asked for, `*` for anything: `gpt-*`. [any, or none]"""
    reason: str = ""
    """What somebody who is denied is told."""


class PolicyConfig(Section, frozen=True):
    """Who may do what, besides scopes: these can only be narrowed here.

    The first rule that fits decides; where none does, the policy server, or `default`.
    """

    default: Effect = Effect.ALLOW
    """What holds where no rule fits and there is no policy server."""
    rules: tuple[PolicyRule, ...] = ()
    """The rules, each as `[[policy.rules]]`."""
    opa_url: str | None = None
    """The decision of an Open Policy Agent: `http://127.0.0.1:8181/v1/data/murmurate/allow`."""
    opa_key: str | None = None
    """A reference to the token that it wants, `env:NAME` or `file:PATH`."""
    opa_ca_file: str | None = None
    """A file of certificates (PEM) to trust besides the system's."""
    opa_s: Annotated[float, Meta(gt=0, le=60)] = 1.0
    """How long it may take; then the request gets status 503."""
    opa_kept_s: Annotated[float, Meta(ge=0, le=300)] = 5.0
    """How long its answers count; a change of its policies holds after that."""
