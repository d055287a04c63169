"""The journal of a run: what was done gives its outcome, what was not is done and written."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from murmurate.core.errors import (
    FencedError,
    LogCorruptError,
    LogUnavailableError,
    MurmurateError,
    RunDivergedError,
)
from murmurate.core.journal import Journal, StepKind, Unkept
from murmurate.core.ports import NEVER_MS, Claim, Done, Entry, Log, Offer, Work
from murmurate.core.types import Delta, Frozen, Request
from murmurate.jobs.batch_lines import is_line, line_told, lost_line
from murmurate.jobs.entries import (
    ASKING,
    DEAD,
    QUEUE,
    Answer,
    Asked,
    Begun,
    Failed,
    Kind,
    Nothing,
    Read,
    StepDone,
    Stumbled,
    answer_of,
    id_of,
)
from murmurate.jobs.notices import Told, told_of

DETAIL_CHARS_MAX = 500
"""How much of an error's words is kept: they may quote what a model said."""
NOTHING = msgspec.Raw(b"null")
"""What a step has come to that is only begun."""


class KeptJournal:
    """The journal of one run, for whoever holds the run.

    A run that is just begun writes its beginning together with its first step: until then nothing
    was done that could be lost, and a request that does no step (its answer was cached) leaves no
    run behind.
    """

    def __init__(
        self,
        log: Log,
        claim: Claim,
        begun: Begun,
        past: Iterable[StepDone] = (),
        *,
        ends: int = 0,
    ) -> None:
        """`ends` says how often the run has ended before."""
        self.claim = claim
        self._log = log
        self._ends = ends
        self._begun = begun
        self._past: Mapping[int, StepDone] = {step.number: step for step in past}
        self._numbers = 0
        self._undecided: list[StepDone] = []
        """The approvals that this attempt has begun and nobody has decided."""
        self._last: list[Entry] = []
        self._read: list[Entry] = []
        """Up to where the session was read, until it is written with whatever comes next."""
        self.is_written = False
        self._may_be_written = False
        """Whether the log may have kept the beginning, although it said that it could not."""
        self.is_over = False
        self.has_advanced = False
        """Whether this attempt has done a step."""

    @classmethod
    def taken_over(
        cls, log: Log, claim: Claim, begun: Begun, past: Iterable[StepDone], *, ends: int = 0
    ) -> "KeptJournal":
        """Return the journal of a run that the log knows already."""
        journal = cls(log, claim, begun, past, ends=ends)
        journal.is_written = True
        return journal

    @property
    def seen(self) -> int | None:
        """The end of its session when the run began; see `Journal`."""
        return self._begun.seen

    def sees(self, seq: int) -> None:
        """Note up to which entry its session was read; see `Journal`."""
        if self.is_written and self.seen is None:
            self._read = [self._entry(Kind.READ, Read(seq))]
        self._begun = msgspec.structs.replace(self._begun, seen=seq)

    def step(self, kind: StepKind, name: str, arguments: str = "") -> "KeptStep":
        """Begin the next step; see `Journal`."""
        self._numbers += 1
        number = self._numbers
        past = self._past.get(number)
        begun = StepDone(number, kind, name, NOTHING, arguments)
        if past is not None and msgspec.structs.replace(past, outcome=NOTHING) != begun:
            was, now = f"{past.kind.value} {past.name!r}", f"{kind.value} {name!r}"
            raise RunDivergedError(
                f"step {number} of {id_of(self.claim.stream)} was {was} and would be"
                f" {now if now != was else 'that with other arguments'} now: the agent, its code"
                " or its documents have changed in between. `murmurate replay` shows where"
            )
        if kind is StepKind.APPROVAL and past is None:
            self._undecided.append(begun)
        return KeptStep(self, begun, past)

    async def finish(self, entries: Sequence[Entry], answer: Sequence[Delta]) -> None:
        """Write the run's end, and the entries with it; see `Journal`."""
        if self.is_written or self._last:
            whole = answer_of(answer)
            end = self._entry(Kind.FINISHED, whole)
            told, offers = self._told(Kind.FINISHED, whole)
            await self._append([*self._last, *entries, end, *told], Done(*self._place), *offers)
        elif entries:
            await self._log.append(entries)
        self.is_over = True  # not before: whoever is cancelled here does not know what was written

    async def fail(self, error: MurmurateError) -> None:
        """Give the run up: whoever asked was told why."""
        await self._end(Kind.FAILED, failure_of(error), Done(*self._place), error=error)

    async def give_up(self, error: MurmurateError) -> None:
        """Put the run among the dead: nobody waits for it, and somebody should look."""
        await self._end(Kind.FAILED, failure_of(error), dead(self.claim), error=error)

    async def cancel(self) -> None:
        """End the run as somebody wished."""
        await self._end(Kind.CANCELLED, Nothing(), Done(*self._place))

    async def try_later(self, error: MurmurateError, again_ms: int) -> None:
        """Let any runner try again at that time."""
        stumbled = Stumbled(error.code, error.detail[:DETAIL_CHARS_MAX], again_ms)
        await self._end(Kind.STUMBLED, stumbled, Offer(*self._place, QUEUE, due_ms=again_ms))

    async def ask(self, *, now_ms: int, patience_s: float) -> None:
        """Write down what somebody must decide, and let go of the run until it is decided."""
        due_ms = now_ms + int(patience_s * 1000)
        agent, by = self._begun.request.model, self._begun.request.key or None
        asked = [
            Asked(it.number, it.name, it.arguments, agent, now_ms, due_ms, by)
            for it in self._undecided
        ]
        self.is_over = True
        told, offers = told_of(
            self._begun, self._place, how=Kind.ASKED, ends=self._ends, asked=asked[0].number
        )
        entries = [self._entry(Kind.ASKED, it) for it in asked]
        await self._append([*entries, *told], Offer(*self._place, ASKING, due_ms=due_ms), *offers)

    async def write(self, step: StepDone) -> None:
        """Write a step, durable when this returns."""
        await self._append([self._entry(Kind.STEP, step)])
        self.has_advanced = True

    def hold(self, step: StepDone) -> None:
        """Keep the last step for the run's end."""
        self._last.append(self._entry(Kind.STEP, step))

    @property
    def _place(self) -> tuple[str, str]:
        return self.claim.tenant, self.claim.stream

    async def _end(
        self, kind: Kind, body: Frozen, work: Work, *, error: MurmurateError | None = None
    ) -> None:
        self.is_over = True
        if self.is_written or self._may_be_written:
            self.is_written = True  # if it is not, the proof that we hold it is refused
            told, offers = self._told(kind, error)
            await self._append([self._entry(kind, body), *told], work, *offers)

    def _told(self, kind: Kind, outcome: Answer | MurmurateError | None = None) -> Told:
        return all_told(self._begun, self._place, how=kind, ends=self._ends, outcome=outcome)

    async def _append(self, entries: Sequence[Entry], *work: Work) -> None:
        if self.is_written:
            await self._log.append([*self._read, *entries], fence=self.claim, work=work)
            self._read = []
            return
        self.is_written = True  # of steps side by side the first one writes the beginning
        begun = self._entry(Kind.BEGUN, self._begun)
        # Work that begins and ends in one append needs no holder.
        held = () if work else (Offer(*self._place, QUEUE, holder=self.claim.runner),)
        left = [it for it in work if isinstance(it, Offer)]
        try:
            await self._log.append([begun, *entries], work=held or left)
        except FencedError as cause:  # nobody else goes on with a run that was not begun
            self.is_written = False
            raise LogUnavailableError(
                "this server was taken for dead a moment ago and begins nothing before its next"
                " beat; nothing was written: retry after 1 s",
                retry_s=1.0,
            ) from cause
        except MurmurateError as error:
            self.is_written = False
            # The answer of a PostgreSQL can be lost, and then this run is held by us.
            self._may_be_written = bool(held) and isinstance(error, LogUnavailableError)
            raise

    def _entry(self, kind: Kind, body: Frozen) -> Entry:
        return Entry(*self._place, kind.value, msgspec.json.encode(body))


