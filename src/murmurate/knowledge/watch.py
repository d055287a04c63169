"""Follows a folder: when it has changed and come to rest, it is read again.

It looks at intervals rather than being told by the system: that works on every file system, needs
no handle for each folder, and what was missed once is seen the next time.
"""

from collections.abc import Awaitable, Callable

from murmurate.core.clock import Clock
from murmurate.core.errors import FolderMissingError, MurmurateError
from murmurate.knowledge.ports import Library
from murmurate.knowledge.rules import Rules

PAUSE_S_MIN = 1.0
PAUSE_S_MAX = 60.0
PAUSES_PER_LOOK = 100
"""A look may take one part in so many of the time: large folders are looked at less often."""
REST_S = 0.3
"""A folder that stands still for so long has come to rest."""
REST_LOOKS_MAX = 20
"""A folder that never rests is read as it is after so many looks."""
MISSING = "missing"


def pause_s(look_s: float) -> float:
    """Return how long to wait after a look that took so long."""
    return min(max(look_s * PAUSES_PER_LOOK, PAUSE_S_MIN), PAUSE_S_MAX)


class Watch:
    """One folder, and what to do when something in it has changed."""

    def __init__(
        self,
        library: Library,
        clock: Clock,
        *,
        folder: str,
        rules: Rules,
        sync: Callable[[], Awaitable[None]],
    ) -> None:
        self._library = library
        self._clock = clock
        self._folder = folder
        self._rules = rules
        self._sync = sync
        self._seen: str | None = None
        self._look_s = 0.0

    async def run(self) -> None:
        """Watch until cancelled. A failing sync is tried again, less and less often."""
        wait_s = PAUSE_S_MIN
        while True:
            await self._clock.sleep(max(pause_s(self._look_s), wait_s))
            try:
                await self._once()
                wait_s = PAUSE_S_MIN
            except MurmurateError:  # whoever syncs has noted it
                self._seen = None
                wait_s = min(wait_s * 2, PAUSE_S_MAX)

    async def _once(self) -> None:
        """Sync when the folder is not as it was after the last sync."""
        now = await self._look()
        if now == self._seen:
            return
        for _ in range(REST_LOOKS_MAX):
            await self._clock.sleep(REST_S)
            before, now = now, await self._look()
            if before == now:
                break
        try:
            await self._sync()
        except FolderMissingError:
            now = MISSING  # said once; when it is back, it looks different
        self._seen = now

    async def _look(self) -> str:
        """Return what the folder looks like. `MurmurateError`: the library cannot be asked."""
        began_s = self._clock.now_s()
        try:
            return await self._library.fingerprint(self._folder, self._rules)
        except FolderMissingError:
            return MISSING
        finally:
            self._look_s = self._clock.now_s() - began_s
