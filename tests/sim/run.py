"""One run: clients come and go, servers crash and come back; in the end everything is counted."""

import asyncio
import random
import traceback
from collections import Counter
from dataclasses import dataclass
from hashlib import blake2b

from tests.sim.clients import Clients
from tests.sim.invariants import (
    check_loop,
    check_rates,
    check_rest,
    check_runs,
    check_sessions,
    check_traces,
)
from tests.sim.loop import VirtualLoop
from tests.sim.world import Generation, World

CLIENTS_PER_S = 3.0
CRASH_SHARE = 0.015
RESTART_SHARE = 0.008


@dataclass(frozen=True, slots=True)
class Report:
    """What a run came to."""

    seed: int
    requests: int
    statuses: Counter[str]
    servers: int
    virtual_s: float
    history: list[tuple[object, ...]]
    violations: list[str]

    @property
    def digest(self) -> str:
        """Return what two runs of one seed have in common: everything that happened."""
        return blake2b(repr(self.history).encode(), digest_size=16).hexdigest()


def simulate(seed: int, *, requests: int) -> Report:
    """Run the whole platform until that many requests have been sent and everybody is served."""
    loop = VirtualLoop()
    world = World(seed, loop)
    try:
        loop.run_until_complete(world.spawn(_story(world, requests)))
        check_loop(world)
    except Exception as fault:  # the seed is worth more than the place where it broke off
        where = "".join(traceback.format_exception(fault)[-3:])
        world.fail(f"the run broke off: {where}")
        loop.abandon()
    loop.close()
    statuses = Counter(
        "crashed" if c.crashed else "left" if c.left_s is not None else str(c.status)
        for _, c in world.calls
    )
    return Report(
        seed=seed,
        requests=len(world.calls),
        statuses=statuses,
        servers=world.generations,
        virtual_s=loop.now_s,
        history=world.history,
        violations=world.violations,
    )


async def _story(world: World, requests: int) -> None:
    clients = Clients(world)
    chance = world.chance("weather")
    await world.open()
    stories: list[asyncio.Task[None]] = []
    while len(world.calls) < requests:
        stories.append(world.spawn(clients.story()))
        await world.clock.sleep(chance.expovariate(CLIENTS_PER_S))
        if (luck := chance.random()) < CRASH_SHARE + RESTART_SHARE:
            ended = await _stop(world, chance, crashes=luck < CRASH_SHARE)
            check_rest(world, ended)
            await world.clock.sleep(chance.uniform(0.05, 0.5))
            await world.boot()
    await _all_of(world)
    await world.clock.sleep(1.0)  # the last commits reach the disk
    await world.settled(within_s=120.0)
    check_rest(world, await world.close())
    check_rates(world)
    check_traces(world)
    await check_sessions(world, clients.book)
    await check_runs(world)


async def _stop(world: World, chance: random.Random, *, crashes: bool) -> Generation:
    """End the server, at a moment that the clock chose, or in the middle of a step."""
    if not crashes:
        return await world.restart()
    what = chance.choice((None, "log", "engine.begins", "engine.ends", "call"))
    if what is not None:
        await world.next(what, within_s=5.0)
        for _ in range(chance.randrange(8)):
            await asyncio.sleep(0)
    return await world.crash()


async def _all_of(world: World) -> None:
    """Wait for every client's story; some begin others. A story that fails is a failed run."""
    me = asyncio.current_task()
    while waiting := [task for task in world.own if task is not me and not task.done()]:
        await asyncio.gather(*waiting)
