"""What may be reached: public addresses, what is allowed, and nothing that only looks like it."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from murmurate.core.errors import FetchRefusedError
from murmurate.core.reach import URL_CHARS_MAX, Reach, Target, is_public

PUBLIC = Reach()

HOSTILE = {
    # This machine, in all the ways in which somebody reads it so.
    "https://127.0.0.1/": "not an address of the public",
    "https://127.1/": "looks like an IPv4",
    "https://127.0.1/": "looks like an IPv4",
    "https://2130706433/": "looks like an IPv4",
    "https://0x7f000001/": "looks like an IPv4",
    "https://0x7f.0.0.1/": "looks like an IPv4",
    "https://127.0.0.0x1/": "looks like an IPv4",
    "https://0177.0.0.1/": "looks like an IPv4",
    "https://127.0.0.01/": "looks like an IPv4",
    "https://0/": "looks like an IPv4",
    "https://0.0.0.0/": "not an address of the public",
    "https://127.0.0.1./": "no name",
    "https://[::1]/": "not an address of the public",
    "https://[::]/": "not an address of the public",
    "https://[::ffff:127.0.0.1]/": "not an address of the public",
    "https://[::ffff:7f00:1]/": "not an address of the public",
    "https://[0:0:0:0:0:ffff:7f00:0001]/": "not an address of the public",
    "https://[::127.0.0.1]/": "not an address of the public",
    "https://[64:ff9b::127.0.0.1]/": "not an address of the public",
    "https://[64:ff9b::8.8.8.8]/": "not an address of the public",
    "https://[2002:7f00:1::]/": "not an address of the public",
    "https://[2001:0:7f00:1::]/": "not an address of the public",
    "https://１２７.０.０.１/": "plain ASCII",
    "https://127。0。0。1/": "plain ASCII",
    "https://ⓛocalhost/": "plain ASCII",
    # The clouds' metadata, and other things nearby.
    "http://169.254.169.254/latest/meta-data/": "not an address of the public",
    "http://2852039166/": "looks like an IPv4",
    "http://[::ffff:169.254.169.254]/": "not an address of the public",
    "http://[fe80::a9fe:a9fe]/": "not an address of the public",
    "http://[fe80::1%25eth0]/": "no valid host",
    "http://[fd00:ec2::254]/": "not an address of the public",
    "http://168.63.129.16/": "not an address of the public",
    "http://100.100.100.200/": "not an address of the public",
    "https://10.1.2.3/": "not an address of the public",
    "https://172.31.0.1/": "not an address of the public",
    "https://192.168.0.1/": "not an address of the public",
    "https://198.18.0.1/": "not an address of the public",
    "https://224.0.0.1/": "not an address of the public",
    "https://255.255.255.255/": "not an address of the public",
    "https://[ff02::1]/": "not an address of the public",
    # URLs that two readers take apart differently.
    "https://example.com@127.0.0.1/": "names a user",
    "https://127.0.0.1@example.com/": "names a user",
    "https://user:secret@example.com/": "names a user",
    "https://example.com\\@127.0.0.1/": "plain ASCII",
    "https:\\\\127.0.0.1/": "plain ASCII",
    "https://example.com\t.evil/": "plain ASCII",
    "https://example.com /": "plain ASCII",
    "https://exa\nmple.com/": "plain ASCII",
    "https://example.com%00.evil/": "no valid host",
    "https://%31%32%37.0.0.1/": "no valid host",
    "https://[::1]evil.com/": "no valid host",
    "https://[::1/": "not valid",
    "https://[::zz]/": "valid",
    "https://[1:2]/": "IPv6",
    "https:///path": "no valid host",
    "https://": "plain ASCII",
    "https:example.com": "plain ASCII",
    "//example.com/": "plain ASCII",
    "ftp://example.com/": "plain ASCII",
    "file:///etc/passwd": "plain ASCII",
    "gopher://127.0.0.1:70/": "plain ASCII",
    "https://münchen.example/": "plain ASCII",
    "https://example.com./": "no name",
    "https://.example.com/": "no name",
    "https://a..b/": "no name",
    "https://-a.example/": "no name",
    f"https://{'a' * 64}.example/": "no name",
    f"https://{'a.' * 130}example/": "no name",
    f"https://example.com/{'a' * URL_CHARS_MAX}": "longer than",
    # Ports.
    "https://example.com:22/": "port 22 is not allowed",
    "https://example.com:0/": "port 0 is not allowed",
    "https://example.com:65616/": "port 65616 is not allowed",
    "https://example.com:-1/": "no valid host",
    "https://example.com:443:80/": "no valid host",
}


@pytest.mark.parametrize(("url", "why"), HOSTILE.items())
def test_a_url_that_leads_where_it_must_not_is_refused(url: str, why: str) -> None:
    with pytest.raises(FetchRefusedError, match=why):
        PUBLIC.target(url)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://example.com", Target("https", "example.com", 443, "/", "")),
        ("HTTPS://EXAMPLE.com:/a/b?c=d#e", Target("https", "example.com", 443, "/a/b", "c=d")),
        ("http://xn--mnchen-3ya.example/x", Target("http", "xn--mnchen-3ya.example", 80, "/x", "")),
        ("https://a_b.example:80/%41", Target("https", "a_b.example", 80, "/%41", "")),
        ("https://1.1.1.1/", Target("https", "1.1.1.1", 443, "/", "")),
        ("https://[2606:4700:0::1111]/", Target("https", "2606:4700::1111", 443, "/", "")),
        ("https://0x7f.example/", Target("https", "0x7f.example", 443, "/", "")),
    ],
)
def test_a_plain_url_is_taken_apart_in_one_way(url: str, target: Target) -> None:
    assert PUBLIC.target(url) == target


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://example.com/secret?token=1", "https://example.com"),
        ("http://example.com:443/x", "http://example.com:443"),
        ("https://[2606:4700::1111]/x", "https://[2606:4700::1111]"),
    ],
)
def test_where_it_leads_is_said_without_what_may_be_secret(url: str, origin: str) -> None:
    assert PUBLIC.target(url).origin == origin


def test_what_is_allowed_is_reached_and_what_stands_for_something_else_needs_both() -> None:
    reach = Reach.of(["10.0.0.0/8", "::ffff:0:0/96", "64:ff9b::/96"], [443, 8443])
    assert reach.target("https://10.1.2.3:8443/").port == 8443
    assert reach.target("https://[::ffff:10.1.2.3]/").host == "::ffff:a01:203"
    assert reach.target("https://[64:ff9b::8.8.8.8]/").host == "64:ff9b::808:808"
    for url in ("https://[64:ff9b::127.0.0.1]/", "https://[::ffff:127.0.0.1]/", "https://11/"):
        with pytest.raises(FetchRefusedError):
            reach.target(url)
    assert Reach.of(["::1/128"], [443]).target("https://[::1]/").host == "::1"
    with pytest.raises(FetchRefusedError, match=r"outgoing\.ports has 443, 8443"):
        reach.target("http://10.1.2.3/")


@pytest.mark.parametrize("network", ["10.0.0.1/8", "nowhere", "10.0.0.0/33"])
def test_what_is_no_network_is_not_allowed_by_mistake(network: str) -> None:
    with pytest.raises(ValueError, match=network[:6]):
        Reach.of([network], [443])


@given(st.ip_addresses())
def test_nothing_is_public_that_the_standard_library_knows_as_not(
    address: IPv4Address | IPv6Address,
) -> None:
    if not address.is_global or address.is_multicast:
        assert not is_public(address)


@pytest.mark.parametrize("text", ["8.8.8.8", "1.1.1.1", "93.184.215.14", "2001:4860:4860::8888"])
def test_ordinary_addresses_are_public(text: str) -> None:
    assert is_public(ip_address(text))
