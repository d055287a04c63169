"""Beats live beside the log: they cost no commit, and are lost with nothing."""

import asyncio
from pathlib import Path

import pytest

from murmurate.adapters.sqlite.beats import Beats
from murmurate.adapters.sqlite.log import SqliteLog
from murmurate.core.clock import SystemClock
from murmurate.core.errors import LogUnavailableError
from murmurate.core.ports import Claim, Offer
from murmurate.testing.stories import refused


def test_counts_are_seen_by_all_who_share_the_file(tmp_path: Path) -> None:
    async def story() -> None:
        one, other = Beats(tmp_path / "truth.db"), Beats(tmp_path / "truth.db")
        await one.add("a")
        await one.add("a")
        await one.add("../b")
        assert other.of(["a", "../b", "c"]) == {"a": 2, "../b": 1, "c": 0}
        other.forget("a")
        other.forget("a")
        assert one.of(["a"]) == {"a": 0}
        one.close()
        await refused(one.add("a"), LogUnavailableError)
        other.close()

    asyncio.run(story())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["truth.db-beats"]


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "truth.db-beats").write_text("in the way")
    beats = Beats(tmp_path / "truth.db")
    with pytest.raises(LogUnavailableError, match="the beat of a can't be written"):
        asyncio.run(beats.add("a"))
    beats.close()


def test_a_runner_without_news_writes_nothing_to_the_log(tmp_path: Path) -> None:
    async def story() -> None:
        log = SqliteLog(tmp_path / "truth.db", clock=SystemClock())
        assert not (await log.renew("a")).known
        wal = tmp_path / "truth.db-wal"
        before = wal.stat().st_size, wal.stat().st_mtime_ns
        for _ in range(5):
            assert (await log.renew("a")).known
        assert (wal.stat().st_size, wal.stat().st_mtime_ns) == before
        assert await log.beats() == {"a": 6}
        await log.close()

    asyncio.run(story())


def test_a_runner_whose_beats_are_lost_keeps_what_it_holds(tmp_path: Path) -> None:
    async def story() -> None:
        log = SqliteLog(tmp_path / "truth.db", clock=SystemClock())
        await log.renew("a")
        await log.append([], work=[Offer("t", "run/1", "runs", holder="a")])
        Beats(tmp_path / "truth.db").forget("a")
        assert await log.beats() == {"a": 0}
        assert (await log.renew("a")).known
        assert not await log.revoke("a", beat=0)
        assert await log.held("a") == [Claim("t", "run/1", "runs", "a", 1)]
        assert await log.revoke("a", beat=1)
        assert not list((tmp_path / "truth.db-beats").iterdir())
        await log.close()

    asyncio.run(story())
