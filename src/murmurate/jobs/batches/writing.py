"""Writes the results of a batch into two files, in one pass over the ends of its lines."""

from collections.abc import Mapping, Sequence
from contextlib import suppress

import msgspec

from murmurate.core.errors import LogCorruptError, MurmurateError
from murmurate.core.ports import Claim, Entry, Stored
from murmurate.jobs.batch_lines import CANCELLED, LineEnd, LineFailure, run_of
from murmurate.jobs.batches.ports import Asking, FileInfo, Files, Writing
from murmurate.jobs.batches.results import answered, failed, not_executed
from murmurate.jobs.batches.state import Batch
from murmurate.jobs.entries import deltas_of

PURPOSE = "batch_output"


class Results:
    """The two files of a batch. Whoever does not hold it any more writes nothing."""

    def __init__(
        self, files: Files, asking: Mapping[str, Asking], claim: Claim, batch: Batch
    ) -> None:
        self._asking = asking
        self._batch = batch
        self._output = files.writing(claim.tenant, fence=claim)
        self._errors = files.writing(claim.tenant, fence=claim)
        self._ended: set[int] = set()
        """Which lines have an end: of two ends of one line the first counts."""
        self._completed = self._failed = 0
        self.lost: dict[int, LineFailure] = {}
        """Why lines failed of which nobody knows any more what their clients call them."""

    async def take(self, stored: Stored) -> None:
        """Write the end of a line."""
        try:
            end = msgspec.json.decode(stored.body, type=LineEnd)
        except msgspec.MsgspecError as cause:
            raise LogCorruptError(
                f"the end of a line of {self._batch.id}, entry {stored.seq}, can't be read"
            ) from cause
        if end.number in self._ended:
            return
        if end.custom_id is None and end.failure is not None:
            self.lost[end.number] = end.failure
            return
        self._ended.add(end.number)
        await self._write(end, end.custom_id or "", stored.at_ms)

    async def take_missing(self, number: int, custom_id: str) -> None:
        """Write of a line that has no end why, if it has none."""
        if number in self._ended:
            return
        self._ended.add(number)
        self._failed += 1
        if (failure := self.lost.get(number)) is not None:
            await self._errors.write(failed(self._batch.id, number, custom_id, failure))
            return
        line = not_executed(self._batch.id, number, custom_id, self._batch.outcome)
        await self._errors.write(line)

    async def end(self) -> tuple[Batch, Sequence[Entry]]:
        """Return the batch with its files and its counts, and the entries that make them files."""
        output, first = await self._file(self._output, "output")
        errors, second = await self._file(self._errors, "error")
        over = msgspec.structs.replace(
            self._batch,
            completed=self._completed,
            failed=self._failed,
            output_file_id=None if output is None else output.id,
            error_file_id=None if errors is None else errors.id,
        )
        return over, (*first, *second)

    async def abandon(self) -> None:
        """Delete what was written: nobody will ever see it."""
        for writing in (self._output, self._errors):
            with suppress(MurmurateError):
                await writing.abandon()

    async def _write(self, end: LineEnd, custom_id: str, at_ms: int) -> None:
        batch = self._batch
        if end.answer is not None:
            self._completed += 1
            body = self._asking[batch.endpoint].written(
                deltas_of(end.answer),
                run_id=run_of(batch.id, end.number),
                model=end.model,
                at_ms=at_ms,
            )
            await self._output.write(answered(batch.id, end.number, custom_id, body))
        elif end.failure is None:
            self._completed += 1
            await self._output.write(answered(batch.id, end.number, custom_id, bytes(end.body)))
        elif end.failure.code == CANCELLED:
            self._failed += 1
            line = not_executed(batch.id, end.number, custom_id, batch.outcome)
            await self._errors.write(line)
        else:
            self._failed += 1
            await self._errors.write(failed(batch.id, end.number, custom_id, end.failure))

    async def _file(self, writing: Writing, name: str) -> tuple[FileInfo | None, Sequence[Entry]]:
        """Return the file and its entry; neither where nothing was written."""
        if not writing.size_bytes:
            return None, ()
        await writing.close()
        info, entry = writing.added(
            f"{self._batch.id}_{name}.jsonl",
            PURPOSE,
            expires_s=self._batch.output_expires_s,
        )
        return info, (entry,)
