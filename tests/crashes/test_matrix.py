"""A run of ten steps survives the end of its worker at each point, on each store."""

import asyncio
import random
from pathlib import Path

import pytest

from murmurate.adapters.sqlite.log import SqliteLog
from murmurate.core.clock import SystemClock
from murmurate.core.ids import Ids
from tests.crashes.matrix import POINTS, Outcome, crossed, working
from tests.crashes.receiver import receiving

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

Points = tuple[tuple[str, int], ...]
SOME: Points = (("before", 1), ("after", 5), ("before", 10), ("after", 10))


def crossed_on_sqlite(folder: Path, what: str, points: Points) -> list[Outcome]:
    async def story() -> list[Outcome]:
        clock = SystemClock()
        log = SqliteLog(folder / "truth.db", clock=clock)
        ids = Ids(clock, random.Random(1))
        try:
            with receiving() as receiver:
                where = str(folder / "truth.db")
                with working(where, folder, receiver) as workers:
                    return await crossed(log, ids, workers, what=what, points=points)
        finally:
            await log.close()

    return asyncio.run(story())


def check(outcomes: list[Outcome]) -> None:
    """Every run is whole; nothing journaled came again, and nothing was changed twice."""
    assert [it.point for it in outcomes if not it.whole] == []
    assert {(it.reexecuted, it.duplicates) for it in outcomes} == {(0, 0)}


def test_killed_at_every_point_a_run_goes_on_in_the_other_worker(tmp_path: Path) -> None:
    outcomes = crossed_on_sqlite(tmp_path, "die", POINTS)
    assert len(outcomes) == 20
    check(outcomes)


def test_stopped_at_some_points_a_run_goes_on_and_the_late_write_is_refused(tmp_path: Path) -> None:
    check(crossed_on_sqlite(tmp_path, "hang", SOME))
