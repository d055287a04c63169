"""Runs: requests whose work goes on whatever becomes of the server, and what can be asked of them.

As a `Model` it begins a run for each request that wants one, and streams its answer to the client
that waits for it. A run in the background has no such client: it is offered, and any server works
on it.
"""

from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress

import msgspec

from murmurate.core.clock import Clock
from murmurate.core.errors import (
    BadRequestError,
    FencedError,
    LogConflictError,
    LogCorruptError,
    MurmurateError,
    NotFoundError,
    RunOpenError,
    RunOverError,
    RunWaitingError,
)
from murmurate.core.ids import Ids, first_of
from murmurate.core.ports import Claim, Entry, Log, Model, Nudge, Offer, Stored, Work, WorkInfo
from murmurate.core.types import Delta, Once, Request
from murmurate.jobs.batch_lines import LINE_DIGITS, run_of
from murmurate.jobs.deadlines import deadline_offer
from murmurate.jobs.entries import (
    QUEUE,
    Begun,
    Kind,
    Nothing,
    RunState,
    RunStatus,
    folded,
    id_of,
    stream_of,
)
from murmurate.jobs.hooks import Hooks
from murmurate.jobs.journal import KeptJournal, OpenJournals, put_back
from murmurate.jobs.repeats import Known, Repeats
from murmurate.jobs.runner import Runner
from murmurate.jobs.views import (
    RunEvent,
    RunInfo,
    RunView,
    Webhook,
    damaged,
    info_of,
    session_of,
    status_of,
)

FOLLOW_S = 0.2
LOOK_BACK_MS = (3_600_000, 86_400_000, 0)
"""A listing looks at the last hour; where that has too few runs, at the last day; then at all."""
NOTHING = msgspec.json.encode(Nothing())
FIRST_EPOCH = 1


