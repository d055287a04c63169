"""What the contract cannot see: damage, crashes, other processes, full disks."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import aclosing, closing
from functools import partial
from pathlib import Path

import pytest

from murmurate.adapters.sqlite.log import SqliteLog
from murmurate.adapters.sqlite.queries import page as page_of
from murmurate.adapters.sqlite.writer import WAITING_BYTES_MAX
from murmurate.core.clock import SystemClock
from murmurate.core.errors import LogConflictError, LogCorruptError, LogUnavailableError
from murmurate.testing.stories import all_of, bodies_of, entry, refused, seqs_of

T = "default"
S = "session/1"

WRITER = """
import asyncio, sys
from pathlib import Path
from murmurate.adapters.sqlite.log import SqliteLog
from murmurate.core.clock import SystemClock
from murmurate.core.ports import Entry

async def main(path, name, count):
    log = SqliteLog(Path(path), clock=SystemClock())
    async def write(task):
        for step in range(count):
            body = f"{name}.{task}.{step}"
            [seq] = await log.append([Entry("default", "session/1", "note", body.encode())])
            print(seq, body, flush=True)
    await asyncio.gather(*(write(task) for task in range(10)))
    await log.close()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def play(
    path: Path, story: Callable[[SqliteLog], Awaitable[None]], *, queue_max: int = 4096
) -> None:
    async def whole() -> None:
        log = SqliteLog(path, clock=SystemClock(), queue_max=queue_max)
        try:
            async with asyncio.timeout(60):
                await story(log)
        finally:
            await log.close()

    asyncio.run(whole())


