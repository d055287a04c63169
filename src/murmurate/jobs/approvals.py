"""Calls that somebody must decide before an agent makes them: who is asked, and what was said.

A run that asks is held by nobody. It stands in a queue from which no runner claims, due when its
questions count as denied, and everything about it is in its stream (`Kind.ASKED`). A decision is
one append that nothing may have come before: the step of the approval, a line of the audit stream,
and, with the last one, the run's way back to the runners.
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import aclosing
from enum import StrEnum

import msgspec

from murmurate.core.clock import Clock
from murmurate.core.errors import (
    ApprovalDecidedError,
    ApprovalOwnError,
    BadRequestError,
    FencedError,
    LogConflictError,
    LogCorruptError,
    MurmurateError,
    NotFoundError,
    RunOverError,
)
from murmurate.core.journal import Decision, StepKind
from murmurate.core.ports import Claim, Entry, EventLog, Log, Offer, WorkInfo
from murmurate.core.types import Caller, Frozen
from murmurate.jobs.entries import (
    ASKING,
    QUEUE,
    Asked,
    Kind,
    RunState,
    RunStatus,
    StepDone,
    folded,
    id_of,
    stream_of,
)
from murmurate.jobs.journal import KeptJournal, put_off, strike_off
from murmurate.jobs.runner import Runner

AUDIT_TENANT, AUDIT = "system", "audit/approvals"
"""Who decided what, of all tenants. Like that of the keys it forgets nothing."""
TRIES_MAX = 40
TRY_S = 0.1
"""Longer than it takes until a server is given up that died with a run in its hands."""
COUNT_EVERY_S = 10.0


class How(StrEnum):
    """The kinds of the audit's entries."""

    APPROVED = "call.approved"
    DENIED = "call.denied"
    TIMED_OUT = "call.timed_out"


class Verdict(Frozen, frozen=True):
    """A line of the audit: what was decided, by whom, when and why. Never what a call says."""

    run: str
    number: int
    tool: str
    agent: str
    tenant: str
    began_by: str | None
    by: str | None
    at_ms: int
    reason: str


class Approval(Frozen, frozen=True, omit_defaults=True):
    """A call that waits for a decision."""

    id: str
    """The run and the number of the step, `run:number`."""
    run: str
    step: int
    agent: str
    tool: str
    arguments: str
    asked_ms: int
    due_ms: int
    """When it counts as denied."""
    began_by: str | None = None
    """The key that began the run: it may not decide."""
    session: str | None = None


