"""Who is asking: keys by their hash, and from which places a browser may ask."""

import hashlib
import ipaddress
import re
from collections.abc import Collection, Mapping

import msgspec

from murmurate.core.errors import ForbiddenError, KeyInvalidError
from murmurate.core.ports import Entry
from murmurate.core.types import Caller, Frozen

KIND = "key.created"
REGISTRY = "system"
"""The tenant that owns the streams of keys: a key must be found before its tenant is known."""
LOOPBACK_NAMES = frozenset({"localhost", "ip6-localhost"})

_PLACE = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+?)\.?)(?::[0-9]{1,5})?")


class KeyRecord(Frozen, frozen=True):
    """A key as the log keeps it: only its hash, so a stolen log opens nothing."""

    id: str
    sha256: str
    tenant: str
    scopes: tuple[str, ...]
    created_ms: int


def digest(secret: str) -> str:
    """Return the hash of a key. Keys carry 160 random bits, so a fast hash is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()


def entry_of(record: KeyRecord) -> Entry:
    """Return the log entry of a key."""
    return Entry(REGISTRY, f"key/{record.id}", KIND, msgspec.json.encode(record))


class Keys:
    """The keys that are valid now."""

    def __init__(self, records: Collection[KeyRecord]) -> None:
        self._callers: Mapping[str, Caller] = {
            record.sha256: Caller(record.id, record.tenant, record.scopes) for record in records
        }

    def caller(self, authorization: bytes | None) -> Caller:
        """Return whom the `Authorization` header belongs to.

        Looking up a hash takes the same time for every wrong key, so nothing is learned from it.
        """
        if authorization is None:
            raise KeyInvalidError("no key: send the header `Authorization: Bearer KEY`")
        scheme, _, secret = authorization.decode("latin-1").partition(" ")
        if scheme.lower() != "bearer" or not secret:
            raise KeyInvalidError("expected the header `Authorization: Bearer KEY`")
        caller = self._callers.get(digest(secret.strip()))
        if caller is None:
            raise KeyInvalidError("this key is not known here")
        return caller


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


def _name(place: bytes) -> str:
    """Return the name or address in `host:port`, without a dot at its end.

    What is anything more than that (`localhost:80@evil.example`) comes back whole: it is no name
    of ours, and stands in the error.
    """
    text = place.decode("latin-1").lower()
    found = _PLACE.fullmatch(text)
    return text[:100] if found is None else found[1] or found[2]


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
