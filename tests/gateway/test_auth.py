"""Keys open by their hash; foreign places stay out."""

import msgspec
import pytest

from murmurate.core.errors import ForbiddenError, KeyInvalidError
from murmurate.core.types import Caller
from murmurate.gateway.auth import REGISTRY, KeyRecord, Keys, check_place, digest, entry_of

RECORD = KeyRecord("key_1", digest("mur_right"), "acme", ("chat",), 5)


def test_a_known_key_says_whose_it_is() -> None:
    keys = Keys([RECORD])
    caller = Caller("key_1", "acme", ("chat",))
    assert keys.caller(b"Bearer mur_right") == caller
    assert keys.caller(b"bearer  mur_right ") == caller


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (None, "no key"),
        (b"", "expected the header"),
        (b"Bearer", "expected the header"),
        (b"Basic mur_right", "expected the header"),
        (b"Bearer mur_wrong", "not known"),
        (b"Bearer \xff\xfe", "not known"),
    ],
)
def test_everything_else_is_refused_with_what_to_send(header: bytes | None, words: str) -> None:
    with pytest.raises(KeyInvalidError, match=words) as raised:
        Keys([RECORD]).caller(header)
    assert "mur_" not in raised.value.detail


def test_the_log_holds_the_hash_and_never_the_key() -> None:
    entry = entry_of(RECORD)
    assert (entry.tenant, entry.stream, entry.kind) == (REGISTRY, "key/key_1", "key.created")
    assert msgspec.json.decode(entry.body, type=KeyRecord) == RECORD
    assert b"mur_right" not in entry.body


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"localhost",
        b"LOCALHOST:8080",
        b"127.0.0.1:8080",
        b"192.168.7.7",
        b"[::1]:8080",
        b"[::1]",
        b"murmurate.example:443",
        b"http://localhost:3000",
        b"https://murmurate.example",
        b"http://[::1]:3000",
    ],
)
def test_own_names_loopback_and_addresses_may_ask(value: bytes | None) -> None:
    check_place(value, value, {"murmurate.example"})


@pytest.mark.parametrize(
    "value", [b"evil.example", b"evil.example:8080", b"localhost.evil.example", b"", b"[evil]:80"]
)
def test_a_foreign_host_is_refused(value: bytes) -> None:
    with pytest.raises(ForbiddenError, match=r"Host .* server\.hosts"):
        check_place(value, None, {"murmurate.example"})


@pytest.mark.parametrize("value", [b"null", b"https://evil.example", b"http://127.0.0.1.evil.com"])
def test_a_page_from_elsewhere_is_refused(value: bytes) -> None:
    with pytest.raises(ForbiddenError, match="Origin"):
        check_place(b"localhost", value, {"murmurate.example"})
