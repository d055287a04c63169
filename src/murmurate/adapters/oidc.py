"""An issuer of tokens over OpenID Connect: where its keys are, and what they say of a signature.

What the configuration names is asked wherever it is; what the issuer's own answer names, on another
host, only where `[outgoing]` allows it. Redirects are not followed.
"""

import base64
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from murmurate.adapters.fetcher import HttpFetcher
from murmurate.adapters.remote import tls_context
from murmurate.config import AuthConfig, Remote
from murmurate.core.errors import FetchFailedError, FetchRefusedError, MissingPartError
from murmurate.core.fetch import Fetch, Fetched, Fetcher
from murmurate.core.reach import PORTS, Reach
from murmurate.gateway.issuers import IssuerUnreachableError
from murmurate.gateway.ports import Published

if TYPE_CHECKING:
    from jwt import PyJWK

DISCOVERY = "/.well-known/openid-configuration"
WHOLE_S = 5.0
"""For each of the two answers."""
BYTES_MAX = 256 * 1024
"""Large issuers publish 15 KB, certificates and all."""
KEYS_MAX = 64
RSA_BITS_MIN = 2048
KEPT_S_DEFAULT = 300.0
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
MISSING = "[auth] needs PyJWT with cryptography, not installed: pip install 'murmurate[oidc]'"

_MAX_AGE = re.compile(r"(?:^|[\s,])max-age=([0-9]{1,9})(?:$|[\s,])", re.IGNORECASE)
_KINDS = {
    ("RSA", None): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}
"""What keys of a type and curve can sign with. Shared secrets (`oct`) are none of them."""


class Metadata(msgspec.Struct, frozen=True):
    """What an issuer says of itself, as far as we need it."""

    issuer: str
    jwks_uri: str


class KeySet(msgspec.Struct, frozen=True):
    """The keys that an issuer publishes, each still to be looked at."""

    keys: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Key:
    """A public key of an issuer; two with the same source are the same."""

    id: str | None
    algorithms: frozenset[str]
    source: bytes
    by_algorithm: dict[str, "PyJWK"] = field(compare=False, repr=False)

    def signed(self, token: str, algorithm: str) -> bool:
        """Tell whether this token was signed with it; see `PublicKey`."""
        import jwt  # noqa: PLC0415 - an extra

        try:
            jwt.PyJWS(algorithms=[algorithm]).decode(
                token, self.by_algorithm[algorithm], algorithms=[algorithm]
            )
        except jwt.InvalidTokenError:
            return False
        return True


class OidcIssuer:
    """Asks an issuer for its keys; see the port `Issuer`."""

    def __init__(self, config: AuthConfig, *, outgoing: Fetcher, whole_s: float = WHOLE_S) -> None:
        """`outgoing` reaches what an answer names. `MissingPartError`: an extra is missing."""
        self._whole_s = whole_s
        self._config = config
        self._outgoing = outgoing
        self._read_key = _reader(frozenset(config.algorithms))
        self._own = configured_fetcher(config.issuer, config.jwks_url, ca_file=config.ca_file)

    async def published(self) -> Published:
        """Return its keys of now; see the port."""
        config = self._config
        jwks_url = config.jwks_url or await self._jwks_url()
        own = _origin(jwks_url) in {_origin(url) for url in (config.issuer, config.jwks_url) if url}
        fetched = await self._fetched(self._own if own else self._outgoing, jwks_url)
        try:
            found = msgspec.json.decode(fetched.body, type=KeySet).keys
        except UNREADABLE:
            raise IssuerUnreachableError(f"{jwks_url} has no set of keys (JWKS)") from None
        keys = tuple(key for raw in found[:KEYS_MAX] if (key := self._read_key(raw)) is not None)
        if not keys:
            wanted = ", ".join(config.algorithms)
            raise IssuerUnreachableError(f"{jwks_url} has no key for any of {wanted}")
        return Published(keys, _kept_s(fetched))

    async def close(self) -> None:
        """Forget look-ups that still wait."""
        await self._own.close()

    async def _jwks_url(self) -> str:
        """Return where the keys are. The issuer must say that it is who we took it for."""
        url = self._config.issuer.rstrip("/") + DISCOVERY
        fetched = await self._fetched(self._own, url)
        try:
            found = msgspec.json.decode(fetched.body, type=Metadata)
        except UNREADABLE:
            raise IssuerUnreachableError(f"{url} does not say where its keys are") from None
        if found.issuer != self._config.issuer:
            raise IssuerUnreachableError(
                f"{url} says that the issuer is {found.issuer[:200]!r}, which the configuration"
                f" calls {self._config.issuer!r}: write it in the same way"
            )
        try:
            scheme, _, _ = _origin(found.jwks_uri)
        except ValueError:
            scheme = ""
        if scheme != "https" and not (scheme == "http" and url.startswith("http:")):
            raise IssuerUnreachableError(f"{url} names keys that come without TLS, or no URL")
        return found.jwks_uri

    async def _fetched(self, fetcher: Fetcher, url: str) -> Fetched:
        try:
            fetch = Fetch(
                target=fetcher.target(url),
                headers={"Accept": "application/json"},
                whole_s=self._whole_s,
                bytes_max=BYTES_MAX,
            )
            fetched = await fetcher.fetch(fetch)
        except (FetchFailedError, FetchRefusedError) as cause:
            raise IssuerUnreachableError(f"{url}: {cause.detail}") from cause
        if fetched.status != 200:
            raise IssuerUnreachableError(f"{url} answers with status {fetched.status}")
        if fetched.cut:
            raise IssuerUnreachableError(f"{url} answers with more than {BYTES_MAX} bytes")
        return fetched


