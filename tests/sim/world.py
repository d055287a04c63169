"""The platform under simulation, composed as in a server, and everything that is outside it.

A `World` outlives its servers: `boot` composes a service over what is kept, `crash` drops it at any
moment, `restart` drains it first. `call` is the network between clients and the server of the day.
"""

import asyncio
import os
import random
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from murmurate import compose
from murmurate.adapters.memory import MemoryLog
from murmurate.config import Config, parse
from murmurate.core.errors import LogUnavailableError, MurmurateError
from murmurate.core.ids import Ids
from murmurate.core.types import TraceRef
from murmurate.engines.scripted import Scripted, parse_rules
from murmurate.gateway.keys import KeyRecord, digest, entry_of
from murmurate.jobs.entries import ASKING, QUEUE
from murmurate.jobs.runner import Runner
from murmurate.observe.spans import Attribute, OpenSpan, Recorder, SpanRecord
from tests.fakes import FakeFetcher
from tests.sim.connection import Ask, Call, Connection
from tests.sim.faults import FaultyEngine, Outages
from tests.sim.lanes import LaneWatch
from tests.sim.loop import VirtualClock, VirtualLoop
from tests.sim.outside import (
    COMMIT_S_MAX,
    Disk,
    SimEmbedder,
    SimEvents,
    SimLibrary,
    SimSandbox,
    SimTraces,
)

_R = TypeVar("_R")

FIRST_TOKEN_S = 10.0
TENANTS = ("default", "other")
KEYS = {
    "mur_default_1": "default",
    "mur_default_2": "default",
    "mur_default_hasty": "default",
    "mur_other_1": "other",
    "mur_other_2": "other",
}
RULES = r"""
first_token_s = 0.05
tokens_per_s = 50

[[rules]]
match = '^count ([^ ]+)'
tools = true
result = false
call = "calculate"
arguments = '{"expression": "{1}"}'

[[rules]]
match = '^(find|note) (\w+)'
tools = true
result = false
call = "search"
arguments = '{"query": "{2}"}'

[[rules]]
match = '^loop'
tools = true
call = "calculate"
arguments = '{"expression": "1+1"}'

[[rules]]
match = '^lost'
tools = true
result = false
call = "nowhere"

[[rules]]
match = '^tool (\w+)'
tools = true
result = false
call = "lookup"
arguments = '{"word": "{1}"}'

[[rules]]
result = true
text = "It is {result}"

[[rules]]
match = '^say (\w+)'
text = "said {1} and {1} again"
"""
CONFIG = parse(
    {
        "server": {"requests_max": 48, "body_bytes_max": 20_000},
        "models": {
            "tiny": {"engine": "scripted", "rules": "-", "slots": 3, "temperature": 0.0},
            "warm": {"engine": "scripted", "rules": "-", "slots": 2},
        },
        "knowledge": {"docs": {"folder": "docs", "tenants": ["default", "other"]}},
        "agents": {
            "assistant": {
                "model": "tiny",
                "instructions": "Quote.",
                "knowledge": ["docs"],
                "tools": ["search", "calculate"],
                "answers": "quote",
                "history_chars_max": 400,
            },
            "writer": {
                "model": "warm",
                "knowledge": ["docs"],
                "tools": ["search", "calculate"],
                "steps_max": 3,
            },
            "careful": {
                "model": "warm",
                "tools": ["calculate"],
                "permissions": {"calculate": "ask"},
                "approval_s": 8,
            },
        },
        "router": {"urgent_queue_max": 8, "batch_queue_max": 12},
        "cache": {"entries_max": 60, "ttl_s": 60},
        "limits": {"default": {"requests_per_minute": 600, "burst": 40}},
    },
    {},
)
SCRIPT = parse_rules(RULES)


class SimTracer(Recorder):
    """The product's recorder, which also counts what is open and shows the router's to a watch."""

    def __init__(
        self, *, clock: VirtualClock, ids: Ids, traces: SimTraces, lanes: LaneWatch
    ) -> None:
        super().__init__(clock=clock, ids=ids, sink=self._close)
        self.lanes = lanes
        self.opened = 0
        self.closed = 0
        self._keep = traces.keep

    def span(self, parent: TraceRef, name: str, **attributes: Attribute) -> OpenSpan:
        """Open a span; see `Recorder`."""
        self.opened += 1
        kind = RouterSpan if name == "router" else OpenSpan
        return kind(self, parent, name, attributes)

    def _close(self, span: SpanRecord) -> None:
        self.closed += 1
        self._keep(span)


