"""What doctor says of a log, for each way in which one can be."""

import asyncio
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from murmurate.adapters.postgres.database import Database
from murmurate.adapters.postgres.log import PostgresLog
from murmurate.adapters.sqlite.log import SqliteLog
from murmurate.adapters.sqlite.survey import survey
from murmurate.cli.log_check import Found, check_configured, check_log
from murmurate.config import parse
from murmurate.core.clock import SystemClock
from murmurate.testing.stories import all_of, entry
from tests.fixtures.log import make
from tests.servers.postgres import PASSWORD, PostgresServer


def filled(state: Path) -> Path:
    async def story() -> None:
        log = SqliteLog(state / "truth.db", clock=SystemClock())
        await log.append([entry("body " * 300) for _ in range(30)])
        await log.append([entry("other", stream="session/2")])
        await log.close()

    asyncio.run(story())
    return state / "truth.db"


def edit(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)


def bad(found: list[Found]) -> list[str]:
    return [f"{it.detail} -> {it.advice}" for it in found if not it.is_well]


def test_no_log_yet_is_well(tmp_path: Path) -> None:
    [found] = check_log(tmp_path)
    assert (found.is_well, found.detail) == (True, "none yet (made at the first start)")


def test_a_sound_log_shows_format_size_and_that_it_was_checked(tmp_path: Path) -> None:
    path = filled(tmp_path)
    before = path.read_bytes()
    [found] = [it for it in check_log(tmp_path) if "are free" not in it.detail]
    assert found.is_well
    assert found.detail.startswith("format 3, 31 entries of 2 streams, 0.1 MB, checked")
    assert path.read_bytes() == before


def test_an_older_format_is_well_too(tmp_path: Path) -> None:
    shutil.copy(make.FOLDER / "v1.db", tmp_path / "truth.db")
    assert check_log(tmp_path)[0].detail.startswith("format 1, 19 entries of")


def test_every_damaged_entry_is_named_up_to_a_number(tmp_path: Path) -> None:
    edit(filled(tmp_path), "UPDATE entry SET at = 1 WHERE seq < 26 AND stream = 'session/1'")
    lines = bad(check_log(tmp_path))
    assert lines[0].startswith("entry 1 of stream session/1 of default is damaged -> restore")
    assert lines[20].startswith("and 5 more damaged places")


def test_what_was_found_before_is_named_also_where_the_file_is_too_large_to_check(
    tmp_path: Path,
) -> None:
    path = filled(tmp_path)
    edit(path, "INSERT INTO damage VALUES ('default', 'session/9', 3, 5, 'lost', 1)")
    seen = survey(path, checked_bytes_max=1)
    assert not seen.checked_whole
    assert [str(it) for it in seen.damage] == [
        "entries 3 to 5 of stream session/9 of default are lost"
    ]


def test_a_tree_that_is_damaged_is_told_apart_from_an_entry(tmp_path: Path) -> None:
    path = filled(tmp_path)
    content = bytearray(path.read_bytes())
    for page in range(6, 12):
        content[page * 4096] ^= 0xFF
    path.write_bytes(content)
    lines = bad(check_log(tmp_path))
    assert "it saves what can be read" in lines[0]


@pytest.mark.parametrize("content", [b"no database at all" * 300, b"x"])
def test_what_is_no_log_is_said_and_not_raised(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "truth.db").write_bytes(content)
    assert len(bad(check_log(tmp_path))) >= 1


def test_a_newer_log_is_said_and_not_raised(tmp_path: Path) -> None:
    edit(filled(tmp_path), "UPDATE file SET format = 9", "PRAGMA user_version = 9")
    [line] = bad(check_log(tmp_path))
    assert "format 9" in line


def test_a_log_that_is_being_written_can_be_looked_at(tmp_path: Path) -> None:
    async def story() -> None:
        log = SqliteLog(tmp_path / "truth.db", clock=SystemClock())
        await log.append([entry("a")])
        assert check_log(tmp_path)[0].detail.startswith("format 3, 1 entries of 1 streams")
        await log.append([entry("b")])
        assert len(await all_of(log.read("default", "session/1"))) == 2
        await log.close()

    asyncio.run(story())


def looked_at(schema: str) -> list[Found]:
    config = parse({"log": {"url": "env:LOG_URL_OF_THIS_TEST", "schema": schema}})
    return check_configured(config, Path("nowhere"))


def test_a_log_in_postgresql_is_looked_at_there(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = postgres.new_schema()
    monkeypatch.setenv("LOG_URL_OF_THIS_TEST", postgres.url)
    [found] = looked_at(schema)
    assert found.is_well
    assert found.detail.endswith(f"schema {schema}: none yet (made at the first start)")

    async def story() -> None:
        log = await PostgresLog.open(Database(postgres.url, schema=schema), clock=SystemClock())
        await log.append([entry("body")])
        await log.close()

    asyncio.run(story())
    [found] = looked_at(schema)
    assert f"schema {schema}: format 1, about " in found.detail
    assert PASSWORD not in found.detail
    postgres.ask_all([f"UPDATE {schema}.about SET copying = 'x'"])
    assert "half of a copy" in bad(looked_at(schema))[0]
    postgres.ask_all([f"UPDATE {schema}.about SET format = 9"])
    assert "newer murmurate" in bad(looked_at(schema))[0]


def test_a_server_that_cannot_be_reached_is_said_without_the_password(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "LOG_URL_OF_THIS_TEST is not set" in bad(looked_at("log"))[0]
    monkeypatch.setenv("LOG_URL_OF_THIS_TEST", postgres.url.replace(PASSWORD, f"no-{PASSWORD}"))
    [line] = bad(looked_at("log"))
    assert "password authentication failed" in line
    assert PASSWORD not in line
