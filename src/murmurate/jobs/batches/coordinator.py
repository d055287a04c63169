"""Works on batches, a short step at a time: whoever takes one over goes on from its last step.

A step reads the ends of lines that came since, and begins as many new ones as there is room for;
the lines themselves are runs, on whatever server has room. The last step writes the results.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing

import msgspec

from murmurate.core.clock import Clock
from murmurate.core.errors import (
    EngineFailedError,
    LogConflictError,
    LogCorruptError,
    MurmurateError,
    NotFoundError,
)
from murmurate.core.ids import Ids
from murmurate.core.ports import NEVER_MS, Claim, Entry, EventLog, Log, Nudge, Offer, Work
from murmurate.core.types import Caller, Frozen, Lane, Request, TraceRef
from murmurate.jobs.attempts import may_help
from murmurate.jobs.batch_lines import (
    ENDED,
    PREFIX,
    LineEnd,
    entry_of,
    failure_of,
    lines_of,
    run_of,
)
from murmurate.jobs.batches.keeping import Held, read
from murmurate.jobs.batches.lines import (
    NUMBER_MAX,
    Asked,
    Inspection,
    Line,
    LineTooLongError,
    asked_of,
)
from murmurate.jobs.batches.lines import lines_of as split
from murmurate.jobs.batches.ports import Asking, Computing, Files
from murmurate.jobs.batches.state import DEAD, PROBLEMS_MAX, Batch, Problem, Status
from murmurate.jobs.batches.writing import Results
from murmurate.jobs.entries import ASKING, BatchLine, Begun, Kind
from murmurate.jobs.entries import QUEUE as RUNS
from murmurate.jobs.entries import stream_of as run_stream
from murmurate.jobs.journal import strike_off

PRIORITY = -10
"""Of the runs of lines: behind all that somebody waits for."""
STEP_LINES_MAX = 512
STEP_BYTES_MAX = 4 * 1024 * 1024
"""So much of the input is begun in one append."""
COMPUTED_MAX = 128
"""So many lines are computed in one step."""
PAUSE_MS = 100
"""Until the next step, where lines end one after the other."""
AGAIN_MS = 1_000
"""Until lines that were to be cancelled, and have not ended, are told again."""
REST_MS = 30_000
"""Until the next step where nothing happens: each line that ends makes it due at once."""
PAUSE_BYTES = 64 * 1024
"""After so much of the input others are served: to read it takes about a millisecond."""
NOTHING = b"{}"
TRIES_ALONE = 2
"""How often a line is computed once more by itself, where its engine failed."""
INPUT_GONE = (NotFoundError, LogCorruptError, LineTooLongError)
"""It was removed, has expired, is damaged, or is over a bound that was lowered since."""


class BatchLimits(Frozen, frozen=True):
    """How much of a batch is under way at a time, and how long its lines may be."""

    window: int
    lines_max: int
    line_bytes_max: int


class Coordinator:
    """Does the errand of a batch: one step."""

    def __init__(
        self,
        asking: Mapping[str, Asking],
        computing: Mapping[str, Computing],
        files: Files,
        *,
        limits: BatchLimits,
        log: Log,
        clock: Clock,
        ids: Ids,
        events: EventLog,
    ) -> None:
        """`asking` and `computing` are the endpoints that lines may ask, by path."""
        self._asking = asking
        self._computing = computing
        self._files = files
        self._limits = limits
        self._log = log
        self._clock = clock
        self._ids = ids
        self._events = events

    async def go_on(self, claim: Claim) -> None:
        """Do the next step, and say when the one after it is due."""
        batch_id = claim.stream.removeprefix(PREFIX)
        try:
            known = await read(self._log, claim.tenant, batch_id)
        except LogCorruptError as damage:
            self._events.event("batch.damaged", code=damage.code, detail=damage.detail)
            dead = Offer(claim.tenant, claim.stream, DEAD, due_ms=NEVER_MS)
            await self._log.append([], fence=claim, work=[dead])
            return
        if known is None or known.batch.is_over:
            await strike_off(self._log, claim)
            return
        held = Held(self._log, claim, known)
        try:
            if known.batch.status is Status.VALIDATING:
                await self._validate(held)
            else:
                await self._advance(held)
        except LogCorruptError as damage:
            self._events.event("batch.damaged", code=damage.code, detail=damage.detail)
            failing = known.batch.at(Status.FAILED, self._clock.unix_ms())
            problem = Problem(damage.code, damage.detail)
            await held.save(msgspec.structs.replace(failing, problems=(problem,)), due_ms=0)

    async def _validate(self, held: Held) -> None:
        """Look at every line of the input, before the first one begins."""
        batch = held.batch
        seen = Inspection(endpoint=batch.endpoint, lines_max=self._limits.lines_max)
        try:
            async with aclosing(self._input(held.tenant, batch, whole=True)) as lines:
                async for line in lines:
                    seen.see(line)
                    if not seen.goes_on:
                        break
            seen.end()
            problems = seen.problems
        except LineTooLongError as found:
            problems = [*seen.problems, found.problem]
        except (NotFoundError, LogCorruptError) as error:
            problems = [Problem("invalid_input_file", error.detail, None, "input_file_id")]
        now_ms = self._clock.unix_ms()
        if problems:
            refused = batch.at(Status.FAILED, now_ms)
            problems = tuple(problems[:PROBLEMS_MAX])
            await held.save(msgspec.structs.replace(refused, problems=problems), due_ms=0)
        else:
            counted = msgspec.structs.replace(batch, total=seen.total, line_last=seen.line_last)
            await held.save(counted.at(Status.IN_PROGRESS, now_ms), due_ms=0)

    async def _advance(self, held: Held) -> None:
        """Count what has ended; then begin, wait, or come to an end."""
        batch, now_ms = await self._counted(held), self._clock.unix_ms()
        all_ended = batch.begun == batch.total and not batch.open_lines
        if batch.outcome is Status.COMPLETED and now_ms >= batch.expires_ms and not all_ended:
            batch = msgspec.structs.replace(batch, outcome=Status.EXPIRED)
        is_winding = batch.outcome is not Status.COMPLETED
        if all_ended or (is_winding and not batch.open_lines):
            await self._finish(held, batch)
        elif is_winding:
            await self._wind_up(held, batch)
        elif batch.endpoint in self._computing:
            await self._compute(held, batch)
        elif self._has_room(batch):
            await self._begin(held, batch)
        else:
            await self._wait(held, batch)

    def _has_room(self, batch: Batch) -> bool:
        """Tell whether to begin more: many at a time, as each look at the input has its price."""
        left = batch.total - batch.begun
        few = max(self._limits.window // 4, 1)
        return left > 0 and self._limits.window - batch.open_lines >= min(left, few)

    async def _counted(self, held: Held) -> Batch:
        """Return the batch with the ends of lines that came since the last step."""
        batch = held.batch
        completed, failed, seen = batch.completed, batch.failed, batch.seen
        ends = self._log.read(held.tenant, lines_of(batch.id), after=seen)
        async with aclosing(ends) as entries:
            async for stored in entries:
                completed += stored.kind == ENDED
                failed += stored.kind != ENDED
                seen = stored.seq
        return msgspec.structs.replace(batch, completed=completed, failed=failed, seen=seen)

    async def _begin(self, held: Held, batch: Batch) -> None:
        """Begin the runs of the next lines, in the same append that says how far it is."""
        endpoint = self._asking.get(batch.endpoint)
        lines = await self._next(held, batch, self._limits.window - batch.open_lines)
        if endpoint is None or not lines:
            await self._break_off(held, batch)
            return
        caller = _caller(held.tenant, batch)
        entries: list[Entry] = []
        offers: list[Work] = []
        requests: list[Request] = []
        for line, asked in lines:
            run_id = run_of(batch.id, line.number)
            trace = TraceRef(self._ids.trace_id(), tenant=held.tenant)
            try:
                request = await endpoint.request(
                    caller, bytes(asked.body), run_id=run_id, trace=trace
                )
            except MurmurateError as refusal:
                if may_help(refusal):
                    raise  # all of them again, later: until the batch expires
                end = LineEnd(line.number, asked.custom_id, failure=failure_of(refusal))
                entries.append(entry_of(held.tenant, batch.id, end))
                continue
            mark = BatchLine(batch.id, line.number, asked.custom_id)
            begun = msgspec.json.encode(Begun(request, background=True, line=mark))
            place = (held.tenant, run_stream(run_id))
            entries.append(Entry(*place, Kind.BEGUN.value, begun))
            offers.append(Offer(*place, RUNS, priority=PRIORITY))
            requests.append(request)
        due_ms = self._clock.unix_ms() + PAUSE_MS
        await held.save(_after(batch, lines), due_ms=due_ms, entries=entries, offers=offers)
        for request in requests:
            endpoint.begun(request)

    async def _compute(self, held: Held, batch: Batch) -> None:
        """Compute the next lines: they have no effects, and are computed again after a crash."""
        lines = await self._next(held, batch, COMPUTED_MAX)
        if not lines:
            await self._break_off(held, batch)
            return
        endpoint = self._computing[batch.endpoint]
        bodies = [bytes(asked.body) for _, asked in lines]
        caller = _caller(held.tenant, batch)
        found = list(await endpoint.computed(caller, bodies))
        for index, body in enumerate(bodies):
            for _ in range(TRIES_ALONE):  # one line that an engine fails on holds up no other
                if isinstance(found[index], EngineFailedError):
                    [found[index]] = await endpoint.computed(caller, [body])
        entries: list[Entry] = []
        for (line, asked), result in zip(lines, found, strict=True):
            if (
                isinstance(result, MurmurateError)
                and may_help(result)
                and not isinstance(result, EngineFailedError)
            ):
                raise result  # the whole group again, later: until the batch expires
            end = LineEnd(line.number, asked.custom_id)
            if isinstance(result, MurmurateError):
                end = msgspec.structs.replace(end, failure=failure_of(result))
            else:
                end = msgspec.structs.replace(end, body=msgspec.Raw(result))
            entries.append(entry_of(held.tenant, batch.id, end))
        await held.save(_after(batch, lines), due_ms=0, entries=entries)

    async def _wind_up(self, held: Held, batch: Batch) -> None:
        """Let the lines that are under way end, and begin no more."""
        first, last = (run_stream(run_of(batch.id, number)) for number in (0, NUMBER_MAX))
        entries: list[Entry] = []
        news: list[Work] = []
        for queue in (RUNS, ASKING):  # some may wait for somebody's decision
            async with aclosing(self._log.work(held.tenant, queue, after=first)) as work:
                async for info in work:
                    if info.stream > last:
                        break
                    place = (held.tenant, info.stream)
                    entries.append(Entry(*place, Kind.CANCEL.value, NOTHING))
                    news.append(Nudge(*place))
        if not entries:  # those that ended just now are read with all the others
            await self._finish(held, batch)
            return
        due_ms = self._clock.unix_ms() + AGAIN_MS
        await held.save(batch, due_ms=due_ms, entries=entries, offers=news)

    async def _wait(self, held: Held, batch: Batch) -> None:
        """Wait for lines to end: soon again while they do, else until one does."""
        now_ms = self._clock.unix_ms()
        if batch != held.batch:
            await held.save(batch, due_ms=now_ms + PAUSE_MS)
            return
        due_ms = min(now_ms + REST_MS, batch.expires_ms)
        try:
            await held.rest(due_ms, lines_seen=(lines_of(batch.id), batch.seen))
        except LogConflictError:
            await held.save(batch, due_ms=now_ms + PAUSE_MS)

    async def _finish(self, held: Held, batch: Batch) -> None:
        """Write the results; they are there in the same append in which the batch is over."""
        if batch.status is Status.IN_PROGRESS:
            # First, so that everybody sees it: from here on it can't be cancelled.
            await held.save(batch.at(Status.FINALIZING, self._clock.unix_ms()), due_ms=0)
            return
        results = Results(self._files, self._asking, held.claim, batch)
        try:
            over, entries = await self._results(held, batch, results)
        except MurmurateError:
            await results.abandon()
            raise
        now_ms = self._clock.unix_ms()
        # Where this is not acknowledged, it may have been done all the same: nothing is abandoned
        # then, and what is nobody's file is swept.
        await held.save(over.at(batch.outcome, now_ms), due_ms=0, entries=entries)
        self._events.event(
            "batch.done",
            batch=batch.id,
            status=batch.outcome.value,
            lines=batch.total,
            failed=over.failed,
            ms=now_ms - batch.created_ms,
        )
        await self._log.forget(held.tenant, lines_of(batch.id))

    async def _results(
        self, held: Held, batch: Batch, results: Results
    ) -> tuple[Batch, Sequence[Entry]]:
        """Write what every line came to."""
        async with aclosing(self._log.read(held.tenant, lines_of(batch.id))) as ends:
            async for stored in ends:
                await results.take(stored)
        if batch.outcome in {Status.EXPIRED, Status.CANCELLED} or results.lost:
            await self._rest_of(held, batch, results)
        return await results.end()

    async def _rest_of(self, held: Held, batch: Batch, results: Results) -> None:
        """Say of each line that has no end why; not where the input is gone."""
        try:
            async with aclosing(self._input(held.tenant, batch, whole=True)) as lines:
                async for line in lines:
                    asked = asked_of(line, endpoint=batch.endpoint)
                    if isinstance(asked, Asked):
                        await results.take_missing(line.number, asked.custom_id)
        except INPUT_GONE as error:
            self._events.event("batch.input_lost", batch=batch.id, detail=str(error))

    async def _break_off(self, held: Held, batch: Batch) -> None:
        """Fail a batch whose input is no more, or whose endpoint: what is under way still ends."""
        gone = f"the input file {batch.input_file_id} was deleted, has expired, or is damaged"
        if batch.endpoint not in self._asking and batch.endpoint not in self._computing:
            gone = f"this server has no endpoint {batch.endpoint} for batches"
        problem = Problem("invalid_input_file", gone, None, "input_file_id")
        failing = msgspec.structs.replace(batch, outcome=Status.FAILED, problems=(problem,))
        await held.save(failing, due_ms=0)

    async def _next(self, held: Held, batch: Batch, count: int) -> list[tuple[Line, Asked]]:
        """Return the next lines of the input, a few; none where it can't be read any more."""
        found: list[tuple[Line, Asked]] = []
        size_bytes = 0
        try:
            async with aclosing(self._input(held.tenant, batch)) as lines:
                async for line in lines:
                    asked = asked_of(line, endpoint=batch.endpoint)
                    assert isinstance(asked, Asked), "it was looked at before the first one began"
                    found.append((line, asked))
                    size_bytes += len(line.raw)
                    if len(found) >= min(count, STEP_LINES_MAX) or size_bytes >= STEP_BYTES_MAX:
                        break
        except INPUT_GONE:
            pass  # those that were read are begun first
        return found

    async def _input(
        self, tenant: str, batch: Batch, *, whole: bool = False
    ) -> AsyncGenerator[Line]:
        """Yield the lines from the next one on, or all."""
        number, offset = (0, 0) if whole else (batch.line, batch.offset)
        content = self._files.content(tenant, batch.input_file_id, start=offset)
        async with aclosing(content) as pieces:
            lines = split(
                pieces, number=number, offset=offset, bytes_max=self._limits.line_bytes_max
            )
            paused = offset
            async with aclosing(lines) as found:
                async for line in found:
                    yield line
                    if line.end - paused >= PAUSE_BYTES:
                        paused = line.end
                        await self._clock.sleep(0)


def _caller(tenant: str, batch: Batch) -> Caller:
    """Return in whose name the lines ask."""
    return Caller(batch.key_id, tenant, batch.scopes, Lane.BATCH, batch.roles)


def _after(batch: Batch, lines: Sequence[tuple[Line, Asked]]) -> Batch:
    """Return the batch with these lines begun."""
    last, _ = lines[-1]
    begun = batch.begun + len(lines)
    return msgspec.structs.replace(batch, begun=begun, line=last.number, offset=last.end)
