"""A disk whose fsync fails: nothing acknowledged is lost, and what is not known is said."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.failing_disk import Disk, Writer, built

BATCH = 50
BATCHES_TO_FOLD = 24
"""So many fill the WAL for certain."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("disk"))


@pytest.fixture
def disk(library: Path, tmp_path: Path) -> Disk:
    return Disk(library, tmp_path / "state")


class Ledger:
    """What was acknowledged, and what may be there."""

    def __init__(self) -> None:
        self.acknowledged: set[str] = set()
        self.open: set[str] = set()
        self._names: Iterator[str] = (f"{number}" for number in range(10**6))

    def append(self, writer: Writer, count: int, *, sized: int = 0) -> list[dict[str, Any]]:
        bodies = [next(self._names) for _ in range(count)]
        outcomes = writer.append(*bodies, sized=sized)
        for body, outcome in zip(bodies, outcomes, strict=True):
            if "seq" in outcome:
                self.acknowledged.add(body)
            elif "not known" in outcome["error"]:
                self.open.add(body)
        return outcomes

    def check(self, writer: Writer) -> None:
        """All that was acknowledged is there, once, and nothing that was refused for certain."""
        state = writer.state()
        assert "bodies" in state, state
        found = state["bodies"]
        assert len(found) == len(set(found))
        assert self.acknowledged <= set(found) <= self.acknowledged | self.open
        # What is there by now was decided: it stays, also on the disk.
        self.acknowledged, self.open = set(found), set()


@pytest.mark.parametrize("forgets", [False, True])
def test_an_fsync_of_a_commit_that_fails_once_is_outlasted(disk: Disk, forgets: bool) -> None:
    ledger, writer = Ledger(), disk.writer()
    ledger.append(writer, 5)
    disk.fails(wal=1, forgets=forgets)
    assert [it["seq"] for it in ledger.append(writer, 5)] == [6, 7, 8, 9, 10]
    [[told, is_final]] = writer.state()["faults"]
    assert told == "truth.db: disk I/O error in a commit"
    assert not is_final
    writer.kill()
    after = disk.after_power_cut(disk.folder / "after").writer()
    ledger.check(after)
    after.kill()


@pytest.mark.parametrize("forgets", [False, True])
def test_while_fsyncs_of_commits_fail_it_is_said_that_nothing_is_known(
    disk: Disk, forgets: bool
) -> None:
    ledger, writer = Ledger(), disk.writer()
    ledger.append(writer, 5)
    disk.fails(wal=-1, forgets=forgets)
    for _ in range(3):
        outcomes = ledger.append(writer, 5)
        assert {it["code"] for it in outcomes} == {"log.unavailable"}
        assert all("whether this was written is not known" in it["error"] for it in outcomes)
    assert writer.state()["bodies"] == ["0", "1", "2", "3", "4"]  # no reader sees it meanwhile
    disk.fails()
    ledger.append(writer, 5)
    ledger.open.clear()  # the next commit has taken the place of those before it
    ledger.check(writer)
    writer.kill()
    after = disk.after_power_cut(disk.folder / "after").writer()
    ledger.check(after)
    after.kill()


@pytest.mark.parametrize("forgets", [False, True])
def test_what_came_back_of_a_failed_commit_is_on_the_disk_before_anything_is_built_on_it(
    disk: Disk, forgets: bool
) -> None:
    ledger, writer = Ledger(), disk.writer()
    ledger.append(writer, 5)
    disk.fails(wal=-1, forgets=forgets)
    ledger.append(writer, 5)
    writer.kill()
    disk.fails()
    writer = disk.writer()
    ledger.check(writer)
    ledger.append(writer, 5)
    writer.kill()
    after = disk.after_power_cut(disk.folder / "after").writer()
    ledger.check(after)
    after.kill()


@pytest.mark.parametrize("forgets", [False, True])
def test_after_a_failed_fsync_of_the_file_nothing_is_written_until_a_restart(
    disk: Disk, forgets: bool
) -> None:
    ledger, writer = Ledger(), disk.writer()
    for _ in range(BATCHES_TO_FOLD // 2):
        ledger.append(writer, BATCH)
    # A reader keeps the WAL from being folded in whole: what is folded is not synced yet, but
    # counts as done for SQLite. If only the second part is folded again, the first is lost.
    writer.pinned(True)
    for _ in range(BATCHES_TO_FOLD):
        ledger.append(writer, BATCH)
    writer.pinned(False)
    disk.fails(database=1, forgets=forgets)
    for _ in range(BATCHES_TO_FOLD):
        ledger.append(writer, BATCH)
    outcomes = ledger.append(writer, BATCH)
    assert {it["code"] for it in outcomes} == {"log.unavailable"}
    assert "the disk has lost writes" in outcomes[0]["error"]
    state = writer.state()
    assert [is_final for _, is_final in state["faults"]] == [True]
    assert state["code"] == "log.unavailable"  # what is read could be from before
    writer.kill()
    after = disk.after_power_cut(disk.folder / "after").writer()
    ledger.check(after)
    after.kill()
    writer = disk.writer()
    ledger.check(writer)
    ledger.append(writer, 1)
    ledger.check(writer)
    writer.kill()


def test_a_log_whose_disk_does_not_keep_it_is_not_opened(disk: Disk) -> None:
    ledger, writer = Ledger(), disk.writer()
    ledger.append(writer, 5)
    writer.kill()
    disk.fails(database=1)
    refused = disk.writer()
    assert refused.started == {"error": "truth.db: the disk does not keep it: disk I/O error"}
    refused.kill()
    writer = disk.writer()
    ledger.check(writer)
    writer.kill()


@pytest.mark.parametrize("seed", range(6))
def test_faults_kills_and_power_cuts_at_random_lose_nothing(disk: Disk, seed: int) -> None:
    chance = random.Random(seed)
    ledger, writer = Ledger(), disk.writer()
    for round_number in range(12):
        disk.fails(
            database=chance.choice([0, 0, 0, 1, -1]),
            wal=chance.choice([0, 0, 1, 2, -1]),
            forgets=chance.random() < 0.5,
        )
        for _ in range(chance.randrange(1, 8)):
            ledger.append(writer, chance.randrange(1, BATCH), sized=chance.choice([0, 3000]))
        if chance.random() < 0.3:
            disk.fails()
            ledger.append(writer, 1)
        writer.kill()
        if chance.random() < 0.5:
            disk = disk.after_power_cut(disk.folder / f"{round_number}")
        writer = disk.writer()
        if "error" in writer.started:
            writer.kill()
            disk.fails()
            writer = disk.writer()
        disk.fails()
        ledger.check(writer)
    writer.kill()
    assert len(ledger.acknowledged) > BATCH
