"""What the entries of a key's stream come to, and which secret of it is good when."""

import msgspec
import pytest

from murmurate.core.errors import LogCorruptError
from murmurate.core.types import Caller, Lane
from murmurate.gateway.keys import (
    CREATED,
    REGISTRY,
    REVOKED,
    ROTATED,
    Key,
    KeyRecord,
    Revocation,
    Rotation,
    Standing,
    digest,
    ends_ms,
    entry_of,
    folded,
    rate_of,
    refusal,
)
from murmurate.gateway.quota import Rate

RECORD = KeyRecord("key_1", digest("mur_first"), "acme", ("chat",), 5, expires_ms=1000)
DEFAULT = Rate(per_s=10.0, burst=60.0)


def fold(*bodies: tuple[str, msgspec.Struct]) -> Key:
    key: Key | None = None
    for seq, (kind, body) in enumerate(bodies, start=1):
        key = folded(key, seq=seq, kind=kind, body=msgspec.json.encode(body))
    assert key is not None
    return key


ROTATED_ONCE = fold(
    (CREATED, RECORD), (ROTATED, Rotation(digest("mur_second"), at_ms=100, old_until_ms=300))
)
ROTATED_TWICE = fold(
    (CREATED, RECORD),
    (ROTATED, Rotation(digest("mur_second"), at_ms=100, old_until_ms=900)),
    (ROTATED, Rotation(digest("mur_third"), at_ms=200, old_until_ms=400)),
)
WITHDRAWN = fold((CREATED, RECORD), (REVOKED, Revocation(200)))


def test_the_log_holds_the_hash_and_never_the_key() -> None:
    entry = entry_of(RECORD)
    assert (entry.tenant, entry.stream, entry.kind) == (REGISTRY, "key/key_1", CREATED)
    assert msgspec.json.decode(entry.body, type=KeyRecord) == RECORD
    assert b"mur_first" not in entry.body


def test_a_key_of_the_first_days_is_read_with_the_defaults_of_today() -> None:
    body = b'{"id":"key_1","sha256":"x","tenant":"default","scopes":["*"],"created_ms":5}'
    key = folded(None, seq=1, kind=CREATED, body=body)
    assert key.record == KeyRecord("key_1", "x", "default", ("*",), 5)
    assert key.caller == Caller("key_1", "default", ("*",), Lane.URGENT)
    assert key.standing(10**15) is Standing.ACTIVE


@pytest.mark.parametrize(
    ("key", "secret", "now_ms", "code"),
    [
        (fold((CREATED, RECORD)), "mur_first", 999, None),
        (fold((CREATED, RECORD)), "mur_first", 1000, "key.expired"),
        (ROTATED_ONCE, "mur_second", 100, None),
        (ROTATED_ONCE, "mur_first", 299, None),
        (ROTATED_ONCE, "mur_first", 300, "key.replaced"),
        (ROTATED_ONCE, "mur_second", 1000, "key.expired"),
        (ROTATED_TWICE, "mur_third", 999, None),
        (ROTATED_TWICE, "mur_second", 399, None),
        (ROTATED_TWICE, "mur_second", 400, "key.replaced"),
        (ROTATED_TWICE, "mur_first", 201, "key.replaced"),
        (WITHDRAWN, "mur_first", 200, "key.revoked"),
        (WITHDRAWN, "mur_first", 5000, "key.revoked"),
    ],
)
def test_a_secret_is_good_or_refused_with_why(
    key: Key, secret: str, now_ms: int, code: str | None
) -> None:
    error = refusal(key, digest(secret), now_ms)
    assert (error.code if error else None) == code
    assert error is None or "mur_" not in error.detail


@pytest.mark.parametrize(
    ("key", "secret", "end_ms"),
    [
        (fold((CREATED, RECORD)), "mur_first", 1000),
        (ROTATED_ONCE, "mur_first", 300),
        (ROTATED_ONCE, "mur_second", 1000),
        (Key(msgspec.structs.replace(RECORD, expires_ms=None), 1), "mur_first", None),
    ],
)
def test_a_secret_ends_by_itself_at_its_earliest_end(
    key: Key, secret: str, end_ms: int | None
) -> None:
    assert ends_ms(key, digest(secret)) == end_ms


def test_a_key_ended_when_it_was_revoked_or_else_when_it_expired() -> None:
    assert fold((CREATED, RECORD)).ended_ms(999) is None
    assert fold((CREATED, RECORD)).ended_ms(2000) == 1000
    assert WITHDRAWN.ended_ms(2000) == 200


def test_an_entry_that_was_seen_changes_nothing() -> None:
    body = msgspec.json.encode(Revocation(1))
    assert folded(ROTATED_ONCE, seq=2, kind=REVOKED, body=body) is ROTATED_ONCE


@pytest.mark.parametrize(
    ("key", "kind", "body"),
    [
        (None, REVOKED, b'{"at_ms":1}'),
        (None, CREATED, b'{"id": 1}'),
        (None, CREATED, b"\xff"),
        (ROTATED_ONCE, CREATED, msgspec.json.encode(RECORD)),
        (ROTATED_ONCE, ROTATED, b"{}"),
        (ROTATED_ONCE, "key.suspended", b"{}"),
    ],
)
def test_what_makes_no_sense_is_never_passed_over(key: Key | None, kind: str, body: bytes) -> None:
    with pytest.raises(LogCorruptError):
        folded(key, seq=3, kind=kind, body=body)


@pytest.mark.parametrize(
    ("per_minute", "burst", "expected"),
    [
        (None, None, DEFAULT),
        (None, 5, Rate(10.0, 5)),
        (60.0, 5, Rate(1.0, 5)),
        (6.0, None, Rate(0.1, 6.0)),
        (0.5, None, Rate(0.5 / 60, 1.0)),
        (6000.0, None, Rate(100.0, 60.0)),
    ],
)
def test_a_keys_own_rate_stands_before_the_servers(
    per_minute: float | None, burst: int | None, expected: Rate
) -> None:
    record = msgspec.structs.replace(RECORD, requests_per_minute=per_minute, burst=burst)
    assert rate_of(Key(record, 1), DEFAULT) == expected