class Runs:
    """A `Model` that turns requests into runs, and the place to ask for them."""

    def __init__(
        self,
        below: Model,
        runner: Runner,
        journals: OpenJournals,
        *,
        log: Log,
        clock: Clock,
        ids: Ids,
        is_run: Callable[[Request], bool],
        hooks: Hooks | None = None,
    ) -> None:
        """Without `hooks` nobody can be told of the end of a run."""
        self._below = below
        self._runner = runner
        self._journals = journals
        self._log = log
        self._clock = clock
        self._ids = ids
        self._is_run = is_run
        self._hooks = hooks
        self._repeats = Repeats(log, clock)

    def answer(self, request: Request) -> AsyncGenerator[Delta]:
        """Answer as a run, if the request wants one."""
        return self._run(request) if self._is_run(request) else self._below.answer(request)

    async def _run(self, request: Request) -> AsyncGenerator[Delta]:
        """Hold the run ourselves, for the client that waits for it."""
        stream = stream_of(self._ids.new("run"))
        claim = Claim(request.tenant, stream, QUEUE, self._runner.name, FIRST_EPOCH)
        journal = KeptJournal(self._log, claim, Begun(request))
        self._journals.open(request, journal)
        answer: list[Delta] = []
        cancelled = False

        def stop() -> None:
            nonlocal cancelled
            cancelled = True

        self._runner.holds(claim, stop=stop)
        try:
            async with aclosing(self._below.answer(request)) as deltas:
                async for delta in deltas:
                    if cancelled:
                        raise RunOverError(f"{id_of(stream)} was cancelled")
                    answer.append(delta)
                    yield delta
            if not journal.is_over:
                await journal.finish([], answer)
        except FencedError:
            raise  # another server goes on with it
        except MurmurateError as error:
            write = self._ending(journal, error, cancelled=cancelled)
            has_begun = journal.is_written
            if not await self._runner.end(claim, write) and has_begun:
                raise RunOpenError(
                    f"{error.detail}; {id_of(stream)} has begun, and this could not be written:"
                    " it may be finished, or be so soon. Look at it before you ask again",
                    retry_s=error.retry_s,
                ) from error
            raise
        finally:
            self._journals.close(request, journal)
            self._runner.drops(claim)
            if journal.is_written and not journal.is_over:
                self._leave(journal)

    def _ending(
        self, journal: KeptJournal, error: MurmurateError, *, cancelled: bool
    ) -> Callable[[], Awaitable[None]]:
        """Return what writes how an attempt ended with an error."""
        if cancelled:
            return journal.cancel
        if isinstance(error, RunWaitingError):
            return lambda: self._runner.asks(journal, error)
        return lambda: journal.fail(error)

    def _leave(self, journal: KeptJournal) -> None:
        """End the run of a client that has gone; when it is us who go, another server goes on."""
        goes = self._runner.is_stopping
        write = (lambda: put_back(self._log, journal.claim)) if goes else journal.cancel
        self._runner.end_soon(journal.claim, write)

    async def submit(
        self,
        request: Request,
        *,
        priority: int = 0,
        deadline_s: float | None = None,
        webhook: str | None = None,
        once: Once | None = None,
        run_id: str | None = None,
        beside: Sequence[Entry] = (),
    ) -> str:
        """Begin a run in the background; return its id once it is durable.

        Ask `sent_before` first where it is to be begun `once`.

        It fails unless it ends within `deadline_s`; the URL `webhook` is told of its end. Whoever
        gives it a new `run_id` can write entries of its own `beside` it, in the same append.
        `BadRequestError`: that URL can't be. `LogConflictError`: the same is begun at this moment.
        """
        if webhook is not None:
            self._check(request.tenant, webhook)
        run_id = run_id or self._ids.new("run")
        place = (request.tenant, stream_of(run_id))
        begun = Begun(request, background=True, webhook=webhook)
        work: list[Work] = [Offer(*place, QUEUE, priority=priority)]
        if deadline_s is not None:
            deadline_ms = self._clock.unix_ms() + int(deadline_s * 1000)
            begun = msgspec.structs.replace(begun, deadline_ms=deadline_ms)
            work.append(deadline_offer(request.tenant, run_id, deadline_ms))
        entries = [Entry(*place, Kind.BEGUN.value, msgspec.json.encode(begun)), *beside]
        expected: dict[tuple[str, str], int] = {}
        if once is not None:
            session = None if request.session is None else request.session.id
            note = self._repeats.note(request.tenant, once, Known(run_id, once.asks, session))
            entries.append(note.entry)
            work.append(note.offer)
            expected = note.expected
        await self._log.append(entries, expected=expected, work=work)
        self._runner.wake()
        return run_id

    async def sent_before(self, tenant: str, once: Once) -> Known | None:
        """Return the run that this key has begun. `KeyReusedError`: with something else."""
        return await self._repeats.known(tenant, once)

    async def show(self, tenant: str, run_id: str) -> RunView:
        """Return all that is known of a run, or `NotFoundError`."""
        state = await self._state(tenant, run_id)
        work = await self._work_of(tenant, run_id)
        return RunView(
            id=run_id,
            model=state.begun.request.model,
            status=status_of(state, work),
            began_ms=state.began_ms,
            messages=state.begun.request.messages,
            steps=state.steps,
            asked=state.asked,
            ended_ms=state.ended_ms,
            session=session_of(state),
            answer=state.answer,
            error=state.failure,
            deadline_ms=state.begun.deadline_ms,
            webhook=await self._webhook(tenant, state),
        )

    async def events(self, tenant: str, run_id: str) -> AsyncGenerator[RunEvent]:
        """Yield the run's entries, old and new, until it is over."""
        news = await self._entries(tenant, run_id)
        state, seen = folded(run_id, news), 0
        while True:
            for stored in news:
                seen = stored.seq
                yield RunEvent(stored.kind, seen, stored.at_ms, msgspec.Raw(stored.body))
            if state.status is not RunStatus.UNDER_WAY:
                return
            await self._clock.sleep(FOLLOW_S)
            news = await self._entries_after(tenant, run_id, seen)
            # Whether it is over is all that is wanted of it: its steps were told.
            state = folded(run_id, news, state=msgspec.structs.replace(state, steps=()))

    async def listing(
        self, tenant: str, *, limit: int = 50, batch: str | None = None
    ) -> Sequence[RunInfo]:
        """Return the newest runs of a tenant, the newest first; or the last lines of a batch.

        The runs of batches are not among the others: there would be nothing else to see.
        """
        names = await (self._newest(tenant, limit) if batch is None else self._lines(tenant, batch))
        names = names[-limit:]
        waiting: dict[str, WorkInfo] = {}
        if names:
            # Names are in the order of time: behind the oldest one there are no others.
            async with aclosing(self._log.work(tenant, QUEUE, after=names[0][:-1])) as work:
                waiting = {info.stream: info async for info in work}
        found: list[RunInfo] = []
        for name in reversed(names):
            try:
                found.append(info_of(await self._state(tenant, id_of(name)), waiting.get(name)))
            except LogCorruptError as damage:
                found.append(damaged(id_of(name), damage))
            except NotFoundError:
                continue  # it was forgotten meanwhile
        return found

    async def cancel(self, tenant: str, run_id: str) -> None:
        """Let a run end; whoever works on it hears within half a second.

        Raises:
            NotFoundError: The tenant has no such run.
            RunOverError: It has ended already.
        """
        state = await self._state(tenant, run_id)
        if state.status is not RunStatus.UNDER_WAY:
            raise RunOverError(f"{run_id} {_ended(state)} already")
        stream = stream_of(run_id)
        cancel = Entry(tenant, stream, Kind.CANCEL.value, NOTHING)
        await self._log.append([cancel], work=[Nudge(tenant, stream)])

    async def resume(self, tenant: str, run_id: str) -> None:
        """Go on with a run that failed or was cancelled, from its last step.

        Raises:
            NotFoundError: The tenant has no such run.
            RunOverError: It is under way, or has finished.
        """
        stream = stream_of(run_id)
        while True:
            entries = await self._entries(tenant, run_id)
            state = folded(run_id, entries)
            if state.status in {RunStatus.UNDER_WAY, RunStatus.FINISHED}:
                raise RunOverError(f"{run_id} {_ended(state)}: there is nothing to resume")
            # Somebody else may resume it now, too, and it may even finish before we write.
            seen = {(tenant, stream): entries[-1].seq}
            resumed = Entry(tenant, stream, Kind.RESUMED.value, NOTHING)
            with suppress(LogConflictError):
                await self._log.append(
                    [resumed], expected=seen, work=[Offer(tenant, stream, QUEUE)]
                )
                break
        self._runner.wake()

    async def _newest(self, tenant: str, limit: int) -> Sequence[str]:
        """Return the streams of the newest runs; it goes back only as far as it must."""
        names: deque[str] = deque(maxlen=limit)
        for back_ms in LOOK_BACK_MS:
            began_ms = self._clock.unix_ms() - back_ms
            after = stream_of(first_of("run", began_ms)) if back_ms else ""
            names.clear()
            runs = self._log.streams(tenant, stream_of("run_"), after=after)
            async with aclosing(runs) as streams:
                async for info in streams:
                    names.append(info.stream)
            if len(names) == limit:
                break
        return tuple(names)

    async def _lines(self, tenant: str, batch: str) -> Sequence[str]:
        """Return the streams of a batch's runs."""
        lines = stream_of(run_of(batch, 0))[:-LINE_DIGITS]
        async with aclosing(self._log.streams(tenant, lines)) as streams:
            return [info.stream async for info in streams]

    def _check(self, tenant: str, webhook: str) -> None:
        if self._hooks is None:
            raise BadRequestError("webhooks are not configured", param="webhook")
        self._hooks.check(tenant, webhook)

    async def _webhook(self, tenant: str, state: RunState) -> Webhook | None:
        url = state.begun.webhook
        if url is None or self._hooks is None:
            return None
        try:
            last = await self._hooks.delivery(tenant, state.id, max(state.ends - 1, 0))
        except LogCorruptError as damage:
            return Webhook(url, "given up", detail=damage.detail)
        if last is None or state.status is RunStatus.UNDER_WAY:
            return Webhook(url, "waiting")
        return Webhook(url, last.status, last.attempts, last.detail)

    async def _state(self, tenant: str, run_id: str) -> RunState:
        return folded(run_id, await self._entries(tenant, run_id))

    async def _work_of(self, tenant: str, run_id: str) -> WorkInfo | None:
        """Return what the store knows of a run's work; None when it is over."""
        stream = stream_of(run_id)
        async with aclosing(self._log.work(tenant, QUEUE, after=stream[:-1])) as work:
            async for info in work:
                return info if info.stream == stream else None
        return None

    async def _entries(self, tenant: str, run_id: str) -> list[Stored]:
        found = await self._entries_after(tenant, run_id, 0)
        if not found:
            raise NotFoundError(f"there is no run {run_id[:64]!r}")
        return found

    async def _entries_after(self, tenant: str, run_id: str, seen: int) -> list[Stored]:
        async with aclosing(self._log.read(tenant, stream_of(run_id), after=seen)) as entries:
            return [stored async for stored in entries]


def _ended(state: RunState) -> str:
    return "is under way" if state.status is RunStatus.UNDER_WAY else f"has {state.status.value}"
