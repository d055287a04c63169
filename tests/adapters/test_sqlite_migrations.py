"""A log of each earlier format becomes one of today's; a newer one is left alone."""

import asyncio
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from murmurate.adapters.sqlite.copies import check_room
from murmurate.adapters.sqlite.database import Schema, open_writer
from murmurate.adapters.sqlite.format import SCHEMA
from murmurate.adapters.sqlite.log import SqliteLog
from murmurate.core.clock import SystemClock
from murmurate.core.errors import LogNewerError, LogUnavailableError
from murmurate.core.ports import SNAPSHOT, Stored
from murmurate.testing.stories import all_of, bodies_of, entry, names_of, seqs_of
from tests.fixtures.log import make

FIXTURES = sorted(make.FOLDER.glob("v*.db"))

DYING = """
import os, signal, sys
from pathlib import Path
from murmurate.adapters.sqlite import copies
from murmurate.adapters.sqlite.copies import keep_before_upgrade
from murmurate.adapters.sqlite.database import open_writer
from murmurate.adapters.sqlite.format import SCHEMA
import msgspec

path, point = Path(sys.argv[1]), sys.argv[2]

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def keep(version):
    if point == "before the copy":
        die()
    told = die if point == "in the copy" else lambda *_: None
    copies.copy(path, path.with_name("seen"), told=told)
    keep_before_upgrade(path, version)
    if point == "after the copy":
        die()

first, *others = SCHEMA.migrations

def migrate(db):
    if point == "in the migration":
        db.execute("CREATE TABLE half (a)")
        db.execute("PRAGMA cache_size=1")
        db.execute("PRAGMA cache_spill=1")
        die()
    first(db)

def last(db):
    others[-1](db)
    if point == "before the commit":
        die()

schema = msgspec.structs.replace(SCHEMA, migrations=(migrate, *others[:-1], last))
open_writer(path, schema, synchronous="FULL", before_upgrade=keep)
die()
"""


def opened(path: Path) -> tuple[dict[str, list[Stored]], list[str]]:
    """Return what a log holds, by tenant and stream, and what it said when it was opened."""
    said: list[str] = []

    async def story() -> dict[str, list[Stored]]:
        log = SqliteLog(path, clock=SystemClock(), told=said.append)
        try:
            return {
                f"{tenant} {name}": await all_of(log.read(tenant, name))
                for tenant in ("default", "other")
                for name in names_of(await all_of(log.streams(tenant, "")))
            }
        finally:
            await log.close()

    return asyncio.run(story()), said


def check_content(streams: dict[str, list[Stored]]) -> None:
    """The content that `make.fill` wrote, whatever the format was."""
    assert sorted(streams) == [
        "default doc/docs/big",
        "default run/compacted",
        "default session/plain",
        "default 会话/一",
        "other session/plain",
    ]
    assert bodies_of(streams["default session/plain"]) == [f"plain {n}" for n in range(1, 8)]
    assert bodies_of(streams["other session/plain"]) == [f"other {n}" for n in range(1, 8)]
    assert streams["default doc/docs/big"][0].body == bytes(range(256)) * 40
    compacted = streams["default run/compacted"]
    assert (compacted[0].kind, seqs_of(compacted)) == (SNAPSHOT, [5, 6, 7])
    assert bodies_of(compacted) == ["one to five", "step 6", "step 7"]
    assert bodies_of(streams["default 会话/一"]) == ["你好"]
    assert streams["default session/plain"][0].at_ms == make.BEGAN_MS + 1


def version_of(path: Path) -> tuple[int, int]:
    with closing(sqlite3.connect(path)) as db:
        [(version,)] = db.execute("PRAGMA user_version")
        [(inside,)] = db.execute("SELECT format FROM file")
        return version, inside


def fixture(tmp_path: Path, source: Path = FIXTURES[0]) -> Path:
    return Path(shutil.copy(source, tmp_path / "truth.db"))


def test_there_is_a_fixture_of_every_format() -> None:
    assert [path.stem for path in FIXTURES] == [f"v{n}" for n in range(1, SCHEMA.version + 1)]
    assert len(SCHEMA.migrations) == SCHEMA.version - 1


@pytest.mark.parametrize("source", FIXTURES, ids=lambda path: path.stem)
def test_a_log_of_every_format_is_read_and_goes_on(tmp_path: Path, source: Path) -> None:
    path = fixture(tmp_path, source)
    streams, said = opened(path)
    check_content(streams)
    assert version_of(path) == (SCHEMA.version, SCHEMA.version)
    is_old = source.stem != f"v{SCHEMA.version}"
    assert (len(said) == 2) is is_old

    async def go_on() -> None:
        log = SqliteLog(path, clock=SystemClock())
        assert await log.append([entry("8", stream="session/plain")]) == [8]
        assert await log.append([entry("4", stream="session/forgotten")]) == [4]
        await log.snapshot("default", "run/compacted", 7, b"all")
        assert bodies_of(await all_of(log.read("default", "run/compacted"))) == ["all"]
        await log.close()

    asyncio.run(go_on())
    assert opened(path)[1] == []


