"""A key: what the log says of it, and what follows from that at a given time. Pure."""

import hashlib
from enum import StrEnum
from typing import TypeVar

import msgspec

from murmurate.core.errors import (
    KeyExpiredError,
    KeyInvalidError,
    KeyReplacedError,
    KeyRevokedError,
    LogCorruptError,
)
from murmurate.core.ports import Entry
from murmurate.core.types import Caller, Frozen, Lane
from murmurate.gateway.quota import Rate
from murmurate.gateway.scopes import Scope, rights
from murmurate.gateway.times import shown

REGISTRY = "system"
"""The tenant that owns the streams of keys: a key must be found before its tenant is known."""
CREATED = "key.created"
ROTATED = "key.rotated"
REVOKED = "key.revoked"
FORGOTTEN = "key.forgotten"
"""Of an audit entry only: the stream of an ended key was deleted."""

_T = TypeVar("_T")


class KeyRecord(Frozen, frozen=True):
    """A key as it was created: only its hash, so a stolen log opens nothing.

    `lane` is where its requests wait when they don't say; a rate of None is the server's own.
    """

    id: str
    sha256: str
    tenant: str
    scopes: tuple[str, ...]
    created_ms: int
    label: str = ""
    expires_ms: int | None = None
    lane: Lane = Lane.URGENT
    requests_per_minute: float | None = None
    burst: int | None = None
    roles: tuple[str, ...] = ()
    """What it was made as; what they opened then stands in `scopes`."""


class Rotation(Frozen, frozen=True):
    """The key got a new secret; the old one is good until `old_until_ms`."""

    sha256: str
    at_ms: int
    old_until_ms: int


class Revocation(Frozen, frozen=True):
    """The key was withdrawn, with all its secrets."""

    at_ms: int


class Standing(StrEnum):
    """Whether a key opens anything."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


class Key(Frozen, frozen=True):
    """What the first `seq` entries of its stream come to."""

    record: KeyRecord
    seq: int
    rotation: Rotation | None = None
    old_sha256: str | None = None
    revoked_ms: int | None = None

    @property
    def sha256(self) -> str:
        """The hash of the secret that is good now."""
        return self.record.sha256 if self.rotation is None else self.rotation.sha256

    @property
    def caller(self) -> Caller:
        """Whom a request with this key comes from."""
        record = self.record
        return Caller(record.id, record.tenant, record.scopes, record.lane, record.roles)

    @property
    def rights(self) -> frozenset[Scope]:
        """What its scopes amount to."""
        return rights(self.record.tenant, self.record.scopes)

    def ended_ms(self, now_ms: int) -> int | None:
        """Return when it ended; None while it opens something."""
        if self.standing(now_ms) is Standing.ACTIVE:
            return None
        return self.record.expires_ms if self.revoked_ms is None else self.revoked_ms

    def standing(self, now_ms: int) -> Standing:
        """Return whether it opens anything now."""
        if self.revoked_ms is not None:
            return Standing.REVOKED
        expires_ms = self.record.expires_ms
        expired = expires_ms is not None and now_ms >= expires_ms
        return Standing.EXPIRED if expired else Standing.ACTIVE


def bearer(caller: Caller) -> Key:
    """Return a key that may do what a token's bearer may; no secret is its own, and none opens it.

    It has no end: a token's end is not that of its bearer's rights, so the keys that one makes may
    outlive the token.
    """
    record = KeyRecord(caller.key_id, "", caller.tenant, caller.scopes, 0, roles=caller.roles)
    return Key(record, 0)


def digest(secret: str) -> str:
    """Return the hash of a key. Keys carry 160 random bits, so a fast hash is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()


def stream_of(key_id: str) -> str:
    """Return the stream that holds a key."""
    return f"key/{key_id}"


def entry_of(record: KeyRecord) -> Entry:
    """Return the log entry that creates a key."""
    return Entry(REGISTRY, stream_of(record.id), CREATED, msgspec.json.encode(record))


def folded(key: Key | None, *, seq: int, kind: str, body: bytes) -> Key:
    """Return the key after one more entry of its stream; one that it has seen changes nothing.

    What can't be read, or is of a kind that this version does not know, is a `LogCorruptError`: to
    leave it out could open what somebody has closed.
    """
    if key is not None and seq <= key.seq:
        return key
    if key is None and kind == CREATED:
        return Key(_decoded(body, KeyRecord, kind), seq)
    if key is not None and kind == ROTATED:
        rotation = _decoded(body, Rotation, kind)
        return msgspec.structs.replace(key, seq=seq, rotation=rotation, old_sha256=key.sha256)
    if key is not None and kind == REVOKED:
        revoked_ms = _decoded(body, Revocation, kind).at_ms
        return msgspec.structs.replace(key, seq=seq, revoked_ms=revoked_ms)
    where = "an unknown key" if key is None else f"key {key.record.id}"
    raise LogCorruptError(
        f"entry {seq} of {where} is {kind[:64]!r}, which makes no sense there: upgrade, or restore "
        "a backup"
    )


def refusal(key: Key, sha256: str, now_ms: int) -> KeyInvalidError | None:
    """Return why this secret of the key opens nothing now; None when it does.

    Only whoever holds the secret can ask, so the reason tells nobody anything new.
    """
    match key.standing(now_ms):
        case Standing.REVOKED:
            return KeyRevokedError("this key was revoked: ask for a new one")
        case Standing.EXPIRED:
            at = shown(key.record.expires_ms or 0)
            return KeyExpiredError(f"this key expired at {at}: ask for a new one")
        case Standing.ACTIVE:
            rotation = key.rotation
            if rotation is None or sha256 == key.sha256:
                return None
            if sha256 == key.old_sha256 and now_ms < rotation.old_until_ms:
                return None
            at = shown(rotation.at_ms)
            return KeyReplacedError(f"this key got a new secret at {at}: use that one")


def ends_ms(key: Key, sha256: str) -> int | None:
    """Return when this secret of the key stops by itself; None: never."""
    ends = [key.record.expires_ms]
    if key.rotation is not None and sha256 != key.sha256:
        ends.append(key.rotation.old_until_ms)
    return min((end for end in ends if end is not None), default=None)


def rate_of(key: Key, default: Rate) -> Rate:
    """Return how fast a key may ask; without a burst of its own, at most a minute's worth."""
    record = key.record
    if record.requests_per_minute is None:
        return Rate(default.per_s, record.burst or default.burst)
    burst = record.burst or max(1.0, min(default.burst, record.requests_per_minute))
    return Rate(record.requests_per_minute / 60, burst)


def _decoded(body: bytes, kind: type[_T], entry_kind: str) -> _T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as cause:
        raise LogCorruptError(f"an entry {entry_kind!r} of a key can't be read: {cause}") from cause
