"""Small work of one queue, done in a runner's name: notices, deadlines, schedules.

An errand is short, and doing it twice is harmless or refused by the log. So it needs no journal:
whoever holds it does it, and says in one append what came of it.
"""

import asyncio
from collections.abc import Awaitable, Callable

from murmurate.core.clock import Clock
from murmurate.core.errors import FencedError, MurmurateError
from murmurate.core.ports import Claim, EventLog, Log
from murmurate.jobs.journal import put_off
from murmurate.jobs.runner import COUNT_EVERY_S, Runner

POLL_S = 1.0
AGAIN_MS = 1_000
"""When an errand that met a fault of the log is tried again."""
FAULT_AGAIN_MS = 60_000
"""When one is that met a fault of ours."""
AT_A_TIME_MAX = 16

_Place = tuple[str, str]
Errand = Callable[[Claim], Awaitable[None]]
"""Does a piece of work, and writes its end or puts it back."""


class Errands:
    """Claims from one queue until it is cancelled; then what was under way is another server's."""

    def __init__(
        self,
        runner: Runner,
        errand: Errand,
        *,
        queue: str,
        log: Log,
        clock: Clock,
        events: EventLog,
        at_a_time: int = AT_A_TIME_MAX,
        poll_s: float = POLL_S,
    ) -> None:
        self._runner = runner
        self._errand = errand
        self.queue = queue
        self._log = log
        self._clock = clock
        self._events = events
        self._at_a_time = at_a_time
        self._poll_s = poll_s
        self._tasks: dict[_Place, asyncio.Task[None]] = {}
        self._count_s = clock.now_s() + COUNT_EVERY_S
        """When to ask next what we hold."""

    async def run(self) -> None:
        """Look for work, and do it; an outage of the log is outlasted."""
        try:
            while True:
                try:
                    await self.look()
                except MurmurateError as error:
                    self._note(error)
                except Exception as fault:  # noqa: BLE001 - else nothing of this queue is done
                    what = type(fault).__name__
                    self._events.event("errand.fault", queue=self.queue, type=what)
                await self._clock.sleep(self._poll_s)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def look(self) -> None:
        """Claim as much as there is room for, and begin it.

        Now and then, begin what we hold unknowingly: the answer to a claim can be lost on the way.
        """
        if self._clock.now_s() >= self._count_s:
            await self._find()
        room = self._at_a_time - len(self._tasks)
        if room <= 0 or self._runner.is_stopping:
            return
        for claim in await self._log.claim(self.queue, self._runner.name, limit=room):
            self._begin(claim)

    async def _find(self) -> None:
        """Begin what is ours and nobody here works on, neither before nor after the look."""
        before = set(self._tasks)
        claims = await self._log.held(self._runner.name)
        self._count_s = self._clock.now_s() + COUNT_EVERY_S
        for claim in claims:
            place = (claim.tenant, claim.stream)
            known = place in before or place in self._tasks or self._runner.knows(place)
            if claim.queue == self.queue and not known and not self._runner.is_stopping:
                self._begin(claim)

    def _begin(self, claim: Claim) -> None:
        place = (claim.tenant, claim.stream)
        self._tasks[place] = asyncio.create_task(self._do(claim))
        self._tasks[place].add_done_callback(lambda task: self._ended(place, task))

    def _ended(self, place: _Place, task: asyncio.Task[None]) -> None:
        if self._tasks.get(place) is task:
            del self._tasks[place]

    async def _do(self, claim: Claim) -> None:
        """Do one; where it can't be done now, let anybody try again."""
        try:
            await self._errand(claim)
        except FencedError:
            return  # another server has it by now
        except MurmurateError as error:
            self._note(error)
            await self._put_back(claim, AGAIN_MS)
        except Exception as fault:  # noqa: BLE001 - one that nobody foresaw ends no server
            self._events.event("errand.fault", queue=self.queue, type=type(fault).__name__)
            await self._put_back(claim, FAULT_AGAIN_MS)

    async def _put_back(self, claim: Claim, pause_ms: int) -> None:
        due_ms = self._clock.unix_ms() + pause_ms
        await self._runner.end(claim, lambda: put_off(self._log, claim, due_ms))

    def _note(self, error: MurmurateError) -> None:
        self._events.event("errand.failed", queue=self.queue, code=error.code, detail=error.detail)