def test_the_old_file_is_kept_beside_it_and_no_older_one(tmp_path: Path) -> None:
    path = fixture(tmp_path)
    before = path.read_bytes()
    (tmp_path / "truth.db.v0.bak").write_bytes(b"older")
    (tmp_path / "truth.db.v1.bak.new").write_bytes(b"interrupted")
    _, said = opened(path)
    assert said == [
        "truth.db: format 1 becomes 3; keeping a copy",
        "truth.db: the old file is kept as truth.db.v1.bak",
    ]
    kept = tmp_path / "truth.db.v1.bak"
    assert sorted(it.name for it in tmp_path.iterdir()) == [
        "truth.db",
        "truth.db-lock",
        "truth.db-queue",
        "truth.db.v1.bak",
    ]
    assert kept.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(kept)) as copy, closing(sqlite3.connect(FIXTURES[0])) as old:
        assert list(copy.iterdump()) == list(old.iterdump())
    assert len(kept.read_bytes()) == len(before)


@pytest.mark.parametrize(
    "point",
    [
        "before the copy",
        "in the copy",
        "after the copy",
        "in the migration",
        "before the commit",
        "after the commit",
    ],
)
def test_an_upgrade_killed_at_any_point_is_done_at_the_next_start(
    tmp_path: Path, point: str
) -> None:
    path = fixture(tmp_path)
    killed = subprocess.run([sys.executable, "-c", DYING, path, point], check=False)
    assert killed.returncode == -9
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        assert list(db.execute("PRAGMA user_version")) == [
            (3 if point == "after the commit" else 1,)
        ]
    check_content(opened(path)[0])
    assert (tmp_path / "truth.db.v1.bak").exists()
    check_content(opened(path)[0])


def test_in_format_1_entries_are_right_where_a_count_is_wrong(tmp_path: Path) -> None:
    path = fixture(tmp_path)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE head SET seq = 2, first = 3 WHERE stream = 'session/plain'")
    check_content(opened(path)[0])


def test_migrations_run_in_their_order_from_where_the_file_stands(tmp_path: Path) -> None:
    def adding(name: str) -> tuple[str, object]:
        return name, lambda db: db.execute(f"ALTER TABLE t ADD COLUMN {name}")

    path = tmp_path / "some.db"
    statements = ("CREATE TABLE t (a)",)
    open_writer(path, Schema(1, statements), synchronous="FULL").close()
    steps = tuple(step for _, step in map(adding, ("b", "c", "d")))
    for version in (2, 4):
        upgraded: list[int] = []
        schema = Schema(version, statements, steps[: version - 1])  # type: ignore[arg-type]
        with closing(
            open_writer(path, schema, synchronous="FULL", before_upgrade=upgraded.append)
        ) as db:
            columns = [row[1] for row in db.execute("PRAGMA table_info(t)")]
        assert columns == ["a", "b", "c", "d"][:version]
        assert upgraded == [version - 1 if version == 2 else 2]


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = fixture(tmp_path)

    def fail(db: sqlite3.Connection) -> None:
        db.execute("DROP TABLE entry")
        raise sqlite3.OperationalError("database or disk is full")

    schema = Schema(2, SCHEMA.statements, (fail,))
    with pytest.raises(LogUnavailableError, match="disk is full"):
        open_writer(path, schema, synchronous="FULL")
    check_content(opened(path)[0])


def everything(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".db-shm"}


@pytest.mark.parametrize("with_wal", [False, True])
def test_a_newer_log_is_refused_and_not_a_byte_of_it_is_changed(
    tmp_path: Path, *, with_wal: bool
) -> None:
    path = fixture(tmp_path)
    opened(path)
    (tmp_path / "truth.db.v1.bak").unlink()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in ("UPDATE file SET format = 7", "PRAGMA user_version = 7"):
            db.execute(statement)
        if with_wal:  # as a killed writer leaves it
            target = tmp_path / "killed"
            target.mkdir()
            for name in ("truth.db", "truth.db-wal"):
                shutil.copy(tmp_path / name, target / name)
            path = target / "truth.db"
    before = everything(path.parent)
    assert ("truth.db-wal" in before) is with_wal
    with pytest.raises(LogNewerError, match=r"truth.db has format 7, .* up to 3; run the version"):
        SqliteLog(path, clock=SystemClock())
    after = everything(path.parent)
    assert {name: after[name] for name in before} == before
    assert all(not content for name, content in after.items() if name not in before)


def test_a_database_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "truth.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE entry_of_mine (a)")
    before = path.read_bytes()
    with pytest.raises(LogUnavailableError, match="another program"):
        SqliteLog(path, clock=SystemClock())
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA application_id = 77")
        db.execute("PRAGMA user_version = 3")
    with pytest.raises(LogUnavailableError, match="another program"):
        SqliteLog(path, clock=SystemClock())
    assert len(path.read_bytes()) == len(before)


def test_without_room_for_the_copy_nothing_is_begun(tmp_path: Path) -> None:
    with pytest.raises(LogUnavailableError, match=r"MB free, but a copy of truth.db needs 1000"):
        check_room(tmp_path, 10**15, what="a copy of truth.db")
