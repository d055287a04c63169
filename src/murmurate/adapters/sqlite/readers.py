"""A few read connections on a few threads, so that no query ever blocks the event loop."""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from murmurate.adapters.sqlite.database import open_reader, translated
from murmurate.core.errors import LogCorruptError, LogUnavailableError

_T = TypeVar("_T")


class Readers:
    """As many connections as threads: whoever gets a thread finds a connection waiting."""

    def __init__(self, path: Path, *, count: int) -> None:
        self._path = path
        self._count = count
        self._connections: SimpleQueue[sqlite3.Connection] = SimpleQueue()
        for _ in range(count):
            self._connections.put(open_reader(path))
        self._threads = ThreadPoolExecutor(count, thread_name_prefix=f"read {path.name}")
        self._closed = False
        self._lost: str | None = None

    async def do(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Return what `work` returns; it runs on one of the threads.

        Raises:
            LogUnavailableError: The file cannot be read now, or the readers are closed.
            LogCorruptError: The file is damaged.
        """
        if self._closed:
            raise LogUnavailableError(f"{self._path.name} is closed")
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._run, work)

    def lose(self, detail: str) -> None:
        """Answer nothing more, not even what is being asked: the file is not what SQLite thinks."""
        self._lost = detail

    async def close(self) -> None:
        """Let the queries under way finish, then close all connections."""
        if not self._closed:
            self._closed = True
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._threads, self._release)
            self._threads.shutdown()

    def _run(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        connection = self._connections.get()
        try:
            with translated(self._path):
                found = work(connection)
        except LogCorruptError:
            self._check()
            raise
        finally:
            self._connections.put(connection)
        self._check()
        return found

    def _check(self) -> None:
        if self._lost is not None:
            raise LogUnavailableError(self._lost, retry_s=1.0)

    def _release(self) -> None:
        # Work starts in the order of its arrival, so whoever came before has its connection
        # already and gives it back; nobody comes after.
        for _ in range(self._count):
            self._connections.get().close()
