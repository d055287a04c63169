"""From which places a browser may ask, and what HTTP says about who asks.

Who is asking stands in `keyring.py` (keys) and `tokenring.py` (tokens).
"""

import ipaddress
import re
from collections.abc import Collection
from functools import lru_cache

from murmurate.core.errors import ForbiddenError, KeyInvalidError
from murmurate.gateway.tokens import TokenInvalidError

_SECRETS = {"access_token", "api_key"}
_CHALLENGE_CHARS_MAX = 300
LOOPBACK_NAMES = frozenset({"localhost", "ip6-localhost"})

PLACES_KEPT = 256
"""Hosts and origins that need not be taken apart again; most requests name the same one."""

_PLACE = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+?)\.?)(?::[0-9]{1,5})?")


def check_place(host: bytes | None, origin: bytes | None, names: Collection[str]) -> None:
    """Refuse a `Host` or `Origin` that a browser was tricked into (DNS rebinding, foreign pages).

    A host may be in `names`, of this machine, or a plain address: only names can be rebound. A page
    may come from the same host, from `names`, or from this machine.
    """
    asked = None if host is None else _name(host)
    if asked is not None and not (_is_ours(asked, names) or _address(asked)):
        raise ForbiddenError(f"Host {asked!r} is not allowed: add it to server.hosts")
    page = None if origin is None else _name(origin.partition(b"://")[2])
    if page is not None and not (_is_ours(page, names) or page == asked):
        raise ForbiddenError(f"Origin {page!r} is not allowed: add it to server.hosts")


def check_not_in_url(query: Collection[str]) -> None:
    """Refuse a secret in the URL, where RFC 6750 (2.3) once let it be: URLs are logged by all."""
    if not _SECRETS.isdisjoint(query):
        raise KeyInvalidError(
            "a key or token stands in the URL, where it is logged: take it for stolen, and"
            " send the header `Authorization: Bearer KEY`"
        )


def challenge(error: KeyInvalidError) -> bytes:
    """Return what `WWW-Authenticate` says (RFC 6750, 3): of a token also what is wrong with it."""
    if not isinstance(error, TokenInvalidError):
        return b"Bearer"
    said = "".join(it if it.isascii() and it.isprintable() else "?" for it in error.detail)
    said = said.replace("\\", "/").replace('"', "'")[:_CHALLENGE_CHARS_MAX]
    return f'Bearer error="invalid_token", error_description="{said}"'.encode()


def _is_ours(name: str, names: Collection[str]) -> bool:
    address = _address(name)
    loopback = address is not None and address.is_loopback
    return name in names or name in LOOPBACK_NAMES or loopback


@lru_cache(PLACES_KEPT)
def _name(place: bytes) -> str:
    """Return the name or address in `host:port`, without a dot at its end.

    What is anything more than that (`localhost:80@evil.example`) comes back whole: it is no name
    of ours, and stands in the error.
    """
    text = place.decode("latin-1").lower()
    found = _PLACE.fullmatch(text)
    return text[:100] if found is None else found[1] or found[2]


@lru_cache(PLACES_KEPT)
def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