class Approvals:
    """What a tenant's agents ask for, and the place to decide it."""

    def __init__(
        self,
        runner: Runner,
        *,
        log: Log,
        clock: Clock,
        events: EventLog,
        own: bool,
        tenants: Callable[[], Collection[str]],
    ) -> None:
        """`own`: whoever began a run may approve its calls."""
        self._runner = runner
        self._log = log
        self._clock = clock
        self._events = events
        self._own = own
        self._tenants = tenants
        self.waiting = 0
        """How many runs of all tenants wait for an approval, at the last count."""
        self._next_asked_ms: int | None = None

    @property
    def oldest_s(self) -> float:
        """How long the question has waited that will time out next."""
        asked_ms = self._next_asked_ms
        return 0.0 if asked_ms is None else max(self._clock.unix_ms() - asked_ms, 0) / 1000

    async def listing(self, tenant: str, *, limit: int) -> Sequence[Approval]:
        """Return at most `limit` calls that wait for a decision, those of the oldest runs first."""
        found: list[Approval] = []
        async with aclosing(self._log.work(tenant, ASKING)) as work:
            async for info in work:
                try:
                    state, _ = await self._state(tenant, id_of(info.stream))
                except (LogCorruptError, NotFoundError):
                    continue  # whoever works on it finds that, too
                found += [_shown(state, asked) for asked in state.asked]
                if len(found) >= limit:
                    break
        return found[:limit]

    async def decide(
        self, caller: Caller, name: str, *, approved: bool, reason: str = ""
    ) -> Approval:
        """Decide a call: `run:number`, or a run that waits for one decision only.

        Raises:
            NotFoundError: The tenant has no such run, or it has not asked for that.
            ApprovalOwnError: Whoever began the run decides nothing of it.
            ApprovalDecidedError: Somebody was faster.
            RunOverError: The run was ended while it waited.
        """
        run_id, number = _parts(name)
        decision = Decision(approved=approved, reason=reason, by=caller.key_id)
        for _ in range(TRIES_MAX):
            state, head = await self._state(caller.tenant, run_id)
            asked = question(state, number)
            if not self._own and asked.by == caller.key_id:
                raise ApprovalOwnError(
                    f"this key began {run_id}, so somebody with another key decides: one with the"
                    " scope `approve` (`murmurate keys create`). Where one person has all keys,"
                    " `[approvals] own = true` lets this key decide"
                )
            try:
                await self._append(state, [asked], decision, head=head)
            except LogConflictError:
                continue  # another decision, perhaps of another call
            except FencedError:  # its time is just over
                await self._clock.sleep(TRY_S)
                continue
            self._runner.wake()
            return _shown(state, asked)
        raise LogConflictError(f"{run_id} is changed again and again: try again")

    async def settle(self, claim: Claim) -> None:
        """Do the errand of a run that asks and is due: its time is over, or somebody ends it."""
        try:
            state, head = await self._state(claim.tenant, id_of(claim.stream))
        except LogCorruptError:
            await self._give_back(claim)  # a runner puts it among the dead
            return
        now_ms = self._clock.unix_ms()
        over = [it for it in state.asked if it.due_ms <= now_ms]
        if state.status is not RunStatus.UNDER_WAY:
            await strike_off(self._log, claim)
        elif state.cancel_asked:
            past = (state.begun, state.steps)
            await KeptJournal.taken_over(self._log, claim, *past, ends=state.ends).cancel()
        elif over:
            decision = Decision(approved=False, reason="nobody has decided in time")
            await self._append(state, over, decision, head=head, fence=claim)
            self._runner.wake()
        elif state.asked:
            await put_off(self._log, claim, min(it.due_ms for it in state.asked))
        else:
            await self._give_back(claim)

    async def keep_count(self) -> None:
        """Count what waits, every ten seconds, until cancelled; an outage is noted once."""
        failed = False
        while True:
            try:
                await self.count()
                failed = False
            except MurmurateError as error:
                if not failed:
                    self._events.event("approvals.log", code=error.code, detail=error.detail)
                failed = True
            await self._clock.sleep(COUNT_EVERY_S)

    async def count(self) -> None:
        """Count what waits, and see how long the one has waited that will time out next."""
        waiting, next_out = 0, None
        for tenant in sorted(self._tenants()):
            async with aclosing(self._log.work(tenant, ASKING)) as work:
                async for info in work:
                    waiting += 1
                    next_out = _sooner(next_out, info)
        self.waiting, self._next_asked_ms = waiting, None
        if next_out is not None:
            state, _ = await self._state(next_out.tenant, id_of(next_out.stream))
            self._next_asked_ms = min((it.at_ms for it in state.asked), default=None)

    async def _append(
        self,
        state: RunState,
        decided: Sequence[Asked],
        decision: Decision,
        *,
        head: int,
        fence: Claim | None = None,
    ) -> None:
        """Write a decision about these calls; with the last one, the run goes on."""
        tenant = state.begun.request.tenant
        place = (tenant, stream_of(state.id))
        said = msgspec.Raw(msgspec.json.encode(decision))
        steps = [
            StepDone(it.number, StepKind.APPROVAL, it.name, said, it.arguments) for it in decided
        ]
        left = [it for it in state.asked if it not in decided]
        # Where some are left, whoever holds the run (its time is over) lets go of it all the same.
        offer = Offer(*place, ASKING, due_ms=min(it.due_ms for it in left)) if left else None
        work = [Offer(*place, QUEUE)] if offer is None else [offer] if fence else []
        await self._log.append(
            [
                *(Entry(*place, Kind.STEP.value, msgspec.json.encode(it)) for it in steps),
                *(_audit(it, state, decision, at_ms=self._clock.unix_ms()) for it in decided),
            ],
            expected={place: head},
            fence=fence,
            work=work,
        )

    async def _give_back(self, claim: Claim) -> None:
        """Let a runner go on with it."""
        again = Offer(claim.tenant, claim.stream, QUEUE)
        await self._log.append([], fence=claim, work=[again])
        self._runner.wake()

    async def _state(self, tenant: str, run_id: str) -> tuple[RunState, int]:
        """Return what is known of a run, and the number of its last entry."""
        async with aclosing(self._log.read(tenant, stream_of(run_id))) as entries:
            found = [stored async for stored in entries]
        if not found:
            raise NotFoundError(f"there is no run {run_id[:64]!r}")
        return folded(run_id, found), found[-1].seq


