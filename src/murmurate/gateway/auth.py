"""From which places a browser may ask. Who is asking stands in `keyring.py`."""

import ipaddress
import re
from collections.abc import Collection
from functools import lru_cache

from murmurate.core.errors import ForbiddenError

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
