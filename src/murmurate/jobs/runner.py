"""A server as a runner: it says that it lives, takes over from the dead, and works on runs.

Three tasks. `live` renews, and hears of news; `watch` revokes whoever stands still; `work` claims
what is due, as much as there is room for. The runs that clients wait for are begun in `service.py`
and are held by this runner, too.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any, TypeVar

import msgspec

from murmurate.core.clock import Clock
from murmurate.core.errors import (
    FencedError,
    LogCorruptError,
    MurmurateError,
    RunDeadlineError,
    RunPoisonError,
    RunWaitingError,
)
from murmurate.core.ports import Claim, EventLog, Log, Model, Tracer
from murmurate.core.types import Delta, TraceRef
from murmurate.jobs.attempts import again_ms, is_poison
from murmurate.jobs.deadlines import in_time
from murmurate.jobs.entries import QUEUE, RunState, RunStatus, folded, id_of, stream_of
from murmurate.jobs.journal import (
    KeptJournal,
    OpenJournals,
    give_up,
    put_aside,
    put_asking,
    put_back,
    strike_off,
)
from murmurate.jobs.vigil import LOOK_S, RENEW_S, Watch, looked, stood_still

CLAIM_POLL_S = 0.2
"""How often to look for what another server has offered; our own offers wake us at once."""
AT_A_TIME_MAX = 64
"""Runs that one server works on beside those that clients wait for."""
COUNT_EVERY_S = 5.0
"""How often to ask the log what we hold."""
LEFT_MAX = 10_000
"""Ends of runs to be written once the log can be. What is beyond is forgotten here, not in the log:
the next count of what we hold finds it, and its run goes on from its journal."""
LEFT_AT_ONCE = 256
"""So many of them are tried again with each beat: they share commits, and leave room for others."""
UNREAD_PAUSE_MS = 1000
"""A run that can't be read now is left alone so long: each try writes an entry."""

_Place = tuple[str, str]
_Step = Callable[[], Awaitable[None]]
_T = TypeVar("_T")


