"""Reads and writes where a batch stands: each write replaces all that was known before."""

from collections.abc import Sequence
from contextlib import aclosing

import msgspec

from murmurate.core.errors import LogCorruptError
from murmurate.core.ports import Claim, Done, Entry, Log, Offer, Work
from murmurate.core.types import Frozen
from murmurate.jobs.batch_lines import stream_of
from murmurate.jobs.batches.state import QUEUE, Batch

KEPT = 64
"""Of so many entries at most, and at least the last, the log keeps what they say."""


class Known(Frozen, frozen=True):
    """A batch, and the entry that says so: who writes the next one has seen it."""

    batch: Batch
    head: int


async def read(log: Log, tenant: str, batch_id: str) -> Known | None:
    """Return where a batch stands; None where there is none. `LogCorruptError`: it is damaged."""
    stream = stream_of(batch_id)
    async with aclosing(log.streams(tenant, stream)) as streams:
        info = await anext(streams, None)  # a name comes before all that begin with it
    if info is None or info.stream != stream:
        return None
    try:
        async with aclosing(log.read(tenant, stream, after=info.head - 1)) as entries:
            found = [msgspec.json.decode(it.body, type=Batch) async for it in entries]
    except msgspec.MsgspecError as cause:
        raise LogCorruptError(f"the entry {info.head} of {batch_id} can't be read") from cause
    return Known(found[-1], info.head + len(found) - 1) if found else None


class Held:
    """A batch that we hold: nobody else writes where it stands, but for a wish to cancel it."""

    def __init__(self, log: Log, claim: Claim, known: Known) -> None:
        self._log = log
        self.claim = claim
        self.batch = known.batch
        self._head = known.head

    @property
    def tenant(self) -> str:
        """Whose it is."""
        return self.claim.tenant

    async def save(
        self,
        batch: Batch,
        *,
        due_ms: int,
        entries: Sequence[Entry] = (),
        offers: Sequence[Work] = (),
    ) -> None:
        """Write where it stands, and put it back until that time; one that is over is done.

        `LogConflictError`: somebody has written meanwhile. `FencedError`: somebody else holds it.
        """
        place = (self.tenant, self.claim.stream)
        own = Done(*place) if batch.is_over else Offer(*place, QUEUE, due_ms=due_ms)
        await self._log.append(
            [*entries, batch.entry(self.tenant)],
            expected={place: self._head},
            fence=self.claim,
            work=[*offers, own],
        )
        if self._head % KEPT == 0:
            await self._log.forget(*place, before=self._head)

    async def rest(self, due_ms: int, *, lines_seen: tuple[str, int]) -> None:
        """Put it back until that time, or until a line ends, with nothing to write.

        `LogConflictError`: a line has ended since `lines_seen`, its stream and last entry.
        """
        stream, seen = lines_seen
        place = (self.tenant, self.claim.stream)
        await self._log.append(
            [],
            expected={place: self._head, (self.tenant, stream): seen},
            fence=self.claim,
            work=[Offer(*place, QUEUE, due_ms=due_ms)],
        )
