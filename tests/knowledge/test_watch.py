"""A watched folder is read again when it has changed and come to rest."""

import asyncio
from collections.abc import Callable, Coroutine
from itertools import pairwise

import pytest

from murmurate.core.errors import FolderMissingError, LogUnavailableError, WorkerUnreachableError
from murmurate.knowledge.ports import Library
from murmurate.knowledge.rules import Rules
from murmurate.knowledge.watch import (
    PAUSE_S_MAX,
    PAUSE_S_MIN,
    REST_LOOKS_MAX,
    Watch,
    pause_s,
)
from tests.fakes import FakeClock


class EndError(Exception):
    """The story of the folder is over."""


class Folder:
    """Looks different each time, as told; an exception is raised; at the end the watch ends."""

    def __init__(self, clock: FakeClock, *looks: str | Exception, look_s: float = 0.0) -> None:
        self.clock = clock
        self.looks = list(looks)
        self.look_s = look_s

    async def fingerprint(self, folder: str, rules: Rules) -> str:
        self.clock.time_s += self.look_s
        if not self.looks:
            raise EndError
        look = self.looks.pop(0)
        if isinstance(look, Exception):
            raise look
        return look


async def watched(folder: Folder, *faults: Exception | None) -> list[float]:
    """Return when the folder was synced; the first syncs fail as told."""
    synced_s: list[float] = []
    left = list(faults)

    async def sync() -> None:
        synced_s.append(folder.clock.time_s)
        if left and (fault := left.pop(0)) is not None:
            raise fault

    library: Library = folder  # pyright: ignore[reportAssignmentType]
    watch = Watch(library, folder.clock, folder="/docs", rules=Rules(), sync=sync)
    with pytest.raises(EndError):
        await watch.run()
    return synced_s


def story(tell: Callable[[], Coroutine[object, object, None]]) -> Callable[[], None]:
    def test() -> None:
        asyncio.run(tell())

    test.__name__ = tell.__name__
    return test


@story
async def test_a_change_is_synced_once_and_stillness_is_not() -> None:
    clock = FakeClock()
    assert len(await watched(Folder(clock, "a", "a", "a", "a", "b", "b", "b", "b"))) == 2


@story
async def test_a_folder_that_is_being_written_is_waited_for() -> None:
    clock = FakeClock()
    looks = ["a", "a", "b", "c", "d", "e", "e", "e"]
    first, second = await watched(Folder(clock, *looks))
    assert second - first == pytest.approx(PAUSE_S_MIN + 4 * 0.3)


@story
async def test_a_folder_that_never_rests_is_read_all_the_same() -> None:
    clock = FakeClock()
    looks = [str(number) for number in range(REST_LOOKS_MAX + 1)]
    assert len(await watched(Folder(clock, *looks))) == 1


@story
async def test_a_vanished_folder_is_synced_once_and_again_when_it_is_back() -> None:
    clock = FakeClock()
    gone = FolderMissingError("/docs: the folder is not there")
    folder = Folder(clock, "a", "a", gone, gone, gone, gone, gone, "a", "a", "a")
    assert len(await watched(folder, None, gone)) == 3


@story
async def test_a_sync_that_fails_is_tried_again_less_and_less_often() -> None:
    clock = FakeClock()
    fault = LogUnavailableError("disk full")
    times_s = await watched(Folder(clock, *["a"] * 20), fault, fault, fault)
    assert len(times_s) == 4
    waits_s = [later - earlier for earlier, later in pairwise(times_s)]
    assert waits_s == sorted(waits_s)
    assert waits_s[0] < waits_s[-1]


@story
async def test_a_library_that_is_away_does_not_end_the_watch() -> None:
    clock = FakeClock()
    away = WorkerUnreachableError("no worker answers")
    assert len(await watched(Folder(clock, "a", "a", away, away, "a", "a"))) == 2


@story
async def test_looking_takes_one_part_in_a_hundred_of_the_time() -> None:
    clock = FakeClock()
    await watched(Folder(clock, "a", "a", "a", "a", look_s=0.05))
    assert max(clock.slept_s) == pytest.approx(5.0)
    assert pause_s(0.001) == PAUSE_S_MIN
    assert pause_s(100) == PAUSE_S_MAX