class Runner:
    """Works on runs until it is cancelled. `enlist` it first: who is not known holds nothing."""

    def __init__(
        self,
        below: Model,
        journals: OpenJournals,
        *,
        name: str,
        log: Log,
        clock: Clock,
        tracer: Tracer,
        events: EventLog,
        at_a_time: int = AT_A_TIME_MAX,
    ) -> None:
        self.name = name
        self._below = below
        self._journals = journals
        self._log = log
        self._clock = clock
        self._tracer = tracer
        self._events = events
        self._at_a_time = at_a_time
        self._tasks: dict[_Place, asyncio.Task[None]] = {}
        self._stops: dict[_Place, Callable[[], None]] = {}
        self._cancelled: set[_Place] = set()
        self._left: dict[_Place, tuple[Claim, _Step]] = {}
        self._late: set[_Place] = set()
        """Those of which it was said that their ends could not be written yet."""
        self._ending: Counter[_Place] = Counter()
        self._count_s = clock.now_s() + COUNT_EVERY_S
        """When to count next what we hold."""
        self._unheard: set[_Place] = set()
        """Runs with news that could not be read yet."""
        self._is_deaf = False
        """Whether news may have been lost on the way: we were handed it, and did not get it."""
        self._aside: set[asyncio.Task[Any]] = set()
        """What is done beside everything else: ends to be written, news to be read."""
        self._wake = asyncio.Event()
        self._watch = Watch({}, clock.now_s())
        self._stopping = False

    @property
    def working(self) -> int:
        """How many runs it works on, beside those that clients wait for."""
        return len(self._tasks)

    @property
    def is_stopping(self) -> bool:
        """Whether it ends, and leaves its runs to others."""
        return self._stopping

    async def enlist(self) -> None:
        """Become known, so that work can be held."""
        await self._log.renew(self.name)

    async def run(self) -> None:
        """Live, watch and work, until cancelled; an outage of the log is outlasted."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._for_ever(self.live, lambda: self._clock.sleep(RENEW_S)))
                tasks.create_task(self._for_ever(self.watch, lambda: self._clock.sleep(LOOK_S)))
                tasks.create_task(self._for_ever(self.work, self._woken))
        finally:
            await self.stop()

    def drain(self) -> None:
        """Begin nothing more; what clients leave behind from now on goes on in another server."""
        self._stopping = True

    async def stop(self) -> None:
        """Put back what is under way, so that others go on at once, and leave."""
        self.drain()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._aside, return_exceptions=True)
        with suppress(MurmurateError):  # then the others see it stand still
            await self._log.revoke(self.name)

    def wake(self) -> None:
        """Look for work at once: some was offered here."""
        self._wake.set()

    async def take_over(self, runner: str) -> None:
        """Free the runs of a runner that is known to be dead, and go on with them."""
        if await self._log.revoke(runner):
            self._events.event("runs.taken_over", runner=runner, told=True)
            self.wake()

    def holds(self, claim: Claim, *, stop: Callable[[], None]) -> None:
        """Note a run that a client waits for; `stop` ends it when somebody cancels it."""
        self._stops[claim.tenant, claim.stream] = stop

    def drops(self, claim: Claim) -> None:
        """Forget it."""
        self._stops.pop((claim.tenant, claim.stream), None)

    async def end(self, claim: Claim, write: _Step) -> bool:
        """Write what becomes of a run; where the log can't now, as soon as it can.

        Returns whether it is written: else it is still to be, or another runner's business by now,
        or over already, where an acknowledgement was lost. It goes on when whoever waits for it is
        cancelled: a run that nobody ends is held for ever.
        """
        return await asyncio.shield(self._do_aside(self._end(claim, write)))

    def end_soon(self, claim: Claim, write: _Step) -> None:
        """Write what becomes of a run, without keeping anybody waiting for it."""
        self._do_aside(self._end(claim, write))

    async def asks(self, journal: KeptJournal, waiting: RunWaitingError) -> None:
        """Let a run wait until somebody has decided what it asks."""
        now_ms = self._clock.unix_ms()
        await journal.ask(now_ms=now_ms, patience_s=waiting.patience_s)

    async def live(self) -> None:
        """Renew once; look into what we were nudged about; write the ends that were left.

        It waits for nothing but its own beat: who waits too long is taken for dead.
        """
        try:
            renewal = await self._log.renew(self.name)
        except MurmurateError:
            self._is_deaf = True
            raise
        if not renewal.known and self._tasks:  # we were taken for dead: others have all of it
            self._events.event("runs.revoked", runner=self.name, runs=len(self._tasks))
            for task in self._tasks.values():
                task.cancel()
        news = self._unheard.union(renewal.nudged)
        if self._is_deaf:
            news |= self._tasks.keys() | self._stops.keys()
        self._unheard, self._is_deaf = set(), False
        for tenant, stream in news:
            self._do_aside(self._look_into(tenant, stream))
        for place in list(self._left)[:LEFT_AT_ONCE]:
            self.end_soon(*self._left.pop(place))

    async def watch(self) -> None:
        """Look at the others' beats once; revoke who stands still."""
        beats = await self._log.beats()
        self._watch = looked(self._watch, beats, self._clock.now_s())
        for runner, beat in stood_still(self._watch, self.name).items():
            if await self._log.revoke(runner, beat=beat):
                self._events.event("runs.taken_over", runner=runner, told=False)
                self.wake()

    async def work(self) -> None:
        """Claim as much as there is room for, and begin it.

        Now and then, and after a claim whose answer was lost, begin what we hold unknowingly.
        """
        self._wake.clear()
        now_s = self._clock.now_s()
        if now_s >= self._count_s and not self._stopping:
            self._count_s = now_s + COUNT_EVERY_S
            for claim in await self._log.held(self.name):
                if claim.queue == QUEUE and not self.knows((claim.tenant, claim.stream)):
                    self._begin(claim)
        room = self._at_a_time - len(self._tasks)
        if room <= 0 or self._stopping:
            return
        self._count_s, later_s = now_s, self._count_s
        for claim in await self._log.claim(QUEUE, self.name, limit=room):
            self._begin(claim)
        self._count_s = later_s

    def knows(self, place: _Place) -> bool:
        """Tell whether somebody here works on a run, or writes the end of some work."""
        return any(place in known for known in (self._tasks, self._stops, self._left, self._ending))

    async def read(self, tenant: str, run_id: str) -> RunState:
        """Return what is known of a run. `LogCorruptError`: its entries are damaged."""
        async with aclosing(self._log.read(tenant, stream_of(run_id))) as entries:
            return folded(run_id, [stored async for stored in entries])

    def _begin(self, claim: Claim) -> None:
        place = (claim.tenant, claim.stream)
        self._tasks[place] = asyncio.create_task(self._go_on(claim))
        self._tasks[place].add_done_callback(lambda task: self._ended(place, task))

    def _do_aside(self, work: Coroutine[Any, Any, _T]) -> "asyncio.Task[_T]":
        task = asyncio.create_task(work)
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)
        return task

    async def _end(self, claim: Claim, write: _Step) -> bool:
        place = (claim.tenant, claim.stream)
        self._ending[place] += 1
        try:
            try:
                await write()
            except LogCorruptError:
                await put_aside(self._log, claim)
        except FencedError:
            self._late.discard(place)
            return False
        except MurmurateError as error:
            if place not in self._late:
                self._events.event("runs.not_ended", code=error.code, detail=error.detail)
            if place in self._left or len(self._left) < LEFT_MAX:
                self._left[place] = (claim, write)
                self._late.add(place)
            return False
        finally:
            self._ending -= Counter([place])
        self._late.discard(place)
        return True

    async def _for_ever(self, step: _Step, pause: _Step) -> None:
        failed = False
        while True:
            try:
                await step()
                failed = False
            except MurmurateError as error:
                if not failed:
                    self._events.event("runs.log", code=error.code, detail=error.detail)
                failed = True
            except Exception as fault:  # noqa: BLE001 - without a beat all its runs would be lost
                if not failed:
                    self._events.event("runs.fault", detail=f"{type(fault).__name__}: {fault}")
                failed = True
            await pause()

    async def _woken(self) -> None:
        """Wait until there may be something to claim."""
        waiting = asyncio.ensure_future(self._wake.wait())
        sleeping = asyncio.ensure_future(self._clock.sleep(CLAIM_POLL_S))
        try:
            await asyncio.wait((waiting, sleeping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            sleeping.cancel()

    def _ended(self, place: _Place, task: asyncio.Task[None]) -> None:
        if self._tasks.get(place) is task:  # not one that we have claimed anew meanwhile
            del self._tasks[place]
            self._cancelled.discard(place)
        self.wake()  # there is room again

    async def _look_into(self, tenant: str, stream: str) -> None:
        """End a run of ours that somebody has cancelled."""
        try:
            asked = (await self.read(tenant, id_of(stream))).cancel_asked
        except LogCorruptError:
            return  # whoever works on it finds that, too
        except MurmurateError:
            self._unheard.add((tenant, stream))
            return
        if not asked:
            return
        if (stop := self._stops.get((tenant, stream))) is not None:
            stop()
        if (task := self._tasks.get((tenant, stream))) is not None:
            self._cancelled.add((tenant, stream))
            task.cancel()

    async def _go_on(self, claim: Claim) -> None:
        """Work on a run from where its journal ends."""
        log = self._log
        try:
            state = await self.read(claim.tenant, id_of(claim.stream))
        except LogCorruptError as damage:
            await self.end(claim, lambda damage=damage: give_up(log, claim, damage))
            return
        except MurmurateError:
            later_ms = self._clock.unix_ms() + UNREAD_PAUSE_MS
            await self.end(claim, lambda: put_back(log, claim, due_ms=later_ms))
            return
        except asyncio.CancelledError:  # before it was begun; the next one to look sees why
            await self.end(claim, lambda: put_back(log, claim))
            raise
        journal = KeptJournal.taken_over(log, claim, state.begun, state.steps, ends=state.ends)
        lost = claim.epoch - state.epoch_last - 1
        if state.status is not RunStatus.UNDER_WAY:
            await self.end(claim, lambda: strike_off(log, claim))
        elif state.cancel_asked:
            await self.end(claim, journal.cancel)
        elif state.asked:  # its work was lost, and made anew where the log was mended
            due_ms = min(it.due_ms for it in state.asked)
            await self.end(claim, lambda: put_asking(log, claim, due_ms))
        elif is_poison(epoch=claim.epoch, epoch_last=state.epoch_last):
            poison = RunPoisonError(f"{lost} servers in a row died while they worked on it")
            await self.end(claim, lambda: journal.give_up(poison))
        else:
            await self._attempt(journal, state)

    async def _attempt(self, journal: KeptJournal, state: RunState) -> None:
        """Answer the run's request; what its journal knows is not done again."""
        request, claim = state.begun.request, journal.claim
        self._journals.open(request, journal)
        # In the trace of whoever asked, but a root of its own: the one of the request has ended.
        trace, tenant = TraceRef(request.trace.trace_id), request.tenant
        facts = {"run": state.id, "epoch": claim.epoch}
        try:
            async with in_time(state.begun.deadline_ms, now_ms=self._clock.unix_ms()):
                with self._tracer.span(trace, "run", tenant=tenant, **facts) as span:
                    work = msgspec.structs.replace(request, trace=span.ref)
                    async with aclosing(self._below.answer(work)) as deltas:
                        answer: list[Delta] = [delta async for delta in deltas]
                if not journal.is_over:
                    await journal.finish([], answer)
        except FencedError:
            return
        except RunWaitingError as waiting:
            await self.end(claim, lambda waiting=waiting: self.asks(journal, waiting))
        except RunDeadlineError as late:
            await self.end(claim, lambda late=late: journal.fail(late))
        except asyncio.CancelledError:
            asked = (claim.tenant, claim.stream) in self._cancelled
            write = journal.cancel if asked else lambda: put_back(self._log, claim)
            await self.end(claim, write)
            raise
        except MurmurateError as error:
            await self._stumbled(journal, state, error)
        except Exception as fault:  # noqa: BLE001 - one that nobody foresaw ends no server
            what = MurmurateError(f"fault: {type(fault).__name__}: {fault}")
            await self._stumbled(journal, state, what)
        finally:
            self._journals.close(request, journal)

    async def _stumbled(self, journal: KeptJournal, state: RunState, error: MurmurateError) -> None:
        """Try again later, or give the run up."""
        stumbles = 0 if journal.has_advanced else state.stumbles
        again = again_ms(error, stumbles=stumbles, now_ms=self._clock.unix_ms())
        if again is None:
            await self.end(journal.claim, lambda: journal.give_up(error))
        else:
            await self.end(journal.claim, lambda: journal.try_later(error, again))
