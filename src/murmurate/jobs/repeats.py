"""Requests with a key of their own (`Idempotency-Key`): sent again, they find what they began.

What a key has begun stands in a stream of the key and the day, written in the same append as the
beginning: of two that are sent at once, one is refused. It is looked for under the days around, as
clocks differ, and is forgotten by an errand once it is of no use.
"""

import hashlib
from contextlib import aclosing

import msgspec

from murmurate.core.clock import Clock
from murmurate.core.errors import KeyReusedError
from murmurate.core.ports import Claim, Done, Entry, Log, Offer
from murmurate.core.types import Frozen, Once

REPEATS = "repeats"
PREFIX = "asked/"
KIND = "asked"
DAY_MS = 24 * 3600 * 1000


class Known(Frozen, frozen=True, omit_defaults=True):
    """What a key has begun."""

    run: str
    asks: str
    """The fingerprint of what was asked."""
    session: str | None = None


class Note(Frozen, frozen=True):
    """What is written with a beginning, and what is expected of the streams of its key."""

    entry: Entry
    offer: Offer
    expected: dict[tuple[str, str], int]


class Repeats:
    """Remembers for a day, or two at most, what each key of each tenant began."""

    def __init__(self, log: Log, clock: Clock) -> None:
        self._log = log
        self._clock = clock

    async def known(self, tenant: str, once: Once) -> Known | None:
        """Return what the key has begun, if it has.

        Raises:
            KeyReusedError: It began something else.
        """
        for stream in self._streams(once):
            async with aclosing(self._log.read(tenant, stream)) as entries:
                bodies = [stored.body async for stored in entries]
            if bodies:
                found = msgspec.json.decode(bodies[-1], type=Known)
                if found.asks != once.asks:
                    raise KeyReusedError(f"this Idempotency-Key has begun {found.run} already")
                return found
        return None

    def note(self, tenant: str, once: Once, known: Known) -> Note:
        """Return what must be written with the beginning."""
        today, *around = self._streams(once)
        day = self._clock.unix_ms() // DAY_MS
        return Note(
            Entry(tenant, today, KIND, msgspec.json.encode(known)),
            Offer(tenant, today, REPEATS, due_ms=(day + 2) * DAY_MS),
            {(tenant, stream): 0 for stream in (today, *around)},
        )

    async def forget(self, claim: Claim) -> None:
        """Do the errand: forget a key whose day is over."""
        await self._log.forget(claim.tenant, claim.stream)
        place = (claim.tenant, claim.stream)
        await self._log.append([], fence=claim, work=[Done(*place)])

    def _streams(self, once: Once) -> list[str]:
        """Return the streams of a key, today's first; any text may be a key."""
        name = hashlib.sha256(once.key.encode()).hexdigest()[:40]
        today = self._clock.unix_ms() // DAY_MS
        return [f"{PREFIX}{day}/{name}" for day in (today, today - 1, today + 1)]