class KeptStep:
    """A step of a run; see `core.journal.Step`."""

    def __init__(self, journal: KeptJournal, begun: StepDone, past: StepDone | None) -> None:
        self._journal = journal
        self._begun = begun
        self.outcome = None if past is None else bytes(past.outcome)
        self.key = f"{id_of(journal.claim.stream)}:{begun.number}"

    async def done(self, outcome: bytes) -> None:
        """Write down what the step came to."""
        await self._journal.write(self._kept(outcome))

    def ends(self, outcome: bytes) -> None:
        """Note what the last step came to."""
        self._journal.hold(self._kept(outcome))

    def _kept(self, outcome: bytes) -> StepDone:
        return msgspec.structs.replace(self._begun, outcome=msgspec.Raw(outcome))


class OpenJournals:
    """The journals of all runs that this process works on, by request."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._open: dict[str, Journal] = {}

    def of(self, request: Request) -> Journal:
        """Return the journal of the request's run, or one that keeps nothing."""
        return self._open.get(request.id) or Unkept(request.id, self._log)

    def open(self, request: Request, journal: Journal) -> None:
        """Keep the request's steps there from now on."""
        self._open[request.id] = journal

    def close(self, request: Request, journal: Journal) -> None:
        """Forget this journal; one that was opened for the same request meanwhile stays.

        A server that was taken for dead may take its own run back while its first attempt ends.
        """
        if self._open.get(request.id) is journal:
            del self._open[request.id]


