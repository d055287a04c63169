"""Foreign places stay out."""

import pytest

from murmurate.core.errors import ForbiddenError
from murmurate.gateway.auth import check_place


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
