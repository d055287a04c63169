"""Clients whose agent asks before it counts, and those who decide, or try to."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from tests.sim.chat import user
from tests.sim.connection import Ask, Call
from tests.sim.world import KEYS, World

ASKS = "waiting for approval"
LOOK_S = 0.3
TRIES = 200
"""A minute: the wall clock may be set, the disk may be full, the server may die."""

Expect = Callable[[Ask, set[int]], Awaitable[Call]]
BUSY = {429, 502, 503}


class Deciders:
    """The stories of runs that ask."""

    def __init__(self, world: World, expect: Expect) -> None:
        self._world = world
        self._expect = expect
        self._chance = world.chance("deciders")

    async def story(self, key: str) -> None:
        """Begin a run that asks; whatever is tried meanwhile, it ends with one decision at most."""
        other = next(it for it in KEYS if KEYS[it] == KEYS[key] and it != key)
        body = {"model": "careful", "messages": [user("count 3+4")]}
        begun = await self._post("/api/runs", key, body, {202})
        if begun.status != 202 or not begun.ends:
            return
        run_id = msgspec.json.decode(b"".join(begun.pieces))["id"]
        if not await self._asks(run_id, key):
            return
        match self._chance.choice(("approve", "deny", "both", "own", "cancel", "late", "stranger")):
            case "both":
                await asyncio.gather(*(self._decide(run_id, other, approve=it) for it in (1, 0)))
            case "own":
                await self._decide(run_id, key, approve=True, statuses={403, 409})
            case "cancel":
                await self._post(f"/api/runs/{run_id}/cancel", key, {}, {202, 409})
            case "late":
                await self._world.clock.sleep(10.0)
            case "stranger":
                theirs = next(it for it in KEYS if KEYS[it] != KEYS[key])
                await self._decide(run_id, theirs, approve=True, statuses={404})
            case what:
                await self._decide(run_id, other, approve=what == "approve")
        while await self._asks(run_id, key):
            await self._decide(run_id, other, approve=self._chance.random() < 0.5)

    async def _asks(self, run_id: str, key: str) -> bool:
        """Wait until the run asks or has ended; tell which."""
        for _ in range(TRIES):
            path = f"/api/runs/{run_id}"
            ask = Ask(method="GET", path=path, headers=headers_of(key))
            call = await self._expect(ask, {200, *BUSY})
            if call.status == 200 and call.ends:
                shown = msgspec.json.decode(b"".join(call.pieces))
                if shown["status"] == ASKS or "ended_ms" in shown:
                    return shown["status"] == ASKS
            await self._world.clock.sleep(LOOK_S)
        if self._world.clock.is_steady:
            self._world.fail(f"{run_id} neither asks nor ends")
        # Else the time of its next attempt was years ahead when the clock was set: nobody waits.
        while (await self._post(f"/api/runs/{run_id}/cancel", key, {}, {202, 409})).status in BUSY:
            await self._world.clock.sleep(LOOK_S)
        return False

    async def _decide(
        self, run_id: str, key: str, *, approve: float, statuses: set[int] | None = None
    ) -> None:
        body = {"approve": bool(approve), "reason": "as the seed says"}
        place = f"/api/approvals/{run_id}"
        call = await self._post(place, key, body, statuses or {200, 409})
        if call.status == 200 and call.ends:
            self._world.decided.setdefault(run_id, []).append(bool(approve))

    async def _post(
        self, path: str, key: str, body: Mapping[str, object], statuses: set[int]
    ) -> Call:
        ask = Ask(path=path, headers=headers_of(key), body=msgspec.json.encode(body))
        return await self._expect(ask, {*statuses, *BUSY})


def headers_of(key: str) -> dict[str, str]:
    return {"host": "localhost:8080", "authorization": f"Bearer {key}"}
