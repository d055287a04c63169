"""A few connections for queries, opened when they are needed and given up when they are lost."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg

from murmurate.adapters.postgres.database import COMMAND_S, LOST, Connection, Database
from murmurate.core.errors import LogUnavailableError

_T = TypeVar("_T")


class Readers:
    """At most `count` queries at a time; the others wait, within a bound."""

    def __init__(self, database: Database, *, count: int) -> None:
        self._database = database
        self._count = count
        self._room = asyncio.Semaphore(count)
        self._idle: list[Connection] = []
        self._closed = False

    async def do(self, query: Callable[[Connection], Awaitable[_T]]) -> _T:
        """Return what `query` returns. It may run again when its connection was lost meanwhile.

        Raises:
            LogUnavailableError: The server can't be asked now, or the readers are closed.
            LogCorruptError: PostgreSQL itself says so.
        """
        if self._closed:
            raise self._is_closed()
        try:
            async with asyncio.timeout(COMMAND_S):
                await self._room.acquire()
        except TimeoutError:
            raise LogUnavailableError(
                f"{self._database.name}: all {self._count} readers are busy", retry_s=1.0
            ) from None
        try:
            return await self._run(query)
        finally:
            self._room.release()

    async def close(self) -> None:
        """Let the queries under way finish, then close all connections."""
        if not self._closed:
            self._closed = True
            for _ in range(self._count):
                await self._room.acquire()
            for connection in self._idle:
                await hang_up(connection)
            for _ in range(self._count):
                self._room.release()

    async def _run(self, query: Callable[[Connection], Awaitable[_T]]) -> _T:
        """Run it on a connection that was idle; should that be lost, once more on a new one."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_closed():
                continue
            try:
                return await self._on(connection, query)
            except LOST:
                self._forget_idle()  # what one has lost, a restarted server took from all
        if self._closed:
            raise self._is_closed()
        connection = await self._database.connect()
        try:
            return await self._on(connection, query)
        except LOST as cause:
            raise self._database.translate(cause) from None

    async def _on(self, connection: Connection, query: Callable[[Connection], Awaitable[_T]]) -> _T:
        try:
            if self._database.is_pooled:
                async with connection.transaction(readonly=True):
                    found = await query(connection)
            else:
                found = await query(connection)
        except asyncpg.PostgresError as cause:
            if isinstance(cause, LOST):
                connection.terminate()
                raise
            self._idle.append(connection)
            raise self._database.translate(cause) from None
        except BaseException:  # lost, out of time, or whoever asked has gone
            connection.terminate()
            raise
        self._idle.append(connection)
        return found

    def _forget_idle(self) -> None:
        while self._idle:
            self._idle.pop().terminate()

    def _is_closed(self) -> LogUnavailableError:
        return LogUnavailableError(f"{self._database.name} is closed")


async def hang_up(connection: Connection) -> None:
    """Close a connection politely where that works within a second."""
    try:
        await connection.close(timeout=1.0)
    except (*LOST, asyncpg.PostgresError):
        connection.terminate()
