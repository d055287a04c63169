"""Whoever waits to write comes first; who hangs in the queue keeps nobody waiting for ever."""

import fcntl
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from murmurate.adapters.sqlite.turns import POLITE_S, Turns
from murmurate.core.clock import SystemClock


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "truth.db"
    with closing(opened(path)) as db:
        db.execute("PRAGMA journal_mode=WAL").fetchall()
        db.execute("CREATE TABLE seen (who TEXT)")
        yield path


def opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)


def test_who_has_waited_comes_before_who_has_just_committed(path: Path) -> None:
    """Without the queue, a process that commits in a row has the lock again before any other."""
    commits_of_the_busy_one = 0
    is_over = threading.Event()

    def commit_in_a_row() -> None:
        nonlocal commits_of_the_busy_one
        with closing(opened(path)) as db:
            queue = Turns(path, clock=SystemClock())
            while not is_over.is_set():
                queue.begin(db)
                is_over.wait(0.002)  # as long as an fsync
                db.execute("COMMIT")
                commits_of_the_busy_one += 1
            queue.close()

    busy = threading.Thread(target=commit_in_a_row)
    busy.start()
    waits: list[int] = []
    with closing(opened(path)) as db:
        queue = Turns(path, clock=SystemClock())
        for _ in range(50):
            before = commits_of_the_busy_one
            queue.begin(db)
            waits.append(commits_of_the_busy_one - before)
            db.execute("COMMIT")
            is_over.wait(0.003)
        queue.close()
    is_over.set()
    busy.join()
    assert sorted(waits)[45] <= 3  # a few may be hit by whatever else the machine does
    assert commits_of_the_busy_one >= 50


def test_one_that_hangs_at_the_head_of_the_queue_is_passed(path: Path) -> None:
    with path.with_name("truth.db-queue").open("w") as hanging, closing(opened(path)) as db:
        fcntl.flock(hanging, fcntl.LOCK_EX)
        queue = Turns(path, clock=SystemClock())
        begun_s = time.monotonic()
        queue.begin(db)
        assert POLITE_S <= time.monotonic() - begun_s < POLITE_S + 3
        assert db.in_transaction
        queue.close()


def test_a_lock_that_is_never_free_is_said_after_a_bound(path: Path) -> None:
    with closing(opened(path)) as holder, closing(opened(path)) as db:
        holder.execute("BEGIN IMMEDIATE")
        queue = Turns(path, clock=SystemClock(), busy_s=0.2)
        with pytest.raises(sqlite3.OperationalError, match="database is locked"):
            queue.begin(db)
        holder.execute("ROLLBACK")
        queue.begin(db)  # it has left the queue
        queue.close()


def test_an_error_that_waiting_does_not_mend_is_raised_at_once(path: Path) -> None:
    with closing(opened(path)) as db:
        queue = Turns(path, clock=SystemClock())
        queue.begin(db)
        with pytest.raises(sqlite3.OperationalError, match="within a transaction"):
            queue.begin(db)
        queue.close()
