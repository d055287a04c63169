"""Asks whoever decides on access: the issuers of tokens and the policy server."""

import time
from ipaddress import ip_address
from urllib.parse import urlsplit

from murmurate.adapters.fetcher import HttpFetcher
from murmurate.adapters.oidc import OidcIssuer, configured_fetcher
from murmurate.cli.findings import Finding
from murmurate.compose import policy_server
from murmurate.config import AuthConfig, Config, PolicyConfig
from murmurate.core.clock import SystemClock
from murmurate.core.errors import MurmurateError
from murmurate.core.reach import Reach
from murmurate.core.types import Caller
from murmurate.gateway.policy import CHAT
from murmurate.gateway.ports import Resource
from murmurate.gateway.roles import check_issuers, roles_of

NOBODY = Caller("doctor", "default", ())


def check_roles(config: Config) -> list[Finding]:
    """Say whether all roles that tokens may bring are there; nothing where none is named."""
    try:
        check_issuers(config.auth, roles_of(config.roles))
    except MurmurateError as error:
        return [Finding("roles", "fail", error.detail, "correct this key")]
    return []


async def check_issuer(name: str, issuer: AuthConfig, config: Config) -> Finding:
    """Say whether an issuer publishes keys that its tokens can be checked with."""
    about = f"issuer {name}"
    reach = Reach.of(config.outgoing.allow, config.outgoing.ports)
    began_s = time.perf_counter()
    try:
        found = await OidcIssuer(issuer, outgoing=HttpFetcher(reach)).published()
    except MurmurateError as error:
        return Finding(about, "fail", error.detail, f"check auth.{name}; is the issuer up?")
    ms = (time.perf_counter() - began_s) * 1000
    kinds = ", ".join(sorted({kind for key in found.keys for kind in key.algorithms}))
    detail = f"{issuer.issuer}, {len(found.keys)} keys for {kinds}"
    if _is_open(issuer.issuer):
        advice = "who is between could sign tokens: use https"
        return Finding(about, "warn", f"{detail}, without TLS", advice, ms)
    return Finding(about, "ok", detail, ms=ms)


async def check_policy(policy: PolicyConfig) -> Finding:
    """Say whether the policy server decides, about a caller without roles."""
    clock = SystemClock()
    fetcher = configured_fetcher(policy.opa_url, ca_file=policy.opa_ca_file)
    server = policy_server(policy, fetcher, clock=clock)
    assert server is not None, "asked only where there is one"
    began_s = time.perf_counter()
    try:
        decision = await server.decide(NOBODY, CHAT, Resource())
    except MurmurateError as error:
        return Finding("policy", "fail", error.detail, "check policy.opa_url; is the server up?")
    ms = (time.perf_counter() - began_s) * 1000
    may = "may" if decision.allowed else "may not"
    return Finding("policy", "ok", f"{policy.opa_url}: who has no role {may} chat", ms=ms)


def _is_open(url: str) -> bool:
    """Tell whether what is said there can be changed on its way."""
    parts = urlsplit(url)
    try:
        here = ip_address(parts.hostname or "").is_loopback
    except ValueError:
        here = parts.hostname == "localhost"
    return parts.scheme != "https" and not here
