"""Beats of runners, beside the log: a count in a small file for each runner.

A beat says that a process lives, and means nothing after it has died. So it needs no commit, and
nothing is forced to disk for it; who is enlisted, and holds what, stands in the log. A count that
is not the same as before is a beat, whatever it is.
"""

import asyncio
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

from murmurate.core.errors import LogUnavailableError

_COUNT_BYTES = 8


class Beats:
    """The counts of all runners that share a file. `close()` it."""

    def __init__(self, path: Path) -> None:
        self._folder = path.with_name(f"{path.name}-beats")
        # One of its own: a runner that waits behind queries would be taken for dead.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"beat {path.name}")

    async def add(self, runner: str) -> None:
        """Count one more.

        Raises:
            LogUnavailableError: The file of the runner cannot be written.
        """
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._add, runner)
        except (OSError, RuntimeError) as cause:
            raise LogUnavailableError(
                f"the beat of {runner} can't be written: {cause}", retry_s=1.0
            ) from cause

    def of(self, runners: Iterable[str]) -> dict[str, int]:
        """Return the count of each; 0 where none is written. Blocks for a moment."""
        return {runner: self._count(self._file(runner)) for runner in runners}

    def forget(self, runner: str) -> None:
        """Remove the file of a runner that has left or was revoked."""
        self._file(runner).unlink(missing_ok=True)

    def close(self) -> None:
        """End the thread. The counts stay for who looks at them."""
        self._thread.shutdown()

    def _add(self, runner: str) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        path = self._file(runner)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(file, (self._count(path) + 1).to_bytes(_COUNT_BYTES, "little"), 0)
        finally:
            os.close(file)

    def _count(self, path: Path) -> int:
        try:
            return int.from_bytes(path.read_bytes()[:_COUNT_BYTES], "little")
        except FileNotFoundError:
            return 0

    def _file(self, runner: str) -> Path:
        return self._folder / f"{quote(runner, safe='')}.beat"