def question(state: RunState, number: int | None) -> Asked:
    """Return what is to be decided, or say why nothing is; None: the only one that waits."""
    open_ = {it.number: it for it in state.asked}
    if number is None and len(open_) > 1:
        known = ", ".join(f"{state.id}:{it}" for it in open_)
        raise BadRequestError(f"{state.id} waits for {len(open_)} decisions, name one: {known}")
    found = next(iter(open_.values()), None) if number is None else open_.get(number)
    if found is not None:
        return found
    said = [
        it for it in state.steps if it.kind is StepKind.APPROVAL and number in {None, it.number}
    ]
    if said:
        raise ApprovalDecidedError(_who(state.id, said[-1]))
    if state.status is not RunStatus.UNDER_WAY:
        raise RunOverError(
            f"{state.id} has {state.status.value} already: there is nothing to decide"
        )
    what = "" if number is None else f" at step {number}"
    raise NotFoundError(
        f"{state.id} asks nothing{what}: `murmurate runs approvals` lists what is asked"
    )


def _who(run_id: str, step: StepDone) -> str:
    decision = msgspec.json.decode(step.outcome, type=Decision)
    how = "approved" if decision.approved else "denied"
    who = "nobody decided in time, so it was" if decision.by is None else f"{decision.by} has"
    reason = f": {decision.reason}" if decision.by is not None and decision.reason else ""
    return f"{run_id}:{step.number} ({step.name}) is decided: {who} {how}{reason}"


def _parts(name: str) -> tuple[str, int | None]:
    """Return the run and the step of `run:number`, or the run alone."""
    run_id, colon, number = name.partition(":")
    if not colon:
        return run_id, None
    if not (number.isdecimal() and number.isascii() and len(number) <= 9):
        raise NotFoundError(f"there is no approval {name[:80]!r}: expected RUN:NUMBER")
    return run_id, int(number)


def _shown(state: RunState, asked: Asked) -> Approval:
    session = state.begun.request.session
    return Approval(
        id=f"{state.id}:{asked.number}",
        run=state.id,
        step=asked.number,
        agent=asked.agent,
        tool=asked.name,
        arguments=asked.arguments,
        asked_ms=asked.at_ms,
        due_ms=asked.due_ms,
        began_by=asked.by,
        session=None if session is None else session.id,
    )


def _audit(asked: Asked, state: RunState, decision: Decision, *, at_ms: int) -> Entry:
    how = How.APPROVED if decision.approved else How.DENIED
    how = How.TIMED_OUT if decision.by is None else how
    verdict = Verdict(
        run=state.id,
        number=asked.number,
        tool=asked.name,
        agent=asked.agent,
        tenant=state.begun.request.tenant,
        began_by=asked.by,
        by=decision.by,
        at_ms=at_ms,
        reason=decision.reason,
    )
    return Entry(AUDIT_TENANT, AUDIT, how.value, msgspec.json.encode(verdict))


def _sooner(known: WorkInfo | None, info: WorkInfo) -> WorkInfo:
    return info if known is None or info.due_ms < known.due_ms else known
