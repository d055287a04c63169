"""The port behind every fetch of a URL that a client or a document names.

It reaches what `core/reach.py` allows, and nothing else, whatever names resolve to and whatever an
answer says: it follows no redirects, uses no proxy, keeps no cookies, and reads no more than asked.
"""

from collections.abc import Mapping
from typing import Protocol

from murmurate.core.reach import Target
from murmurate.core.types import Frozen


class Fetch(Frozen, frozen=True, kw_only=True):
    """One request to the outside. `whole_s` is the time for all of it, from the name's look-up."""

    target: Target
    method: str = "GET"
    headers: Mapping[str, str] = {}
    body: bytes = b""
    whole_s: float = 10.0
    bytes_max: int = 64 * 1024


class Fetched(Frozen, frozen=True):
    """What came back. `body` ends at `bytes_max`, and is `cut` when there was more."""

    status: int
    headers: Mapping[str, str]
    """Names in small letters; of several with one name the last."""
    body: bytes
    cut: bool = False


class Fetcher(Protocol):
    """Fetches from the outside."""

    def target(self, url: str) -> Target:
        """Return where a URL leads, or `FetchRefusedError`; nothing is looked up or sent."""
        ...

    async def fetch(self, fetch: Fetch) -> Fetched:
        """Send the request and return the answer, whatever its status.

        Raises:
            FetchRefusedError: The name has an address that may not be reached; nothing was sent.
            FetchFailedError: There is no answer: no such name, no connection, not in time.
        """
        ...
