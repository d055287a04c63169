"""Appends that share a transaction with each other and with what comes between them."""

import asyncio
import sqlite3
from collections.abc import Awaitable
from contextlib import closing
from pathlib import Path
from typing import Any

from murmurate.adapters.sqlite.appends import _PLACE
from murmurate.adapters.sqlite.log import SqliteLog
from murmurate.core.errors import FencedError, LogConflictError, LogCorruptError
from murmurate.core.ports import SNAPSHOT, Claim, Offer
from murmurate.testing.stories import all_of, bodies_of, entry
from tests.adapters.test_sqlite_log import Blocker, S, T, edit, play

RUN = "run/1"


async def together(log: SqliteLog, *work: Awaitable[Any]) -> list[Any]:
    """Return what came of all of it, done in one transaction."""
    blocker = Blocker(log)
    tasks: list[asyncio.Future[Any]] = []
    for piece in work:
        tasks.append(asyncio.ensure_future(piece))
        await asyncio.sleep(0)  # it is accepted before the next one
    await blocker.end()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert blocker.statements.count("COMMIT") <= 2  # the blocker's own, and one for all
    return outcomes


def test_appends_of_one_commit_see_each_other_and_what_comes_between(tmp_path: Path) -> None:
    async def story(log: SqliteLog) -> None:
        outcomes = await together(
            log,
            log.append([entry("a")], expected={(T, S): 0}),
            log.append([entry("b"), entry("other", stream="session/2"), entry("c")]),
            log.append([entry("late")], expected={(T, S): 1}),
            log.snapshot(T, S, 2, b"a and b"),
            log.append([entry("d")], expected={(T, S): 3}),
            log.forget(T, S, before=3),
            log.append([entry("e")]),
        )
        assert isinstance(outcomes.pop(2), LogConflictError)
        assert outcomes == [[1], [2, 1, 3], None, [4], None, [5]]
        found = await all_of(log.read(T, S))
        assert found[0].kind == SNAPSHOT
        assert bodies_of(found) == ["a and b", "c", "d", "e"]

    play(tmp_path / "truth.db", story)


def test_a_fence_falls_between_two_appends_of_one_commit(tmp_path: Path) -> None:
    async def story(log: SqliteLog) -> None:
        await log.renew("r")
        claim = Claim(T, RUN, "runs", "r", 1)
        outcomes = await together(
            log,
            log.append([entry("unclaimed", stream=RUN)], fence=claim),
            log.append([], work=[Offer(T, RUN, "runs", holder="r")]),
            log.append([entry("one", stream=RUN)], fence=claim),
            log.append([entry("two", stream=RUN)], fence=claim),
            log.revoke("r"),
            log.append([entry("three", stream=RUN)], fence=claim),
            log.append([entry("beside", stream=RUN)]),
        )
        assert isinstance(outcomes.pop(5), FencedError)
        assert isinstance(outcomes.pop(0), FencedError)
        assert outcomes == [[], [1], [2], True, [3]]
        found = await all_of(log.read(T, RUN))
        assert bodies_of(found) == ["one", "two", "beside"]
        assert [stored.epoch for stored in found] == [1, 1, 0]

    play(tmp_path / "truth.db", story)


def test_an_append_that_fails_midway_leaves_nothing_of_itself(tmp_path: Path) -> None:
    async def story(log: SqliteLog) -> None:
        outcomes = await together(
            log,
            log.append([entry("lost"), entry("lost", stream="\ud800")]),
            log.append([entry("a")], expected={(T, S): 0}),
        )
        assert isinstance(outcomes[0], UnicodeEncodeError)
        assert outcomes[1] == [1]
        assert bodies_of(await all_of(log.read(T, S))) == ["a"]

    play(tmp_path / "truth.db", story)


def test_a_stream_whose_count_contradicts_its_entries_hurts_no_other(tmp_path: Path) -> None:
    path = tmp_path / "truth.db"

    async def story(log: SqliteLog) -> None:
        await log.append([entry("a"), entry("b"), entry("a", stream="session/2")])
        edit(path, "UPDATE entry SET seq = 3 WHERE seq = 2")
        appends = [log.append([entry("c", stream=f"session/{n}")]) for n in (2, 3, 1, 4, 5)]
        outcomes = await asyncio.gather(*appends, return_exceptions=True)
        assert isinstance(outcomes.pop(2), LogCorruptError)
        assert outcomes == [[2], [1], [1], [1]]

    play(path, story)


def test_a_damaged_count_refuses_each_append_and_holds_no_fence_up(tmp_path: Path) -> None:
    path = tmp_path / "truth.db"

    async def story(log: SqliteLog) -> None:
        await log.renew("r")
        await log.append([entry("a", stream=RUN)], work=[Offer(T, RUN, "runs", holder="r")])
        edit(path, "UPDATE head SET seq = 9")
        claim = Claim(T, RUN, "runs", "r", 1)
        outcomes = await together(
            log,
            log.append([entry("b", stream=RUN)], fence=claim),
            log.append([entry("b", stream=RUN)]),
            log.append([entry("beside")], fence=claim),
        )
        refusals = outcomes[:2]
        assert all(isinstance(refusal, LogCorruptError) for refusal in refusals)
        assert refusals[0] is not refusals[1]
        assert outcomes[2] == [1]

    play(path, story)


def test_looking_a_place_up_reads_two_rows_and_no_table(tmp_path: Path) -> None:
    path = tmp_path / "truth.db"

    async def story(_: SqliteLog) -> None:
        with closing(sqlite3.connect(path)) as db:
            plan = db.execute(f"EXPLAIN QUERY PLAN {_PLACE}", (T, S)).fetchall()
        searches = [row[3] for row in plan if "work" in row[3] or "head" in row[3]]
        assert len(searches) == 2
        assert all("SEARCH" in search and "PRIMARY KEY" in search for search in searches), plan

    play(path, story)
