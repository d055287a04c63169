"""Tells the tails of other servers that something was committed, and hears it from them.

A NOTIFY takes a lock of the whole server when it commits, so it is never part of a write: it
comes after it, on a connection of its own, and at most once a while however much is written.
Whoever misses one finds the news with its next poll.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg

from murmurate.adapters.postgres.database import LOST, Connection, Database
from murmurate.adapters.postgres.readers import hang_up
from murmurate.core.clock import Clock
from murmurate.core.errors import LogUnavailableError

PAUSE_S = 0.05
"""Between two notifications: tails elsewhere are at most this late."""
RETRY_S = (0.5, 10.0)
"""Between attempts to connect: at first, and at most."""


class Bell:
    """Rings for others when asked, and calls `heard` when others ring. `close()` it."""

    def __init__(self, database: Database, *, clock: Clock, heard: Callable[[], None]) -> None:
        self._database = database
        self._clock = clock
        self._heard = heard
        self._channel = f"murmurate_{database.schema}"
        self._asked = False
        self._stir = asyncio.Event()
        self._closed = False
        self._task = asyncio.create_task(self._run(), name="bell")

    def ring(self) -> None:
        """Tell the others soon."""
        self._asked = True
        self._stir.set()

    async def close(self) -> None:
        """Ring no more."""
        self._closed = True
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        pause_s = RETRY_S[0]
        while True:
            try:
                connection = await self._database.connect()
            except LogUnavailableError:
                await self._clock.sleep(pause_s)
                pause_s = min(pause_s * 2, RETRY_S[1])
                continue
            try:
                await self._serve(connection)
            except (*LOST, asyncpg.PostgresError):
                await self._clock.sleep(pause_s)
                pause_s = min(pause_s * 2, RETRY_S[1])
            else:
                pause_s = RETRY_S[0]
            finally:
                await hang_up(connection)

    async def _serve(self, connection: Connection) -> None:
        """Listen and ring until the connection is lost."""
        own = connection.get_server_pid()

        def on_news(_connection: Any, pid: int, *_: object) -> None:  # noqa: ANN401 - the driver's
            if pid != own:
                self._heard()

        def on_end(_connection: Any) -> None:  # noqa: ANN401 - the driver's
            self._stir.set()

        connection.add_termination_listener(on_end)
        await connection.add_listener(self._channel, on_news)
        self._heard()  # what came while nobody listened
        while not connection.is_closed():
            await self._stir.wait()
            self._stir.clear()
            if self._asked and not connection.is_closed():
                self._asked = False
                await connection.execute(f'NOTIFY "{self._channel}"')
                await self._clock.sleep(PAUSE_S)
