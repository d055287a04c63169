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
        b"localhost.",
        b"Murmurate.Example.:443",
        b"127.0.0.53",
    ],
)
def test_own_names_loopback_and_addresses_may_ask(value: bytes | None) -> None:
    check_place(value, None, {"murmurate.example"})


@pytest.mark.parametrize(
    "value",
    [
        b"http://localhost:3000",
        b"https://murmurate.example",
        b"HTTPS://MURMURATE.EXAMPLE:8443",
        b"http://[::1]:3000",
        b"http://127.0.0.1",
    ],
)
def test_a_page_from_here_may_ask(value: bytes) -> None:
    check_place(b"localhost:8080", value, {"murmurate.example"})


@pytest.mark.parametrize(
    "value",
    [
        b"evil.example",
        b"evil.example:8080",
        b"localhost.evil.example",
        b"",
        b".",
        b":8080",
        b"[evil]:80",
        b"[::1",
        b"[::1]evil.example",
        b"[::1%25eth0]",
        b"127.1",
        b"2130706433",
        b"0x7f.0.0.1",
        b"localhost..",
        b"localhost:evil.example",
        b"localhost:80@evil.example",
        b"localhost@evil.example",
        b"evil.example/://localhost",
        b"http://localhost",
        b"localhost evil.example",
        b"localhost, evil.example",
        b"l\xf6calhost",
    ],
)
def test_a_foreign_host_is_refused(value: bytes) -> None:
    with pytest.raises(ForbiddenError, match=r"Host .* server\.hosts"):
        check_place(value, None, {"murmurate.example"})


@pytest.mark.parametrize(
    "value",
    [
        b"null",
        b"NULL",
        b"",
        b"file://",
        b"https://evil.example",
        b"https://evil.example.",
        b"http://127.0.0.1.evil.com",
        b"http://localhost:80@evil.example",
        b"http://evil.example/http://localhost",
        b"localhost",
        b"http://192.168.7.7",
        b"http://[fe80::1]",
        b"chrome-extension://abcdef",
        b"http://localhost, http://evil.example",
    ],
)
def test_a_page_from_elsewhere_is_refused(value: bytes) -> None:
    with pytest.raises(ForbiddenError, match="Origin"):
        check_place(b"localhost", value, {"murmurate.example"})


@pytest.mark.parametrize("host", [b"192.168.7.7:8080", b"[fe80::1]:8080"])
def test_a_page_may_ask_the_address_it_comes_from(host: bytes) -> None:
    check_place(host, b"http://" + host, ())
    check_place(host, b"http://" + host.rpartition(b":")[0] + b":3000", ())


def test_a_host_that_was_rebound_is_refused_though_page_and_host_agree() -> None:
    with pytest.raises(ForbiddenError, match="Host"):
        check_place(b"evil.example:8080", b"http://evil.example:8080", ())
