"""Runs that begin by themselves: a schedule is work that is due at its next time.

Firing is one append: the run begins, its time is written down, and the schedule is offered again
for the next. The run's id follows from the schedule and the time, so a time that comes again
(the clock was set back, a backup was restored) finds its run there and begins none.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from enum import StrEnum

import msgspec

from murmurate.config import Missed, ScheduleConfig
from murmurate.core.clock import Clock
from murmurate.core.cron import Cron
from murmurate.core.errors import (
    FencedError,
    LogConflictError,
    LogCorruptError,
    MurmurateError,
)
from murmurate.core.ids import Ids, named
from murmurate.core.ports import Claim, Done, Entry, EventLog, Log, Offer, Work
from murmurate.core.types import (
    Frozen,
    Lane,
    Message,
    Origin,
    OriginKind,
    Request,
    Role,
    SessionRef,
    TextPart,
    TraceRef,
)
from murmurate.jobs.deadlines import deadline_offer
from murmurate.jobs.entries import QUEUE, Begun, Kind, stream_of
from murmurate.jobs.journal import put_off, strike_off

SCHEDULES = "schedules"
PREFIX = "schedule/"
MISSED_MS = 60_000
"""A time that is longer ago was missed: until then a busy service was only late."""
LOOK_S = 30.0
"""How often to see whether the clock was set back."""
AGAIN_S = 1.0
OTHERS_MS_MIN, OTHERS_MS_MAX = 1_000, 60_000
"""How long to leave a schedule to servers that know it, when this one does not."""
KEPT = 64
"""Of so many firings at most, and at least the last, the entries are kept."""
NEW_SESSION = "new"

HasSession = Callable[[str, str], Awaitable[bool]]
"""Tells whether a tenant has a session of that id."""


class ScheduleKind(StrEnum):
    """The kinds of a schedule's entries. Each says all that is known of it."""

    SET = "schedule.set"
    FIRED = "schedule.fired"
    SKIPPED = "schedule.skipped"
    REMOVED = "schedule.removed"


class Placed(Frozen, frozen=True, omit_defaults=True):
    """When a schedule is due next, by which rule, and what it did last."""

    cron: str
    zone: str
    next_ms: int
    last_ms: int | None = None
    last_run: str | None = None
    is_removed: bool = False


class ScheduleInfo(Frozen, frozen=True):
    """A schedule as a list shows it. `next_ms` is None as long as it has not been taken up."""

    name: str
    cron: str
    zone: str
    model: str
    next_ms: int | None = None
    last_ms: int | None = None
    last_run: str | None = None


