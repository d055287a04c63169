"""Servers side by side on one log in memory, an agent that counts what it does, and a tool shop."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from typing import Any

from murmurate.adapters.memory import MemoryLog
from murmurate.core.errors import MurmurateError
from murmurate.core.journal import Journals, StepKind
from murmurate.core.types import Delta, Finished, FinishReason, Request, SessionRef, Text
from murmurate.jobs.approvals import Approvals
from murmurate.jobs.deadlines import DEADLINES, Deadlines
from murmurate.jobs.entries import ASKING
from murmurate.jobs.errands import Errands
from murmurate.jobs.hooks import Hooks
from murmurate.jobs.journal import OpenJournals
from murmurate.jobs.notices import HOOKS
from murmurate.jobs.repeats import REPEATS, Repeats
from murmurate.jobs.runner import Runner
from murmurate.jobs.service import Runs
from tests.fakes import FakeFetcher, LoopClock, RecordingLog, RecordingTracer, ask, seeded_ids

STEPS = 3
HOOK_KEY = bytes(range(32))
SESSION = SessionRef("sess_1")


class Clock(LoopClock):
    """The time of a loop that skips waiting."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Shop:
    """What the agent's tools change: it counts effects, and keys that came before."""

    def __init__(self) -> None:
        self.effects: Counter[str] = Counter()
        self.hold: dict[str, asyncio.Event] = {}
        self.error: MurmurateError | Exception | None = None

    async def sell(self, what: str, key: str) -> bytes:
        if self.error is not None:
            raise self.error
        self.effects[key.partition(":")[2]] += 1
        if what in self.hold:
            await self.hold[what].wait()
        return b'"%b sold"' % what.encode()


class Agent:
    """Does its steps, one after the other, and answers with what they came to."""

    def __init__(self, shop: Shop, journals: Journals, *, steps: int = STEPS) -> None:
        self._shop = shop
        self._journals = journals
        self._steps = steps

    async def answer(self, request: Request) -> AsyncGenerator[Delta]:
        journal = self._journals.of(request)
        said: list[str] = []
        for number in range(1, self._steps + 1):
            name = f"thing {number}"
            step = journal.step(StepKind.TOOL, name)
            outcome = step.outcome
            if outcome is None:
                outcome = await self._shop.sell(name, step.key)
                await step.done(outcome)
            said.append(outcome.decode().strip('"'))
            yield Text(f"{said[-1]}. ")
        yield Finished(FinishReason.STOP)


class Server:
    """A runner with its chain."""

    def __init__(
        self,
        name: str,
        log: MemoryLog,
        shop: Shop,
        *,
        fetcher: FakeFetcher | None = None,
        clock: Clock | None = None,
        own: bool = False,
        **settings: Any,
    ) -> None:
        self.clock = clock or Clock()
        self.events = RecordingLog()
        self.wire = Wire(log)
        self.journals = OpenJournals(self.wire)  # type: ignore[arg-type]
        self.agent = self.agent_of(shop, **settings)
        outside: dict[str, Any] = {"log": self.wire, "clock": self.clock}
        self.tracer = RecordingTracer()
        self.runner = Runner(
            self.agent, self.journals, name=name, events=self.events, tracer=self.tracer, **outside
        )
        self.fetcher = fetcher or FakeFetcher()
        self.hooks = Hooks(self.fetcher, {"a": [HOOK_KEY]}, events=self.events, **outside)
        self.runs = Runs(
            self.agent,
            self.runner,
            self.journals,
            ids=seeded_ids(self.clock, seed=hash(name) % 1000),
            is_run=lambda request: request.session is not None,
            hooks=self.hooks,
            **outside,
        )
        shared: dict[str, Any] = {**outside, "events": self.events}
        deadlines = Deadlines(self.wire, self.clock)  # type: ignore[arg-type]
        self.approvals = Approvals(self.runner, **shared, own=own, tenants=lambda: {"a", "b"})
        self.errands = [
            Errands(self.runner, self.hooks.deliver, queue=HOOKS, **shared),
            Errands(self.runner, deadlines.end, queue=DEADLINES, **shared),
            Errands(self.runner, Repeats(self.wire, self.clock).forget, queue=REPEATS, **shared),  # type: ignore[arg-type]
            Errands(self.runner, self.approvals.settle, queue=ASKING, **shared),
        ]
        self.life: asyncio.Task[None] | None = None

    def agent_of(self, shop: Shop, **settings: Any) -> Any:
        return Agent(shop, self.journals, **settings)

    async def up(self) -> "Server":
        await self.runner.enlist()
        self.life = asyncio.create_task(self._live())
        return self

    async def _live(self) -> None:
        async with asyncio.TaskGroup() as lives:
            lives.create_task(self.runner.run())
            for errands in self.errands:
                lives.create_task(errands.run())

    async def down(self) -> None:
        """Stop in an orderly way."""
        assert self.life is not None
        self.life.cancel()
        await asyncio.gather(self.life, return_exceptions=True)


class Wire:
    """The way of one server to the log. While it is cut, whatever is sent arrives once it is not.

    So a server whose wire is cut looks hung, or like a lost host; one mended later writes late.
    """

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self._whole = asyncio.Event()
        self._whole.set()

    def cut(self) -> None:
        self._whole.clear()

    def mend(self) -> None:
        self._whole.set()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._log, name)
        if name in {"read", "streams", "work", "tail"}:
            return method

        async def sent(*args: Any, **kwargs: Any) -> Any:
            await self._whole.wait()
            return await method(*args, **kwargs)

        return sent


def new_log() -> MemoryLog:
    return MemoryLog(clock=Clock())


def request(number: int = 1, **fields: Any) -> Request:
    return ask("buy", id=f"req_{number}", model="agent", **fields)