class RouterSpan(OpenSpan):
    """From a request's arrival at the router until it has left it."""

    __slots__ = ("_lanes", "_ticket")

    def __init__(
        self, recorder: Recorder, parent: TraceRef, name: str, attributes: dict[str, Attribute]
    ) -> None:
        super().__init__(recorder, parent, name, attributes)
        assert isinstance(recorder, SimTracer)
        self._lanes = recorder.lanes
        self._ticket = self._lanes.arrived(str(attributes["model"]), str(attributes["lane"]))

    def note(self, **attributes: Attribute) -> None:
        """Add facts; `waited_ms` says that it runs now."""
        if "waited_ms" in attributes:
            self._lanes.started(self._ticket)
        super().note(**attributes)

    def __exit__(self, *failure: Any) -> None:
        """End the span."""
        self._lanes.left(self._ticket)
        super().__exit__(*failure)


@dataclass(slots=True)
class Generation:
    """One life of the server."""

    number: int
    service: compose.Service
    disk: Disk
    lanes: LaneWatch
    tracer: SimTracer
    first_pass: asyncio.Task[None]
    runner: asyncio.Task[None]
    usages: dict[str, tuple[int, int]]
    running: dict[asyncio.Task[None], Connection] = field(
        default_factory=dict[asyncio.Task[None], Connection]
    )


