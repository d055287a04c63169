"""Up to fifty servers on one log, and whatever can go wrong between them, as the seed says."""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from murmurate.adapters.memory import MemoryLog
from murmurate.core.errors import LogUnavailableError
from murmurate.jobs.entries import QUEUE, Kind, RunStatus, folded, stream_of
from murmurate.testing.stories import all_of
from tests.fakes import run_skipping_time
from tests.jobs.stage import STEPS, Clock, Server, Shop, Wire, new_log, request

ENDS = (Kind.FINISHED, Kind.FAILED, Kind.CANCELLED)
RUNS = 60
TROUBLES = 150
SLOW_S = 0.3
"""How long the disk may take at most; most of the time it takes a tenth of that."""


class Jumping(Clock):
    """A machine's clocks: somebody sets the one of the wall, by minutes to and fro."""

    ahead_ms = 0

    def unix_ms(self) -> int:
        return super().unix_ms() + self.ahead_ms


class Rough(Wire):
    """A way to a slow log that loses requests and acknowledgements, and delivers some twice."""

    def __init__(self, log: MemoryLog, chance: random.Random) -> None:
        super().__init__(log)
        self._chance = chance

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = super().__getattr__(name)
        if name in {"read", "streams", "work", "tail"}:
            return method

        async def sent(*args: Any, **kwargs: Any) -> Any:
            luck = self._chance.random()
            await asyncio.sleep(self._chance.uniform(0, SLOW_S if luck > 0.95 else SLOW_S / 10))
            if luck < 0.02:
                raise LogUnavailableError("it was never sent")
            if luck < 0.03:
                await method(*args, **kwargs)
            done = await method(*args, **kwargs)
            if luck < 0.05:
                raise LogUnavailableError("whether it was written is unknown")
            await asyncio.sleep(self._chance.uniform(0, SLOW_S / 10))
            return done

        return sent


class Watched(Shop):
    """A shop that knows what was journaled when it sold something."""

    def __init__(self, log: MemoryLog) -> None:
        super().__init__()
        self._log = log
        self.again: list[str] = []
        self.sold: set[str] = set()

    async def sell(self, what: str, key: str) -> bytes:
        run_id, _, number = key.partition(":")
        state = folded(run_id, await all_of(self._log.read("a", stream_of(run_id))))
        if int(number) in {step.number for step in state.steps}:
            self.again.append(key)
        self.sold.add(key)
        await asyncio.sleep(0.05)
        return await super().sell(what, key)


class Fleet:
    """Servers that come and go."""

    def __init__(self, seed: int, size: int) -> None:
        self.chance = random.Random(seed)
        self.size = size
        self.log = new_log()
        self.shop = Watched(self.log)
        self.born = 0
        self.living: list[Server] = []
        self.cut: list[Server] = []

    async def start(self) -> None:
        self.born += 1
        server = Server(f"server {self.born}", self.log, self.shop)
        wire = Rough(self.log, self.chance)
        clock = Jumping()
        server.wire = wire
        server.runner._log = server.journals._log = server.runs._log = wire  # type: ignore[assignment]
        server.runner._clock = server.runs._clock = server.clock = clock
        server.life = asyncio.create_task(server.runner.run())
        self.living.append(server)

    async def trouble(self) -> None:
        """Let one thing go wrong, or right again."""
        server = self.chance.choice(self.living)
        match self.chance.choice(("cut", "mend", "mend", "stop", "start", "told", "clock")):
            case "cut" if len(self.living) > 1:
                server.wire.cut()
                self.living.remove(server)
                self.cut.append(server)
            case "mend" if self.cut:
                back = self.cut.pop(self.chance.randrange(len(self.cut)))
                back.wire.mend()
                self.living.append(back)
            case "stop" if len(self.living) > 1:
                self.living.remove(server)
                await server.down()
            case "told" if self.cut:
                await server.runner._log.revoke(self.chance.choice(self.cut).runner.name)
            case "clock":
                assert isinstance(server.clock, Jumping)
                server.clock.ahead_ms = self.chance.randrange(-600_000, 600_000)
            case _ if len(self.living) + len(self.cut) < self.size:
                await self.start()
            case _:
                pass

    async def submit(self, number: int) -> str | None:
        try:
            return await self.chance.choice(self.living).runs.submit(request(number))
        except LogUnavailableError:
            return None  # nobody knows whether it was begun

    async def live(self) -> list[str]:
        """Go through all troubles, then wait until every run has ended; return the runs."""
        for _ in range(max(self.size // 2, 1)):
            await self.start()
        await asyncio.sleep(1.0)
        runs: list[str] = []
        for number in range(max(RUNS, TROUBLES)):
            if number < RUNS and (run_id := await self.submit(number)) is not None:
                runs.append(run_id)
            with suppress(LogUnavailableError):
                await self.trouble()
            await asyncio.sleep(self.chance.uniform(0, 0.4))
        await self._ended()
        return runs

    async def _ended(self) -> None:
        """Put all wires and clocks right; wait until nothing but the dead is left of the work."""
        servers = [*self.living, *self.cut]
        for server in servers:
            server.wire.mend()
            assert isinstance(server.clock, Jumping)
            server.clock.ahead_ms = 0
        try:
            async with asyncio.timeout(900):
                while await all_of(self.log.work("a", QUEUE)):
                    await asyncio.sleep(0.5)
        except TimeoutError:
            left = await all_of(self.log.work("a", QUEUE))
            print("LEFT", left[:5], len(left), self.log._board.beats)
            for info in left[:2]:
                print(
                    [
                        (x.kind, x.epoch, x.body[-80:])
                        for x in await all_of(self.log.read("a", info.stream))
                    ]
                )
                for s in servers:
                    if s.runner.name == info.runner:
                        print(
                            s.runner.name,
                            s.runner.working,
                            s.runner._tasks.keys(),
                            s.runner._left,
                            s.events.events[-5:],
                            s.runner._stopping,
                            s.life,
                        )
            raise
        for server in servers:
            await server.down()


@pytest.mark.parametrize(("seed", "size"), [(1, 2), (2, 3), (3, 8), (4, 20), (5, 50), (6, 50)])
def test_whatever_goes_wrong_between_servers_every_run_ends_once(seed: int, size: int) -> None:
    async def story() -> None:
        fleet = Fleet(seed, size)
        runs = await fleet.live()
        assert len(runs) > RUNS / 2
        assert fleet.shop.again == [], "a journaled step was done again"
        finished = 0
        for run_id in runs:
            stored = await all_of(fleet.log.read("a", stream_of(run_id)))
            state = folded(run_id, stored)
            assert [entry.kind for entry in stored if entry.kind in ENDS] == [stored[-1].kind]
            numbers = [step.number for step in state.steps]
            epochs = [entry.epoch for entry in stored if entry.epoch]
            assert epochs == sorted(epochs), "a former holder wrote"
            if state.status is RunStatus.FINISHED:
                finished += 1
                assert numbers == list(range(1, STEPS + 1))
                assert all(f"{run_id}:{number}" in fleet.shop.sold for number in numbers)
        assert finished > len(runs) * 0.9

    run_skipping_time(story())
