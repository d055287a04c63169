"""The file of a log is only replaced by a process that is alone with it."""

import asyncio
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from murmurate.adapters.sqlite.log import BEAT_S, SqliteLog
from murmurate.adapters.sqlite.mend import ask_for_mending
from murmurate.adapters.sqlite.sharing import Sharing
from murmurate.core.clock import SystemClock
from murmurate.core.errors import LogUnavailableError
from murmurate.core.ports import Entry, Nudge, Offer
from murmurate.testing.stories import all_of, bodies_of, entry

HOLDING = """
import sys
from pathlib import Path
from murmurate.adapters.sqlite.sharing import Sharing
shared = Sharing(Path(sys.argv[1]), lambda: print("alone", flush=True))
print("shared", flush=True)
sys.stdin.read()
"""


def test_only_the_first_one_is_alone(tmp_path: Path) -> None:
    done: list[str] = []
    path = tmp_path / "truth.db"
    first = Sharing(path, lambda: done.append("first"))
    second = Sharing(path, lambda: done.append("second"))
    assert done == ["first"]
    for one in (first, second, second):
        one.close()
    Sharing(path, lambda: done.append("third")).close()
    assert done == ["first", "third"]


def test_a_killed_process_holds_it_no_more(tmp_path: Path) -> None:
    path = tmp_path / "truth.db"
    command = [sys.executable, "-c", HOLDING, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert [other.stdout.readline() for _ in "12"] == [b"alone\n", b"shared\n"]
        done: list[str] = []
        Sharing(path, lambda: done.append("too early")).close()
        other.kill()
    Sharing(path, lambda: done.append("alone")).close()
    assert done == ["alone"]


def test_what_fails_alone_lets_others_try(tmp_path: Path) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    path = tmp_path / "truth.db"
    with pytest.raises(ZeroDivisionError):
        Sharing(path, fail)
    Sharing(path, lambda: None).close()


def test_a_log_that_another_process_uses_is_not_mended_under_it(tmp_path: Path) -> None:
    async def story() -> None:
        path, said = tmp_path / "truth.db", list[str]()
        first = SqliteLog(path, clock=SystemClock())
        await first.append([entry("a")])
        ask_for_mending(path)
        second = SqliteLog(path, clock=SystemClock(), told=said.append)
        await second.append([entry("b")])
        await second.close()
        assert said == []
        await first.append([entry("c")])
        await first.close()
        third = SqliteLog(path, clock=SystemClock(), told=said.append)
        assert bodies_of(await all_of(third.read("default", "session/1"))) == ["a", "b", "c"]
        assert said != []
        await third.close()

    asyncio.run(story())


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(LogUnavailableError, match="can't be opened"):
        SqliteLog(tmp_path / "missing" / "truth.db", clock=SystemClock())


def test_a_runner_that_waits_to_hear_its_news_beats_on(tmp_path: Path) -> None:
    async def story() -> None:
        path, clock = tmp_path / "truth.db", SystemClock()
        one, other = SqliteLog(path, clock=clock), SqliteLog(path, clock=clock)
        await one.renew("r1")
        await other.renew("r2")
        await one.append([Entry("a", "run/1", "note", b"")], work=[Offer("a", "run/1", "runs")])
        await one.claim("runs", "r1", limit=1)
        await other.append([], work=[Nudge("a", "run/1")])
        blocker = sqlite3.connect(path, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        hearing = asyncio.create_task(one.renew("r1"))
        await asyncio.sleep(0.1)
        before = (await other.beats())["r1"]
        await asyncio.sleep(3 * BEAT_S)
        assert (await other.beats())["r1"] >= before + 2
        assert not hearing.done()
        blocker.execute("ROLLBACK")
        blocker.close()
        assert (await hearing).nudged == (("a", "run/1"),)
        await one.close()
        await other.close()

    asyncio.run(story())
