"""A run of ten steps survives the end of its worker at each point, on each store."""

import asyncio
import random
from pathlib import Path

import pytest

from murmurate.core.clock import SystemClock
from murmurate.core.ids import Ids
from tests.crashes.matrix import POINTS, Outcome, crossed, working
from tests.crashes.receiver import receiving
from tests.crashes.worker import opened
from tests.servers.postgres import PostgresServer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

Points = tuple[tuple[str, int], ...]
SOME: Points = (("before", 1), ("after", 5), ("before", 10), ("after", 10))


@pytest.fixture(params=["sqlite", "postgres"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The place of a new log."""
    if request.param == "sqlite":
        return str(tmp_path / "truth.db")
    server: PostgresServer = request.getfixturevalue("postgres")
    return f"{server.new_schema()}@{server.url}"


def crossed_at(where: str, folder: Path, what: str, points: Points) -> list[Outcome]:
    async def story() -> list[Outcome]:
        log = await opened(where)
        ids = Ids(SystemClock(), random.Random(1))
        try:
            with receiving() as receiver, working(where, folder, receiver) as workers:
                return await crossed(log, ids, workers, what=what, points=points)
        finally:
            await log.close()

    return asyncio.run(story())


def check(outcomes: list[Outcome]) -> None:
    """Every run is whole; nothing journaled came again, and nothing was changed twice."""
    assert [it.point for it in outcomes if not it.whole] == []
    assert {(it.reexecuted, it.duplicates) for it in outcomes} == {(0, 0)}


def test_killed_at_every_point_a_run_goes_on_in_the_other_worker(
    where: str, tmp_path: Path
) -> None:
    outcomes = crossed_at(where, tmp_path, "die", POINTS)
    assert len(outcomes) == 20
    check(outcomes)


def test_stopped_at_some_points_a_run_goes_on_and_the_late_write_is_refused(
    where: str, tmp_path: Path
) -> None:
    check(crossed_at(where, tmp_path, "hang", SOME))