def edit(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(statement)


class Blocker:
    """Keeps the writer thread busy until told otherwise."""

    def __init__(self, log: SqliteLog) -> None:
        self._go_on = threading.Event()
        self.statements: list[str] = []
        self._task = asyncio.ensure_future(log._writer.do(self._block))

    def _block(self, db: sqlite3.Connection) -> None:
        self._go_on.wait(30)
        db.set_trace_callback(self.statements.append)

    async def end(self) -> None:
        self._go_on.set()
        await self._task


@pytest.mark.parametrize(
    "damage",
    [
        "body = x'00'",
        "kind = 'other'",
        "at = at + 1",
        "epoch = 9",
        "crc = 0",
        "at = 'text'",
        "kind = CAST(x'ff' AS TEXT)",
    ],
)
def test_a_damaged_entry_is_named_and_the_ones_before_it_are_read(
    tmp_path: Path, damage: str
) -> None:
    async def story(log: SqliteLog) -> None:
        await log.append([entry(str(number)) for number in range(1, 8)])
        edit(tmp_path / "truth.db", f"UPDATE entry SET {damage} WHERE seq = 5")
        async with aclosing(log.read(T, S)) as reader:
            assert [(await anext(reader)).seq for _ in range(4)] == [1, 2, 3, 4]
            with pytest.raises(LogCorruptError, match=r"entry 5 of stream session/1 of default"):
                await anext(reader)
        await refused(all_of(log.tail("", after=0)), LogCorruptError)
        assert seqs_of(await all_of(log.read(T, S, after=5))) == [6, 7]

    play(tmp_path / "truth.db", story)


@pytest.mark.parametrize("lost", ["seq = 3", "seq = 7", "seq >= 2", "seq > 0"])
def test_a_lost_entry_is_noticed(tmp_path: Path, lost: str) -> None:
    async def story(log: SqliteLog) -> None:
        await log.append([entry(str(number)) for number in range(1, 8)])
        edit(tmp_path / "truth.db", f"DELETE FROM entry WHERE {lost}")
        with pytest.raises(LogCorruptError, match=r"of stream session/1 of default (is|are) lost"):
            await all_of(log.read(T, S))

    play(tmp_path / "truth.db", story)


def test_a_lost_head_of_a_stream_with_forgotten_entries_is_noticed(tmp_path: Path) -> None:
    async def story(log: SqliteLog) -> None:
        await log.append([entry(str(number)) for number in range(1, 8)])
        await log.forget(T, S, before=3)
        edit(tmp_path / "truth.db", "DELETE FROM head")
        await refused(all_of(log.read(T, S)), LogCorruptError)

    play(tmp_path / "truth.db", story)


def test_a_stream_of_big_bodies_comes_in_pages_of_bounded_size(tmp_path: Path) -> None:
    async def story(log: SqliteLog) -> None:
        megabyte = "x" * 1024 * 1024
        await log.append([entry(megabyte) for _ in range(12)])
        assert seqs_of(await all_of(log.read(T, S))) == list(range(1, 13))
        async with aclosing(log.tail("", after=0)) as tail:
            assert [(await anext(tail)).seq for _ in range(12)] == list(range(1, 13))
        page = await log._readers.do(partial(page_of, tenant=T, stream=S, after=0, beginning=True))
        assert len(page.entries) == 4

    play(tmp_path / "truth.db", story)


def test_a_damaged_snapshot_is_noticed(tmp_path: Path) -> None:
    async def story(log: SqliteLog) -> None:
        await log.append([entry("a"), entry("b")])
        await log.snapshot(T, S, 1, b"s")
        edit(tmp_path / "truth.db", "UPDATE snapshot SET body = x'00'")
        await refused(all_of(log.read(T, S)), LogCorruptError)
        assert bodies_of(await all_of(log.read(T, S, after=1))) == ["b"]

    play(tmp_path / "truth.db", story)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "truth.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(LogCorruptError, match=r"truth.db"):
        SqliteLog(tmp_path / "truth.db", clock=SystemClock())


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(LogUnavailableError, match=r"truth.db"):
        SqliteLog(tmp_path / "none" / "truth.db", clock=SystemClock())


def test_what_waits_is_committed_together(tmp_path: Path) -> None:
    async def story(log: SqliteLog) -> None:
        blocker = Blocker(log)
        appends = [asyncio.ensure_future(log.append([entry(str(n))])) for n in range(600)]
        await asyncio.sleep(0)
        await blocker.end()
        await asyncio.gather(*appends)
        # The blocker alone or with a few of the others, then at most 512 a commit.
        assert blocker.statements.count("COMMIT") <= 3

    play(tmp_path / "truth.db", story)


def test_a_full_queue_refuses_at_once_and_keeps_what_it_took(tmp_path: Path) -> None:
    async def story(log: SqliteLog) -> None:
        blocker = Blocker(log)
        accepted = [asyncio.ensure_future(log.append([entry(str(n))])) for n in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(LogUnavailableError, match=r"4 writes to truth.db wait") as refusal:
            await log.append([entry("too much")])
        assert refusal.value.retry_s == 1.0
        await blocker.end()
        assert await asyncio.gather(*accepted) == [[1], [2], [3]]
        assert await log.append([entry("again")]) == [4]

    play(tmp_path / "truth.db", story, queue_max=4)


def test_the_size_of_what_waits_has_a_bound_too(tmp_path: Path) -> None:
    async def story(log: SqliteLog) -> None:
        blocker = Blocker(log)
        big = log._writer.do(lambda _: "big", size_bytes=WAITING_BYTES_MAX + 1)
        waiting = asyncio.ensure_future(big)
        await asyncio.sleep(0)
        await refused(log.append([entry("a")]), LogUnavailableError)
        await blocker.end()
        assert await waiting == "big"
        assert await log.append([entry("a")]) == [1]

    play(tmp_path / "truth.db", story)


def test_a_full_disk_refuses_and_the_log_goes_on_when_there_is_room_again(tmp_path: Path) -> None:
    async def story(log: SqliteLog) -> None:
        def room(pages: int) -> Awaitable[object]:
            return log._writer.do(
                lambda db: db.execute(f"PRAGMA max_page_count={pages}").fetchall()
            )

        await log.append([entry("before")])
        await room(40)
        blocker = Blocker(log)
        small = [log.append([entry("small")]) for _ in range(20)]
        huge = [log.append([entry("half"), entry("x" * 400_000)]) for _ in range(3)]
        bad = log.append([entry("late")], expected={(T, S): 99})
        tasks = [asyncio.ensure_future(work) for work in (*small[:10], *huge, bad, *small[10:])]
        await asyncio.sleep(0)
        await blocker.end()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        refusals = [outcome for outcome in outcomes if isinstance(outcome, LogUnavailableError)]
        assert len(refusals) == 3
        assert "full" in str(refusals[0])
        assert sum(isinstance(outcome, LogConflictError) for outcome in outcomes) == 1
        assert bodies_of(await all_of(log.read(T, S))) == ["before", *["small"] * 20]
        await room(100_000)
        assert await log.append([entry("x" * 400_000)]) == [22]

    play(tmp_path / "truth.db", story)


def test_a_transaction_that_is_lost_is_repeated_without_the_culprit(tmp_path: Path) -> None:
    async def story(log: SqliteLog) -> None:
        def lose(db: sqlite3.Connection) -> None:
            db.execute("ROLLBACK")
            raise sqlite3.OperationalError("disk I/O error")

        blocker = Blocker(log)
        tasks = [asyncio.ensure_future(log.append([entry(str(n))])) for n in range(30)]
        await asyncio.sleep(0)
        culprit = asyncio.ensure_future(log._writer.do(lose))
        await asyncio.sleep(0)
        tasks += [asyncio.ensure_future(log.append([entry(str(n))])) for n in range(30, 60)]
        await asyncio.sleep(0)
        await blocker.end()
        assert await asyncio.gather(*tasks) == [[seq] for seq in range(1, 61)]
        with pytest.raises(LogUnavailableError, match=r"disk I/O error"):
            await culprit

    play(tmp_path / "truth.db", story)


def test_an_entry_that_sqlite_cannot_hold_hurts_nobody_else(tmp_path: Path) -> None:
    async def story(log: SqliteLog) -> None:
        outcomes = await asyncio.gather(
            log.append([entry("a")]),
            log.append([entry("-"), entry("-", stream="\ud800")]),
            log.append([entry("b")]),
            return_exceptions=True,
        )
        assert isinstance(outcomes[1], UnicodeEncodeError)
        assert (outcomes[0], outcomes[2]) == ([1], [2])

    play(tmp_path / "truth.db", story)


def test_a_file_locked_for_too_long_refuses_and_the_writer_survives(tmp_path: Path) -> None:
    async def story(log: SqliteLog) -> None:
        await log._writer.do(lambda db: db.execute("PRAGMA busy_timeout=1").fetchall())
        with closing(sqlite3.connect(tmp_path / "truth.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(LogUnavailableError, match=r"locked"):
                await log.append([entry("a")])
            other.execute("ROLLBACK")
        assert await log.append([entry("a")]) == [1]

    play(tmp_path / "truth.db", story)


def test_two_logs_on_one_file_count_together_and_see_each_other(tmp_path: Path) -> None:
    async def story(one: SqliteLog) -> None:
        two = SqliteLog(tmp_path / "truth.db", clock=SystemClock())

        async def write(log: SqliteLog, name: str) -> list[int]:
            return [(await log.append([entry(f"{name}{step}")]))[0] for step in range(100)]

        async with aclosing(one.tail("session/", after=0)) as tail:
            seqs = await asyncio.gather(write(one, "one"), write(two, "two"))
            seen = [await anext(tail) for _ in range(200)]
        assert sorted(seqs[0] + seqs[1]) == list(range(1, 201))
        assert seqs_of(seen) == list(range(1, 201))
        await two.append([entry("last")])
        await two.close()
        assert len(await all_of(one.read(T, S))) == 201

    play(tmp_path / "truth.db", story)


def test_the_wal_is_folded_into_the_file_at_the_end(tmp_path: Path) -> None:
    async def story(log: SqliteLog) -> None:
        await log.append([entry("a")])
        assert (tmp_path / "truth.db-wal").stat().st_size > 0

    play(tmp_path / "truth.db", story)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "truth.db",
        "truth.db-lock",
        "truth.db-queue",
    ]


@pytest.mark.e2e
def test_everything_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "truth.db"
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, path, "child", "100000"],
            stdout=subprocess.PIPE,
            text=True,
        ) as child:
            assert child.stdout is not None
            acknowledged = [child.stdout.readline() for _ in range(500)]
            child.send_signal(signal.SIGKILL)
            acknowledged += child.stdout.readlines()
        told = [line.split() for line in acknowledged if line.endswith("\n")]

        async def story(log: SqliteLog, told: list[list[str]] = told) -> None:
            stored = {one.seq: one.body.decode() for one in await all_of(log.read(T, S))}
            assert list(stored) == list(range(1, len(stored) + 1))
            assert all(stored[int(seq)] == body for seq, body in told)

        play(path, story)


@pytest.mark.e2e
def test_two_processes_on_one_new_file_never_share_a_seq(tmp_path: Path) -> None:
    path = tmp_path / "truth.db"
    children = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, path, name, "100"], stdout=subprocess.PIPE, text=True
        )
        for name in ("one", "two", "three")
    ]

    async def story(log: SqliteLog) -> None:
        async with aclosing(log.tail("session/", after=0)) as tail:
            seen = [await anext(tail) for _ in range(3000)]
        assert seqs_of(seen) == list(range(1, 3001))
        assert len(set(bodies_of(seen))) == 3000

    play(path, story)
    printed = [line.split() for child in children for line in child.communicate()[0].splitlines()]
    assert [child.returncode for child in children] == [0, 0, 0]
    assert sorted(int(seq) for seq, _ in printed) == list(range(1, 3001))
