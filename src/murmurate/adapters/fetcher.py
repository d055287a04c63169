"""Fetches from the outside over aiohttp, at addresses that were checked and at no others.

A name is looked up once, by us; the connection goes to the very addresses that were judged, so a
name that changes between the two (DNS rebinding) changes nothing. TLS is still for the name.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from murmurate.adapters.remote import why_unreachable
from murmurate.core.errors import FetchFailedError, FetchRefusedError
from murmurate.core.fetch import Fetch, Fetched
from murmurate.core.reach import Reach, Target

LOOK_UPS_MAX = 4
"""Names looked up at a time, in threads of their own: a resolver may take a minute to give up."""
HEAD_LINE_BYTES_MAX = 8190

Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""Returns the addresses of a name; `OSError` where it has none."""


class HttpFetcher:
    """Fetches what `reach` allows. Every fetch has a connection of its own."""

    def __init__(
        self, reach: Reach, *, tls: ssl.SSLContext | None = None, resolve: Resolve | None = None
    ) -> None:
        """`tls` says what to trust (None: the system's); `resolve` how names are looked up."""
        self._reach = reach
        self._tls = tls
        self._threads = ThreadPoolExecutor(LOOK_UPS_MAX, thread_name_prefix="look-up")
        self._resolve = resolve or self._looked_up

    def target(self, url: str) -> Target:
        """Return where a URL leads; see `Fetcher`."""
        return self._reach.target(url)

    async def fetch(self, fetch: Fetch) -> Fetched:
        """Send the request and return the answer; see `Fetcher`."""
        target = fetch.target
        try:
            async with asyncio.timeout(fetch.whole_s):
                return await self._fetched(fetch, await self._addresses(target.host))
        except TimeoutError:
            raise FetchFailedError(
                f"{target.origin} did not answer within {fetch.whole_s:g} s"
            ) from None
        except (aiohttp.ClientError, OSError) as cause:
            raise FetchFailedError(
                f"{target.origin} cannot be fetched: {why_unreachable(cause)}"
            ) from cause
        except ValueError as cause:  # what aiohttp says of some broken answers
            raise FetchFailedError(f"{target.origin} answered no HTTP") from cause

    async def close(self) -> None:
        """Forget look-ups that still wait."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _addresses(self, host: str) -> list[str]:
        """Return the addresses to connect to. One that may not be reached refuses the whole name.

        A name that leads here and there may be somebody's try; and which one is used is chance.
        """
        try:
            found = [str(ip_address(host))]
        except ValueError:
            try:
                found = list(await self._resolve(host))
            except (OSError, UnicodeError):
                raise FetchFailedError(f"DNS: the name {host} is not known") from None
        if not found:
            raise FetchFailedError(f"DNS: the name {host} has no address")
        for address in found:
            try:
                self._reach.check(ip_address(address.partition("%")[0]))
            except FetchRefusedError as refusal:
                raise FetchRefusedError(f"{host}: {refusal.detail}") from None
        return found

    async def _fetched(self, fetch: Fetch, addresses: Sequence[str]) -> Fetched:
        target = fetch.target
        connector = aiohttp.TCPConnector(
            resolver=_Known(addresses),
            use_dns_cache=False,
            force_close=True,
            ssl=self._tls or True,
        )
        async with (
            aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,  # a few bytes can stand for gigabytes
                trust_env=False,
                max_line_size=HEAD_LINE_BYTES_MAX,
                max_field_size=HEAD_LINE_BYTES_MAX,
            ) as session,
            session.request(
                fetch.method,
                _url(target),
                data=fetch.body or None,
                headers={"Accept-Encoding": "identity", **fetch.headers},
                allow_redirects=False,
            ) as response,
        ):
            body, cut = await _read(response, fetch.bytes_max)
            response.close()  # whatever else would come
            headers = {name.lower(): value for name, value in response.headers.items()}
            return Fetched(response.status, headers, body, cut)

    async def _looked_up(self, host: str) -> Sequence[str]:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        )
        return list(dict.fromkeys(str(place[0]) for *_, place in found))


class _Known(AbstractResolver):
    """Resolves to the addresses that were checked, whatever it is asked."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        del family
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self._addresses
        ]

    async def close(self) -> None:
        """Nothing is held."""


def _url(target: Target) -> URL:
    """Return the URL for aiohttp from the parts that were checked, so that it parses nothing."""
    return URL.build(
        scheme=target.scheme,
        host=target.host,
        port=target.port,
        path=target.path,
        query_string=target.query,
        encoded=True,
    )


async def _read(response: aiohttp.ClientResponse, bytes_max: int) -> tuple[bytes, bool]:
    """Return the body up to its bound, and whether there was more."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > bytes_max:
            return bytes(body[:bytes_max]), True
    return bytes(body), False
