"""Which URLs and addresses may be reached for somebody who only named them. Pure.

A client that names a URL must not reach with it what only this machine can: its own services, the
private network, the cloud's metadata. So an address is public, or the configuration allows it, or
it is refused; a name is judged by every address that it has, when it is connected to.
"""

import re
from collections.abc import Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from urllib.parse import SplitResult, urlsplit

from murmurate.core.errors import FetchRefusedError
from murmurate.core.types import Frozen

URL_CHARS_MAX = 2048
HOST_CHARS_MAX = 253
PORTS = {"http": 80, "https": 443}

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_REFUSED = tuple(
    ip_network(network)
    for network in (
        # https://www.iana.org/assignments/iana-ipv4-special-registry, and what is for many at once.
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",
        # A public address that is the host itself on one cloud: Azure's wire server.
        "168.63.129.16/32",
        # https://www.iana.org/assignments/iana-ipv6-special-registry, within the global unicast.
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "2620:4f:8000::/48",
        "3fff::/20",
    )
)
_GLOBAL_V6 = IPv6Network("2000::/3")
_WITH_V4_BEHIND = (
    (IPv6Network("::/96"), 0),
    (IPv6Network("::ffff:0:0/96"), 0),
    (IPv6Network("::ffff:0:0:0/96"), 0),
    (IPv6Network("64:ff9b::/96"), 0),
    (IPv6Network("64:ff9b:1::/48"), 0),
    (IPv6Network("2002::/16"), 80),
)
"""Networks whose addresses lead to an IPv4 address, and by how many bits that is shifted."""

_URL = re.compile(r"https?://[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+", re.IGNORECASE)
_PLACE = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9_.-]+))(?::([0-9]{0,5}))?")
"""Host and port, or an address in brackets: the whole of what may stand between // and /."""
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")


class Target(Frozen, frozen=True):
    """A URL taken apart, in the one way in which it is going to be used."""

    scheme: str
    host: str
    """A name, or an address without brackets."""
    port: int
    path: str
    query: str

    @property
    def origin(self) -> str:
        """Where it leads, without the path, which may hold a secret."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}"

    @property
    def address(self) -> Address | None:
        """The address that the URL itself names; None where it names a host by name."""
        try:
            return ip_address(self.host)
        except ValueError:
            return None


class Reach(Frozen, frozen=True):
    """What may be reached besides the public Internet, and on which ports."""

    allow: tuple[Network, ...] = ()
    ports: tuple[int, ...] = (80, 443)

    @classmethod
    def of(cls, allow: Sequence[str], ports: Sequence[int]) -> "Reach":
        """Return it from what a configuration says. `ValueError`: one is no network."""
        return cls(tuple(ip_network(network) for network in allow), tuple(ports))

    def target(self, url: str) -> Target:
        """Return where a URL leads, or `FetchRefusedError`. A name is not looked up yet."""
        parts = _parts(url)
        scheme = parts.scheme.lower()
        host, port = _place(parts.netloc, PORTS[scheme])
        target = Target(scheme, host, port, parts.path or "/", parts.query)
        if target.port not in self.ports:
            allowed = ", ".join(map(str, self.ports))
            raise FetchRefusedError(
                f"port {target.port} is not allowed; outgoing.ports has {allowed}"
            )
        if target.address is not None:
            self.check(target.address)
        return target

    def check(self, address: Address) -> None:
        """Refuse an address that is neither public nor allowed: `FetchRefusedError`."""
        behind = _behind(address)
        if not self._reaches(address) or (behind is not None and not self._reaches(behind)):
            raise FetchRefusedError(
                f"{address} is not an address of the public Internet, and outgoing.allow has no"
                " network that it is in"
            )

    def _reaches(self, address: Address) -> bool:
        return is_public(address) or any(_within(address, network) for network in self.allow)


def is_public(address: Address) -> bool:
    """Tell whether an address is one that the whole Internet reaches, and that is only there."""
    if isinstance(address, IPv6Address) and (address not in _GLOBAL_V6 or address.scope_id):
        return False
    return not any(_within(address, network) for network in _REFUSED)


def _within(address: Address, network: Network) -> bool:
    return address.version == network.version and address in network


def _behind(address: Address) -> IPv4Address | None:
    """Return the IPv4 address that an IPv6 address stands for."""
    if isinstance(address, IPv6Address) and not (address.is_loopback or address.is_unspecified):
        for network, shift in _WITH_V4_BEHIND:
            if address in network:
                return IPv4Address(int(address) >> shift & 0xFFFFFFFF)
    return None


def _parts(url: str) -> SplitResult:
    """Take a URL apart that no two readers can understand differently."""
    if len(url) > URL_CHARS_MAX:
        raise FetchRefusedError(f"the URL is longer than {URL_CHARS_MAX} characters")
    if not _URL.fullmatch(url):
        raise FetchRefusedError(
            "expected https://HOST/PATH in plain ASCII; a name in another script as xn--…"
        )
    try:
        return urlsplit(url)
    except ValueError as cause:
        raise FetchRefusedError(f"the URL is not valid: {cause}") from None


def _place(netloc: str, port: int) -> tuple[str, int]:
    """Return host and port of a URL; `port` is that of its scheme."""
    if "@" in netloc:
        raise FetchRefusedError("the URL names a user; expected https://HOST/PATH")
    found = _PLACE.fullmatch(netloc)
    if found is None:
        raise FetchRefusedError(f"the URL has no valid host: {netloc[:100]!r}")
    in_brackets, name, given = found.groups()
    host = _name(name) if in_brackets is None else _address(in_brackets)
    return host, int(given) if given else port


def _address(text: str) -> str:
    try:
        return str(IPv6Address(text))
    except ValueError:
        raise FetchRefusedError(f"the URL's host is no IPv6 address: {text[:100]!r}") from None


def _name(text: str) -> str:
    """Return a host's name or its IPv4 address, in the only form in which either may be written."""
    labels = text.split(".")
    if len(text) > HOST_CHARS_MAX or not all(map(_LABEL.fullmatch, labels)):
        raise FetchRefusedError(f"the URL's host is no name: {text[:100]!r}")
    if _NUMBER.fullmatch(labels[-1]):  # whatever ends in a number, somebody reads as IPv4
        try:
            return str(IPv4Address(text))
        except ValueError:
            raise FetchRefusedError(
                f"the URL's host looks like an IPv4 address and is none: {text!r}"
            ) from None
    return text.lower()
