"""Batches as their clients know them: begun, listed, shown, cancelled, and forgotten one day."""

from contextlib import aclosing, suppress

import msgspec

from murmurate.core.clock import Clock
from murmurate.core.errors import (
    BadRequestError,
    BatchesFullError,
    BatchOverError,
    LogConflictError,
    LogCorruptError,
    NotFoundError,
    OverloadedError,
)
from murmurate.core.ids import Ids, first_of
from murmurate.core.ports import Done, Log, Nudge, Offer
from murmurate.core.types import Caller
from murmurate.jobs.batch_lines import PREFIX, lines_of, stream_of
from murmurate.jobs.batches.keeping import Known, read
from murmurate.jobs.batches.ports import Files, Terms
from murmurate.jobs.batches.state import QUEUE, Batch, BatchPage, BatchView, Status, view_of

PURPOSE = "batch"
TRIES_MAX = 16
"""So often in a row a step may come between looking at a batch and cancelling it."""


class Batches:
    """The batches of all tenants. What is another tenant's is `NotFoundError`."""

    def __init__(
        self,
        files: Files,
        *,
        log: Log,
        clock: Clock,
        ids: Ids,
        active_max: int,
        kept_s: float,
    ) -> None:
        """A tenant has at most `active_max` at a time; what is over is kept for `kept_s`."""
        self._files = files
        self._log = log
        self._clock = clock
        self._ids = ids
        self._active_max = active_max
        self._kept_ms = int(kept_s * 1000)

    async def create(
        self, caller: Caller, *, endpoint: str, input_file_id: str, terms: Terms
    ) -> BatchView:
        """Begin a batch; it is durable when this returns, and any server goes on with it.

        Raises:
            NotFoundError: There is no such file.
            BadRequestError: The file is not meant for a batch.
            BatchesFullError: As many are under way as the tenant may have.
        """
        file = await self._files.show(caller.tenant, input_file_id)
        if file.purpose != PURPOSE:
            raise BadRequestError(
                f"input_file_id: {file.id} has the purpose {file.purpose!r}; expected {PURPOSE!r}",
                param="input_file_id",
            )
        async with aclosing(self._log.work(caller.tenant, QUEUE)) as work:
            active = len([info async for info in work])
        if active >= self._active_max:
            raise BatchesFullError(
                f"{active} batches of the tenant {caller.tenant!r} are under way: the most is"
                f" {self._active_max}; wait until one ends, or cancel one",
                retry_s=60.0,
            )
        now_ms = self._clock.unix_ms()
        batch = Batch(
            id=self._ids.new("batch"),
            endpoint=endpoint,
            input_file_id=file.id,
            window=terms.window,
            created_ms=now_ms,
            expires_ms=now_ms + terms.window_ms,
            scopes=caller.scopes,
            key_id=caller.key_id,
            metadata=terms.metadata,
            output_expires_s=terms.output_expires_s,
        )
        offer = Offer(caller.tenant, stream_of(batch.id), QUEUE)
        await self._log.append([batch.entry(caller.tenant)], work=[offer])
        return view_of(batch)

    async def show(self, tenant: str, batch_id: str) -> BatchView:
        """Return where a batch stands, or `NotFoundError`."""
        return view_of((await self._known(tenant, batch_id)).batch)

    async def listing(self, tenant: str, *, after: str | None, limit: int) -> BatchPage:
        """Return the tenant's batches behind `after`, the newest first."""
        async with aclosing(self._log.streams(tenant, PREFIX)) as streams:
            names = [info.stream async for info in streams]
        if after is not None:
            if stream_of(after) not in names:
                raise NotFoundError(f"there is no batch {after[:64]!r}", param="after")
            names = names[: names.index(stream_of(after))]
        found: list[BatchView] = []
        for name in reversed(names[-limit:]):
            with suppress(NotFoundError, LogCorruptError):  # forgotten meanwhile, or damaged
                found.append(await self.show(tenant, name.removeprefix(PREFIX)))
        return BatchPage(
            data=found,
            first_id=found[0].id if found else None,
            last_id=found[-1].id if found else None,
            has_more=len(names) > limit,
        )

    async def cancel(self, tenant: str, batch_id: str) -> BatchView:
        """Let a batch end; what its lines have come to by then is kept.

        Raises:
            NotFoundError: The tenant has no such batch.
            BatchOverError: It has ended already, or writes its results.
        """
        for _ in range(TRIES_MAX):
            known = await self._known(tenant, batch_id)
            batch = known.batch
            if batch.status is Status.CANCELLING:
                return view_of(batch)
            if batch.status not in {Status.VALIDATING, Status.IN_PROGRESS}:
                raise BatchOverError(f"{batch_id} is {batch.status.value}: nothing is left to end")
            ending = batch.at(Status.CANCELLING, self._clock.unix_ms())
            ending = msgspec.structs.replace(ending, outcome=Status.CANCELLED)
            place = (tenant, stream_of(batch_id))
            with suppress(LogConflictError):  # a step of it came first
                await self._log.append(
                    [ending.entry(tenant)],
                    expected={place: known.head},
                    work=[Nudge(*place)],
                )
                return view_of(ending)
        raise OverloadedError(f"{batch_id} goes on too fast to be cancelled: again", retry_s=1)

    async def sweep(self, tenant: str) -> int:
        """Forget what has been over for long; return how many."""
        end = stream_of(first_of("batch", self._clock.unix_ms() - self._kept_ms))
        forgotten = 0
        async with aclosing(self._log.streams(tenant, PREFIX)) as streams:
            names = [info.stream async for info in streams if info.stream < end]
        for name in names:
            batch_id = name.removeprefix(PREFIX)
            try:
                known = await read(self._log, tenant, batch_id)
            except LogCorruptError:
                continue  # whether it is over is not known: it stays
            if known is None or not known.batch.is_over:
                continue
            await self._log.append([], work=[Done(tenant, name)])
            await self._log.forget(tenant, lines_of(batch_id))
            await self._log.forget(tenant, name)
            forgotten += 1
        return forgotten

    async def _known(self, tenant: str, batch_id: str) -> Known:
        known = await read(self._log, tenant, batch_id)
        if known is None:
            raise NotFoundError(f"there is no batch {batch_id[:64]!r}")
        return known