def configured_fetcher(*urls: str | None, ca_file: str | None = None) -> HttpFetcher:
    """Return a fetcher for URLs that the configuration names: at any address, on their ports."""
    ports = {parts.port or PORTS[parts.scheme] for url in urls if url for parts in [urlsplit(url)]}
    everywhere = (ip_network("0.0.0.0/0"), ip_network("::/0"))
    tls = tls_context(Remote("", ca_file=ca_file))
    return HttpFetcher(Reach(everywhere, tuple(ports)), tls=tls)


def _kept_s(fetched: Fetched) -> float:
    found = _MAX_AGE.search(fetched.headers.get("cache-control", ""))
    return float(found[1]) if found is not None else KEPT_S_DEFAULT


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or PORTS.get(parts.scheme)


def _reader(allowed: frozenset[str]) -> Callable[[dict[str, Any]], Key | None]:
    """Return what reads one published key; None for one that checks no token of ours."""
    try:
        import jwt  # noqa: PLC0415 - an extra
        import jwt.algorithms  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as cause:
        raise MissingPartError(MISSING) from cause
    if not jwt.algorithms.has_crypto:  # it would know shared secrets only
        raise MissingPartError(MISSING)

    def read(raw: dict[str, Any]) -> Key | None:
        algorithms = [it for it in _algorithms_of(raw) if it in allowed]
        try:
            made = {it: jwt.PyJWK(raw, algorithm=it) for it in algorithms}
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
            return None
        if not made or (raw["kty"] == "RSA" and _bits(raw) < RSA_BITS_MIN):
            return None
        key_id = raw.get("kid")
        source = msgspec.json.encode(raw, order="deterministic")
        return Key(key_id if isinstance(key_id, str) else None, frozenset(made), source, made)

    return read


def _algorithms_of(raw: dict[str, Any]) -> Sequence[str]:
    """Return how a published key may sign, by its kind and by what it says of itself."""
    if raw.get("use", "sig") != "sig":
        return ()
    kind, curve = raw.get("kty"), raw.get("crv")
    if not (isinstance(kind, str) and isinstance(curve, str | None)):
        return ()
    named = raw.get("alg")
    return [it for it in _KINDS.get((kind, curve), ()) if named is None or it == named]


def _bits(raw: dict[str, Any]) -> int:
    """Return how long an RSA key is: a short one can be broken."""
    modulus = raw["n"] + "=" * (-len(raw["n"]) % 4)
    return int.from_bytes(base64.urlsafe_b64decode(modulus)).bit_length()
