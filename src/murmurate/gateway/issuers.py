"""What an issuer's word is worth: its keys, while they count, and when they are asked for again.

A key that is not known may be a new one or forged; the issuer is asked, but at most every
`AGAIN_S`, so that forged ones don't reach it. Whoever needs the answer waits for it: when an issuer
changes its keys, no request is lost.
"""

import asyncio
import math

from murmurate.core.clock import Clock
from murmurate.core.errors import MurmurateError
from murmurate.core.ports import EventLog
from murmurate.gateway.ports import Issuer, PublicKey, Published
from murmurate.gateway.tokens import TokenInvalidError

AGAIN_S = 10.0
"""An issuer that answers is not asked more often for keys that it may have made since."""
FAILED_AGAIN_S = 2.0
"""Nor one that does not answer."""
WAITING_MAX = 64
"""Requests that wait for an issuer; each of them holds a place among all requests."""
KEPT_S_MIN, KEPT_S_MAX = 60.0, 3600.0
"""How long keys are kept without a reason to ask, whatever the issuer says."""


class IssuerUnreachableError(MurmurateError):
    """The issuer of the token can't be asked for its keys, so the token can't be checked.

    Try again after `Retry-After`; keys of ours work. `murmurate doctor` says what is wrong.
    """

    code = "token.issuer_unreachable"
    http_status = 503


class Trust:
    """The keys of one issuer.

    When it can't be reached, those that are known count for `outage_s`, and none after that.
    """

    def __init__(
        self, name: str, issuer: Issuer, *, outage_s: float, clock: Clock, events: EventLog
    ) -> None:
        self._name = name
        self._issuer = issuer
        self._outage_s = outage_s
        self._clock = clock
        self._events = events
        self._published: Published | None = None
        self._heard_s = self._next_s = -math.inf
        """When it last answered, and when it may be asked again."""
        self._failure: MurmurateError | None = None
        """Why the last look failed."""
        self._look: asyncio.Task[None] | None = None
        """A look at the issuer, under way or waiting for its time."""
        self._begun = self._ended = 0
        """The number of the last look that began, and of the last that ended."""
        self._waiting = 0
        self._absent: set[str] = set()
        """Names that the last look did not find; no more than waited for it."""

    def current(self) -> Published | None:
        """Return the keys that count now, as one object while they stay the same; None: none do.

        Looks for new ones in the background when it is time.
        """
        now_s = self._clock.now_s()
        if self._published is None or now_s >= self._heard_s + self._outage_s:
            return None
        if now_s >= self._heard_s + self._published.again_s and now_s >= self._next_s:
            self._looking()
        return self._published

    async def key(self, key_id: str | None, algorithm: str) -> tuple[PublicKey, Published]:
        """Return the key of that name, and among which it was found.

        `TokenInvalidError`: the issuer has none. `IssuerUnreachableError`: it can't be asked.
        """
        begun = self._begun  # a look that is under way now may be too early for a new key
        while True:
            published = self.current()
            if published is not None:
                if (key := _fitting(published.keys, key_id, algorithm)) is not None:
                    return key, published
                if key_id is None or key_id in self._absent or _has(published, key_id):
                    break
                if self._ended > begun and self._failure is None:
                    self._absent.add(key_id)
                    break
            if self._failure is not None and (self._ended > begun or self._wait_s() > 0):
                raise self._unreachable(f"can't be asked for its keys: {self._failure.detail}")
            await self._looked()
        named = "the token names no key" if key_id is None else f"it publishes no {key_id[:64]!r}"
        raise TokenInvalidError(f"kid: {named} for {algorithm} (auth.{self._name})")

    async def _looked(self) -> None:
        """Wait for the end of the next look; one for all who wait."""
        if self._waiting >= WAITING_MAX:
            raise self._unreachable(f"is being asked for its keys, {WAITING_MAX} requests wait")
        self._waiting += 1
        try:
            look = self._looking()
            await asyncio.wait({look})  # never cancelled with a request: others wait for it, too
        finally:
            self._waiting -= 1
        look.result()

    def _looking(self) -> asyncio.Task[None]:
        if self._look is None:
            self._look = asyncio.create_task(self._ask())
        return self._look

    async def _ask(self) -> None:
        """Ask the issuer when it may be asked, and take what it says."""
        try:
            if (wait_s := self._wait_s()) > 0:
                await self._clock.sleep(wait_s)
            self._begun += 1
            self._next_s = self._clock.now_s() + AGAIN_S
            try:
                self._take(await self._issuer.published())
            except MurmurateError as failure:
                if self._failure is None:
                    said = failure.detail
                    self._events.event("issuer.unreachable", issuer=self._name, detail=said)
                self._failure = failure
                self._next_s = self._clock.now_s() + FAILED_AGAIN_S
        finally:
            self._ended = self._begun
            self._look = None

    def _take(self, published: Published) -> None:
        self._heard_s = self._clock.now_s()
        self._failure = None
        self._absent.clear()
        again_s = min(max(published.again_s, KEPT_S_MIN), KEPT_S_MAX)
        if self._published is None or self._published != Published(published.keys, again_s):
            self._published = Published(published.keys, again_s)
            self._events.event("issuer.keys", issuer=self._name, keys=len(published.keys))

    def _wait_s(self) -> float:
        return self._next_s - self._clock.now_s()

    def _unreachable(self, how: str) -> IssuerUnreachableError:
        return IssuerUnreachableError(f"auth.{self._name} {how}", retry_s=max(self._wait_s(), 1.0))


def _has(published: Published, key_id: str) -> bool:
    return any(key.id == key_id for key in published.keys)


def _fitting(keys: tuple[PublicKey, ...], key_id: str | None, algorithm: str) -> PublicKey | None:
    """Return the key of that name and kind; a token may leave the name out where it is clear."""
    fit = [key for key in keys if algorithm in key.algorithms and key_id in (None, key.id)]
    return fit[0] if len(fit) == 1 or (fit and key_id is not None) else None