class World:
    """Everything of one run. Chance, time and history are its own; nothing else is shared."""

    def __init__(self, seed: int, loop: VirtualLoop) -> None:
        self.seed = seed
        self.loop = loop
        self.clock = VirtualClock(loop, self.chance("clock"))
        self.config: Config = CONFIG
        self.history: list[tuple[object, ...]] = []
        self.violations: list[str] = []
        self.calls: list[tuple[int, Call]] = []
        self.generation: Generation | None = None
        self.generations = 0
        self.own: list[asyncio.Task[Any]] = []
        self.decided: dict[str, list[bool]] = {}
        """What was acknowledged to those who decided, by run."""
        self._awaited: str | None = None
        self._happened = asyncio.Event()
        self.kept = MemoryLog(clock=self.clock)
        self.traces = SimTraces()
        self.events = SimEvents()
        self.outages = [self._outages("library", 0.01), self._outages("sandbox", 0.02)]
        self.disk_outages = self._outages("disk", 0.01)
        self.library = SimLibrary(
            chance=self.chance("index"), clock=self.clock, outages=self.outages[0]
        )
        self.engines = {
            name: FaultyEngine(
                Scripted(SCRIPT, clock=self.clock),
                chance=self.chance(name),
                clock=self.clock,
                first_token_s=FIRST_TOKEN_S,
                saw=self.saw,
            )
            for name in CONFIG.models
        }

    def spawn(self, story: Coroutine[Any, Any, _R]) -> asyncio.Task[_R]:
        """Start a task of the outside: the server may not leave any of its own behind."""
        task = self.loop.create_task(story)
        self.own.append(task)
        return task

    def tasks(self) -> list[asyncio.Task[Any]]:
        """Return the tasks that are not of the outside."""
        return [task for task in asyncio.all_tasks(self.loop) if task not in self.own]

    def chance(self, purpose: str) -> random.Random:
        """Return a source of chance of its own for each purpose."""
        return random.Random(f"{self.seed}/{purpose}")

    def saw(self, *facts: object) -> None:
        """Write down what happened."""
        self.history.append((self.loop.now_s, *facts))
        if facts[0] == self._awaited:
            self._happened.set()

    async def next(self, what: str, *, within_s: float) -> None:
        """Return right after the next event of that name, or when none has come."""
        self._awaited = what
        self._happened.clear()
        try:
            async with asyncio.timeout(within_s):
                await self._happened.wait()
        except TimeoutError:
            pass
        self._awaited = None

    def fail(self, what: str) -> None:
        """Note that a promise was broken."""
        self.violations.append(f"at {self.loop.now_s:.3f} s: {what}")

    async def open(self) -> None:
        """Put the keys into the log and start the first server."""
        records = [
            KeyRecord(name.removeprefix("mur_"), digest(name), tenant, ("*",), 0)
            for name, tenant in KEYS.items()
        ]
        await self.kept.append([entry_of(record) for record in records])
        await self.boot()

    async def boot(self) -> None:
        """Compose a service over what is kept."""
        self.generations += 1
        number = self.generations
        ids = Ids(self.clock, self.chance(f"ids {number}"))
        lanes = LaneWatch({name: m.slots for name, m in CONFIG.models.items()}, fail=self.fail)
        tracer = SimTracer(clock=self.clock, ids=ids, traces=self.traces, lanes=lanes)
        disk = Disk(
            self.kept,
            loop=self.loop,
            chance=self.chance(f"disk {number}"),
            outages=self.disk_outages,
            saw=self.saw,
        )
        outside = compose.Outside(
            clock=self.clock,
            ids=ids,
            runner=f"server {number}",
            log=disk,
            tracer=tracer,
            traces=self.traces,
            events=self.events,
            engines=self.engines,
            library=self.library,
            embedder=SimEmbedder(clock=self.clock, outages=self.outages[0]),
            sandbox=SimSandbox(clock=self.clock, outages=self.outages[1]),
            fetcher=FakeFetcher(),
        )
        opened = await compose.open_keys(
            disk, self.clock, ids, first_key=Path(os.devnull), events=self.events
        )
        service = compose.service(CONFIG, outside, opened)
        await self._enlisted(service.runner)
        first_pass = self.loop.create_task(service.platform.first_pass())
        runner = self.loop.create_task(self._runs(service, number))
        usages = {name: (e.usages[0], e.usages[1]) for name, e in self.engines.items()}
        self.generation = Generation(
            number, service, disk, lanes, tracer, first_pass, runner, usages
        )
        self.saw("boot", number)

    async def crash(self) -> Generation:
        """Drop the server with all that it was doing; clients find nobody until the next `boot`."""
        generation = self._stop()
        self.saw("crash", generation.number)
        generation.disk.die()
        for connection in generation.running.values():
            connection.crash()
        for task in (*generation.running, generation.first_pass, generation.runner):
            task.cancel()
        await self._rest(generation)
        return generation

    async def restart(self) -> Generation:
        """Drain the server: what is under way goes on to its end, what is new is refused."""
        assert self.generation is not None
        generation = self.generation
        self.saw("drain", generation.number)
        generation.service.app.drain()
        generation.service.runner.drain()
        generation.first_pass.cancel()
        while generation.running:
            await self.clock.sleep(0.1)
        generation.runner.cancel()
        self._stop()
        await self._rest(generation)
        return generation

    async def call(self, ask: Ask) -> Call:
        """Send a request to the server of the day; return when it is answered, or will never be."""
        call = Call(len(self.calls), ask, self.loop.now_s)
        generation = self.generation
        if generation is None:
            call.refused_to_connect = True
            return call
        self.calls.append((generation.number, call))
        connection = Connection(call, loop=self.loop, clock=self.clock)
        app = generation.service.app
        task = self.loop.create_task(app(connection.scope(), connection.receive, connection.send))
        generation.running[task] = connection
        try:
            await task
        except (Exception, asyncio.CancelledError) as fault:
            call.fault = fault
        connection.close()
        del generation.running[task]
        call.ended_s = self.loop.now_s
        self.saw("call", call.number, ask.path, call.status, call.left_s, call.crashed, call.pieces)
        return call

    async def close(self) -> Generation:
        """Stop the last server, when nobody asks any more."""
        generation = self._stop()
        generation.first_pass.cancel()
        generation.runner.cancel()
        await self._rest(generation)
        await asyncio.sleep(2 * COMMIT_S_MAX)  # what was on its way to the disk arrives
        return generation

    async def settled(self, *, within_s: float) -> None:
        """Return when no run is under way any more."""
        async with asyncio.timeout(within_s):
            board = self.kept._board
            while any(board.listed(it, queue) for it in TENANTS for queue in (QUEUE, ASKING)):
                await self.clock.sleep(0.1)

    def _stop(self) -> Generation:
        assert self.generation is not None
        generation, self.generation = self.generation, None
        return generation

    async def _rest(self, generation: Generation) -> None:
        """Wait until everything of a generation has ended."""
        beside = (generation.first_pass, generation.runner)
        await asyncio.gather(*generation.running, *beside, return_exceptions=True)
        for _ in range(5):  # what was cancelled without waiting for it gets its turn
            await asyncio.sleep(0)

    async def _enlisted(self, runner: Runner) -> None:
        """Wait until the runner is known: the disk may be full."""
        while True:
            try:
                return await runner.enlist()
            except LogUnavailableError:
                await self.clock.sleep(0.05)

    async def _runs(self, service: compose.Service, number: int) -> None:
        """Run a server's runner; sometimes it is told who died, sometimes it has to see it.

        Of its errands, those of runs that ask.
        """
        if self.chance(f"told {number}").random() < 0.5:
            with suppress(MurmurateError):
                await service.runner.take_over(f"server {number - 1}")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(service.runner.run())
            for errands in service.errands:
                if errands._queue == ASKING:
                    tasks.create_task(errands.run())

    def _outages(self, name: str, share: float) -> Outages:
        return Outages(self.chance(f"outages {name}"), self.clock, share=share)