async def give_up(log: Log, claim: Claim, error: MurmurateError) -> None:
    """Put a run whose entries are damaged among the dead; see `KeptJournal.give_up`."""
    body = msgspec.json.encode(failure_of(error))
    failed = Entry(claim.tenant, claim.stream, Kind.FAILED.value, body)
    told, news = lost_line(claim.tenant, claim.stream, error)
    await log.append([failed, *told], fence=claim, work=[dead(claim), *news])


async def put_back(log: Log, claim: Claim, *, due_ms: int = 0) -> None:
    """Let another runner go on with a run, at once or at that time: this one can't."""
    left = Entry(claim.tenant, claim.stream, Kind.LEFT.value, msgspec.json.encode(Nothing()))
    again = Offer(claim.tenant, claim.stream, QUEUE, due_ms=due_ms)
    await log.append([left], fence=claim, work=[again])


async def put_asking(log: Log, claim: Claim, due_ms: int) -> None:
    """Leave a run to whoever decides what it asks, or to the end of their time."""
    asking = Offer(claim.tenant, claim.stream, ASKING, due_ms=due_ms)
    await log.append([], fence=claim, work=[asking])


async def put_aside(log: Log, claim: Claim) -> None:
    """Put a run among the dead whose stream is so damaged that it takes no entry any more."""
    error = LogCorruptError(f"{id_of(claim.stream)} is damaged")
    told, news = lost_line(claim.tenant, claim.stream, error)
    await log.append(told, fence=claim, work=[dead(claim), *news])


def dead(claim: Claim) -> Work:
    """Return what becomes of the work of a run that was given up.

    Somebody should look at it; whoever looks at a batch sees which of its lines have failed.
    """
    if is_line(id_of(claim.stream)):
        return Done(claim.tenant, claim.stream)
    return Offer(claim.tenant, claim.stream, DEAD, due_ms=NEVER_MS)


def all_told(
    begun: Begun,
    place: tuple[str, str],
    *,
    how: Kind,
    ends: int,
    outcome: Answer | MurmurateError | None,
) -> Told:
    """Return what belongs to the append that ends a run: for its webhook, and for its batch."""
    code = outcome.code if isinstance(outcome, MurmurateError) else None
    told, offers = told_of(begun, place, how=how, ends=ends, code=code)
    line, news = line_told(begun, place[0], how=how, ends=ends, outcome=outcome)
    return (*told, *line), (*offers, *news)


async def put_off(log: Log, claim: Claim, due_ms: int) -> None:
    """Let any runner go on with some work at that time."""
    again = Offer(claim.tenant, claim.stream, claim.queue, due_ms=due_ms)
    await log.append([], fence=claim, work=[again])


async def strike_off(log: Log, claim: Claim) -> None:
    """Let nobody claim some work any more: it is over already."""
    await log.append([], fence=claim, work=[Done(claim.tenant, claim.stream)])


def failure_of(error: MurmurateError) -> Failed:
    """Return what is kept of an error."""
    return Failed(error.code, error.detail[:DETAIL_CHARS_MAX])