class Schedules:
    """Fires the schedules of the configuration, beside all other servers that do."""

    def __init__(
        self,
        schedules: Mapping[str, ScheduleConfig],
        *,
        log: Log,
        clock: Clock,
        ids: Ids,
        events: EventLog,
        has_session: HasSession,
        tenants: Callable[[], Collection[str]],
    ) -> None:
        """`tenants` says whose schedules may be left over from a configuration before."""
        self._schedules = schedules
        self._crons = {name: Cron(it.cron, it.zone) for name, it in schedules.items()}
        self._log = log
        self._clock = clock
        self._ids = ids
        self._events = events
        self._has_session = has_session
        self._tenants = tenants

    async def keep(self) -> None:
        """Take up what the configuration says, then mind the clock, until cancelled."""
        taken_up = False
        while True:
            try:
                await (self.mind() if taken_up else self.take_up())
            except (LogConflictError, FencedError):
                pause_s = AGAIN_S  # another server does the same just now
            except MurmurateError as error:
                self._events.event("schedules.log", code=error.code, detail=error.detail)
                pause_s = LOOK_S if taken_up else AGAIN_S
            else:
                taken_up, pause_s = True, LOOK_S
            await self._clock.sleep(pause_s)

    async def take_up(self) -> None:
        """Offer what is new or was changed, and withdraw what is configured no more.

        `LogConflictError`, `FencedError`: another server writes at this moment; do it again.
        """
        for tenant in sorted({*self._tenants(), *(it.tenant for it in self._schedules.values())}):
            waiting = await self._waiting(tenant)
            for name, schedule in self._schedules.items():
                if schedule.tenant == tenant:
                    await self._place(name, is_offered=_stream(name) in waiting)
            for stream in waiting:
                schedule = self._schedules.get(stream.removeprefix(PREFIX))
                if schedule is None or schedule.tenant != tenant:
                    await self._remove(tenant, stream)

    async def mind(self) -> None:
        """See that no schedule waits for a time that is not its next: the clock was set back."""
        for name, schedule in self._schedules.items():
            state, _ = await self._read(schedule.tenant, _stream(name))
            if state is not None and self._is_ours(name, state):
                await self._place(name, is_offered=True)

    async def fire(self, claim: Claim) -> None:
        """Do the errand: begin the run of a time that has come, and wait for the next."""
        name = claim.stream.removeprefix(PREFIX)
        state, head = await self._read(claim.tenant, claim.stream)
        now_ms = self._clock.unix_ms()
        schedule = self._schedules.get(name)
        if state is None and schedule is not None and schedule.tenant == claim.tenant:
            state = self._anew(name, now_ms)  # it is damaged: when it was due nobody knows
        if state is None or state.is_removed:
            await strike_off(self._log, claim)
            return
        if schedule is None or schedule.tenant != claim.tenant or not self._is_ours(name, state):
            pause_ms = min(max((now_ms - state.next_ms) // 4, OTHERS_MS_MIN), OTHERS_MS_MAX)
            await put_off(self._log, claim, now_ms + pause_ms)
            return
        if now_ms < state.next_ms:
            await self._go_on(claim, ScheduleKind.SET, state)
            return
        missed = now_ms - state.next_ms > MISSED_MS
        next_ms = self._crons[name].after(now_ms if missed else state.next_ms)
        if missed and schedule.missed is Missed.SKIP:
            self._events.event("schedule.skipped", schedule=name, at_ms=state.next_ms)
            later = msgspec.structs.replace(state, next_ms=next_ms)
            await self._go_on(claim, ScheduleKind.SKIPPED, later)
        else:
            await self._begin(claim, name, state, next_ms)
        if head and head % KEPT == 0:
            await self._log.forget(claim.tenant, claim.stream, before=head)

    async def listing(self, tenant: str) -> Sequence[ScheduleInfo]:
        """Return the tenant's schedules, in the order of the configuration."""
        found: list[ScheduleInfo] = []
        for name, it in self._schedules.items():
            if it.tenant != tenant:
                continue
            info = ScheduleInfo(name, it.cron, it.zone, it.model)
            state, _ = await self._read(tenant, _stream(name))
            if state is not None:
                info = msgspec.structs.replace(info, last_ms=state.last_ms, last_run=state.last_run)
                if self._is_ours(name, state):
                    info = msgspec.structs.replace(info, next_ms=state.next_ms)
            found.append(info)
        return found

    def _anew(self, name: str, now_ms: int) -> Placed:
        self._events.event("schedule.damaged", schedule=name)
        schedule = self._schedules[name]
        return Placed(schedule.cron, schedule.zone, self._crons[name].after(now_ms))

    async def _place(self, name: str, *, is_offered: bool) -> None:
        """Offer a schedule for its next time, unless it is so already."""
        schedule, stream = self._schedules[name], _stream(name)
        state, head = await self._read(schedule.tenant, stream)
        next_ms = self._crons[name].after(self._clock.unix_ms())
        known = state is not None and self._is_ours(name, state)
        if state is not None and known and is_offered and state.next_ms <= next_ms:
            return  # one that is over was missed, or fires at this moment
        if state is not None and known:
            next_ms = min(state.next_ms, next_ms)
        last = (None, None) if state is None else (state.last_ms, state.last_run)
        placed = Placed(schedule.cron, schedule.zone, next_ms, *last)
        await self._log.append(
            [self._entry(schedule.tenant, stream, ScheduleKind.SET, placed)],
            expected={(schedule.tenant, stream): head},
            work=[Offer(schedule.tenant, stream, SCHEDULES, due_ms=next_ms)],
        )

    async def _remove(self, tenant: str, stream: str) -> None:
        state, head = await self._read(tenant, stream)
        entries: list[Entry] = []
        if state is not None:
            gone = msgspec.structs.replace(state, is_removed=True)
            entries.append(self._entry(tenant, stream, ScheduleKind.REMOVED, gone))
        await self._log.append(
            entries, expected={(tenant, stream): head}, work=[Done(tenant, stream)]
        )

    async def _begin(self, claim: Claim, name: str, state: Placed, next_ms: int) -> None:
        """Begin the run of a time, unless it has begun before."""
        schedule, at_ms = self._schedules[name], state.next_ms
        run_id = named("run", f"{claim.tenant}/{name}", at_ms=at_ms)
        place = (claim.tenant, stream_of(run_id))
        begun = Begun(await self._request(schedule), background=True, webhook=schedule.webhook)
        work: list[Work] = [
            Offer(*place, QUEUE, priority=schedule.priority),
            Offer(claim.tenant, claim.stream, SCHEDULES, due_ms=next_ms),
        ]
        if schedule.deadline_s is not None:
            deadline_ms = self._clock.unix_ms() + int(schedule.deadline_s * 1000)
            begun = msgspec.structs.replace(begun, deadline_ms=deadline_ms)
            work.append(deadline_offer(claim.tenant, run_id, deadline_ms))
        fired = Placed(state.cron, state.zone, next_ms, at_ms, run_id)
        try:
            await self._log.append(
                [
                    Entry(*place, Kind.BEGUN.value, msgspec.json.encode(begun)),
                    self._entry(claim.tenant, claim.stream, ScheduleKind.FIRED, fired),
                ],
                expected={place: 0},
                fence=claim,
                work=work,
            )
        except LogConflictError:  # this time came before: its run is there
            await self._go_on(claim, ScheduleKind.FIRED, fired)
        else:
            self._events.event("schedule.fired", schedule=name, run=run_id, at_ms=at_ms)

    async def _go_on(self, claim: Claim, kind: ScheduleKind, placed: Placed) -> None:
        """Wait for the next time without a run."""
        await self._log.append(
            [self._entry(claim.tenant, claim.stream, kind, placed)],
            fence=claim,
            work=[Offer(claim.tenant, claim.stream, SCHEDULES, due_ms=placed.next_ms)],
        )

    async def _request(self, schedule: ScheduleConfig) -> Request:
        part = TextPart(schedule.message, Origin(OriginKind.USER))
        return Request(
            id=self._ids.new("req"),
            tenant=schedule.tenant,
            model=schedule.model,
            messages=(Message(Role.USER, (part,)),),
            lane=Lane.BATCH,
            session=await self._session(schedule),
            trace=TraceRef(self._ids.trace_id(), tenant=schedule.tenant),
        )

    async def _session(self, schedule: ScheduleConfig) -> SessionRef | None:
        if schedule.session is None:
            return None
        if schedule.session == NEW_SESSION:
            return SessionRef(self._ids.new("sess"), new=True)
        known = await self._has_session(schedule.tenant, schedule.session)
        return SessionRef(schedule.session, new=not known)

    def _is_ours(self, name: str, state: Placed) -> bool:
        """Tell whether the log has the schedule as this server's configuration has it."""
        schedule = self._schedules[name]
        rule = (schedule.cron, schedule.zone)
        return not state.is_removed and (state.cron, state.zone) == rule

    async def _waiting(self, tenant: str) -> list[str]:
        async with aclosing(self._log.work(tenant, SCHEDULES)) as work:
            return [info.stream async for info in work]

    async def _read(self, tenant: str, stream: str) -> tuple[Placed | None, int]:
        """Return what the last entry says, and its seq; None where it is damaged, or none is."""
        async with aclosing(self._log.streams(tenant, stream)) as streams:
            info = await anext(streams, None)
        if info is None or info.stream != stream:
            return None, 0
        try:
            async with aclosing(self._log.read(tenant, stream, after=info.head - 1)) as entries:
                found = [msgspec.json.decode(it.body, type=Placed) async for it in entries]
        except (LogCorruptError, msgspec.MsgspecError):
            found = []
        return found[-1] if found else None, info.head

    def _entry(self, tenant: str, stream: str, kind: ScheduleKind, placed: Placed) -> Entry:
        return Entry(tenant, stream, kind.value, msgspec.json.encode(placed))


def _stream(name: str) -> str:
    return f"{PREFIX}{name}"
