"""How to reach a server that the configuration names: TLS, proxy, headers; what a failure means.

Proxies of the environment are not used: only what the configuration says sees prompts and keys.
"""

import asyncio
import math
import ssl
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Protocol

import aiohttp

from murmurate.adapters.anthropic_wire import VERSION
from murmurate.adapters.openai_wire import UpstreamError, decode_error
from murmurate.config import Dialect, Remote
from murmurate.core.errors import ConfigError

KEEPALIVE_S = 4.0
"""llama.cpp and uvicorn hang up after 5 s; a connection must not be reused in that moment."""

RETRY_AFTER_S_MAX = 60.0


def open_session(
    remote: Remote, *, connector: aiohttp.BaseConnector, connect_s: float, accept: str
) -> aiohttp.ClientSession:
    """Return a session that sends this server's key and headers. Call it inside the event loop."""
    return aiohttp.ClientSession(
        connector=connector,
        headers=headers_for(remote, accept=accept),
        proxy=remote.proxy,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_s),
    )


def headers_for(remote: Remote, *, accept: str) -> dict[str, str]:
    """Return what each request carries: this server's key and headers."""
    headers = {"Content-Type": "application/json", "Accept": accept, **remote.headers}
    if remote.dialect is Dialect.ANTHROPIC:
        headers["anthropic-version"] = VERSION
    if remote.key is not None:
        is_openai = remote.dialect is Dialect.OPENAI
        name, value = ("Authorization", "Bearer ") if is_openai else ("x-api-key", "")
        headers[name] = f"{value}{remote.key}"
    return headers


def connector_to(tls: ssl.SSLContext | None, *, connections_max: int = 0) -> aiohttp.TCPConnector:
    """Return a pool of connections; with 0 it has no bound of its own."""
    return aiohttp.TCPConnector(
        limit=connections_max, keepalive_timeout=KEEPALIVE_S, ssl=tls or True
    )


def tls_context(remote: Remote) -> ssl.SSLContext | None:
    """Return what to trust: the system's certificates, and those of `ca_file` besides.

    None: nothing but the system's. `ConfigError` when the file can't be used.
    """
    if remote.ca_file is None:
        return None
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(cafile=remote.ca_file)
    except ssl.SSLError as cause:
        raise ConfigError(f"ca_file = {remote.ca_file!r}: it has no certificate (PEM)") from cause
    except OSError as cause:
        raise ConfigError(f"ca_file = {remote.ca_file!r}: {cause.strerror}") from cause
    return context


def why_unreachable(cause: BaseException) -> str:
    """Return in a few words at which step the way to a server ended."""
    match cause:
        case aiohttp.ClientProxyConnectionError():
            return "the proxy does not answer"
        case aiohttp.ClientHttpProxyError():
            return f"the proxy refuses: {cause.status}"
        case aiohttp.ClientConnectorCertificateError():
            error = cause.certificate_error
            said = getattr(error, "verify_message", "") or str(error)
            return f"TLS: its certificate is not trusted: {said}"
        case aiohttp.ClientSSLError():
            return "TLS: no agreement; is it https, and the port right?"
        case aiohttp.ClientConnectorDNSError():
            return "DNS: its name is not known"
        case aiohttp.ConnectionTimeoutError() | TimeoutError():
            return "no connection in time"
        case aiohttp.ClientConnectorError():
            return f"no connection: {cause.os_error.strerror or 'failed'}"
        case _:
            return type(cause).__name__


class Body(Protocol):
    """The body of an answer, as it comes."""

    async def read(self, n: int, /) -> bytes:
        """Return what is there, at most so much; nothing at the end."""
        ...


async def refusal_of(body: Body, *, bytes_max: int, seconds: float) -> bytes:
    """Return the whole body of a refusal, or nothing of it.

    What is cut somewhere could end in the middle of a secret that it repeats, and nobody would
    know it again.
    """
    pieces: list[bytes] = []
    try:
        async with asyncio.timeout(seconds):
            while piece := await body.read(bytes_max):
                pieces.append(piece)
                if sum(map(len, pieces)) > bytes_max:
                    return b""
    except (aiohttp.ClientError, TimeoutError):
        return b""
    return b"".join(pieces)


def said_by(remote: Remote, body: bytes) -> UpstreamError:
    """Return what a refusal says, without the secrets that it may repeat."""
    return decode_error(remote.redacted(body.decode(errors="replace")).encode())


def retry_after_s(headers: Mapping[str, str], *, unix_ms: int, default_s: float = 1.0) -> float:
    """Return for how long a server asks to be left alone, in seconds or by a date; bounded."""
    text = headers.get("Retry-After", "").strip()
    wait_s = _seconds(text)
    if wait_s is None:
        try:
            wait_s = parsedate_to_datetime(text).timestamp() - unix_ms / 1000
        except (ValueError, OverflowError):
            return default_s
    return min(max(wait_s, 0.0), RETRY_AFTER_S_MAX)


def _seconds(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
