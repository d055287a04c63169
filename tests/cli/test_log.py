"""`murmurate log copy`: from a file to PostgreSQL and back, over kills, and what it refuses."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from murmurate.adapters.postgres.database import Database
from murmurate.adapters.postgres.log import PostgresLog
from murmurate.adapters.sqlite.log import SqliteLog
from murmurate.cli import main
from murmurate.core.clock import SystemClock
from murmurate.core.errors import LogUnavailableError
from murmurate.core.ports import NEVER_MS, Log, Offer, Stored
from murmurate.testing.stories import S, T, all_of, entry, refused
from murmurate.workers.state_lock import lock_state
from tests.servers.postgres import PASSWORD, PostgresServer


def play(log: Log, story: Callable[[Log], Awaitable[Any]]) -> Any:
    async def whole() -> Any:
        try:
            return await story(log)
        finally:
            await log.close()

    return whole()


def in_file(state: Path, story: Callable[[Log], Awaitable[Any]]) -> Any:
    async def whole() -> Any:
        return await play(SqliteLog(state / "truth.db", clock=SystemClock()), story)

    return asyncio.run(whole())


def at_server(server: PostgresServer, schema: str, story: Callable[[Log], Awaitable[Any]]) -> Any:
    async def whole() -> Any:
        database = Database(server.url, schema=schema)
        return await play(await PostgresLog.open(database, clock=SystemClock()), story)

    return asyncio.run(whole())


async def fill(log: Log) -> None:
    """Leave something of everything that a log can hold."""
    await log.append([entry(f"body {number}") for number in range(1, 1501)])
    await log.append([entry("其他", tenant="租户", stream=f"doc/{number}") for number in range(30)])
    await log.snapshot(T, S, 1200, b"the older ones")
    await log.forget(T, S, before=1001)
    await log.append([entry("x", stream="run/old"), entry("y", stream="run/old")])
    await log.forget(T, "run/old")
    for runner in ("a", "b"):
        await log.renew(runner)
    await log.append([entry("run 1", stream="run/1")], work=[Offer(T, "run/1", "runs", holder="a")])
    await log.append([], work=[Offer(T, "run/2", "runs", priority=3)])
    await log.append([], work=[Offer("租户", "run/3", "runs", due_ms=NEVER_MS)])
    [claim] = await log.claim("runs", "b", limit=1)
    await log.append([entry("under a fence", stream="run/2")], fence=claim)
    await log.append([entry("gone", stream="last")])
    await log.forget(T, "last")


async def content(log: Log) -> list[Any]:
    """Return all that can be read of it."""
    found: list[Any] = [sorted(await log.beats())]  # beats themselves stay where they are
    for tenant in (T, "租户"):
        found.append(await all_of(log.work(tenant, "runs")))
        for info in await all_of(log.streams(tenant, "")):
            found += [info, await all_of(log.read(tenant, info.stream))]
    return found


async def go_on(log: Log) -> tuple[list[int], Stored]:
    """Return what the next entries of forgotten streams are."""
    seqs = await log.append([entry("z", stream="run/old"), entry("z", stream="last"), entry("z")])
    return seqs, (await all_of(log.read(T, S)))[-1]


def copy(*words: str) -> Any:
    return CliRunner().invoke(main, ["log", "copy", *words])


def test_a_log_goes_to_postgresql_and_back_as_it_was(
    tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOG_URL_OF_THIS_TEST", postgres.url)
    here, there, schema = tmp_path / "here", tmp_path / "there", postgres.new_schema()
    here.mkdir()
    in_file(here, fill)
    before = (here / "truth.db").read_bytes()
    to = copy(str(here), "env:LOG_URL_OF_THIS_TEST", "--to-schema", schema)
    assert to.exit_code == 0, to.output
    assert "532 entries of 35 streams, 1 snapshots, 3 pieces of work, checksum" in to.output
    assert PASSWORD not in to.output
    assert (here / "truth.db").read_bytes() == before
    file = there / "truth.db"
    back = copy("env:LOG_URL_OF_THIS_TEST", str(file), "--from-schema", schema, "--json")
    assert back.exit_code == 0, back.output
    told = json.loads(back.output)
    assert (told["rows"]["entry"], told["rows"]["lane"]) == (532, 1)
    assert (told["resumed"], told["to"]) == (False, str(file))
    assert told["sha256"][:16] in to.output
    assert sorted(it.name for it in there.iterdir() if it.is_file()) == ["lock", "truth.db"]
    original = in_file(here, content)
    assert at_server(postgres, schema, content) == original
    assert in_file(there, content) == original
    seqs, last = in_file(here, go_on)
    assert seqs == [3, 2, 1501]
    for again, same in (at_server(postgres, schema, go_on), in_file(there, go_on)):
        assert again == seqs
        assert (same.seq, same.position) == (last.seq, last.position)


class Copying:
    """A copy in a process of its own, to be killed."""

    def __init__(self, *words: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "murmurate", "log", "copy", *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def killed_when(self, is_so: Callable[[], bool]) -> bool:
        """Kill it then; return whether it was still at work."""
        while self._process.poll() is None and not is_so():
            pass
        was_at_work = self._process.poll() is None
        if was_at_work:
            os.kill(self._process.pid, signal.SIGKILL)
        self._process.communicate()
        return was_at_work


async def much(log: Log) -> None:
    """Fill it with what takes many pages."""
    for number in range(20):
        await log.append([entry(f"{number} {n}", stream=f"doc/{n % 50}") for n in range(500)])


def test_a_copy_to_postgresql_that_was_killed_goes_on(
    tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOG_URL_OF_THIS_TEST", postgres.url)
    schema = postgres.new_schema()
    in_file(tmp_path, much)
    words = (str(tmp_path), "env:LOG_URL_OF_THIS_TEST", "--to-schema", schema)
    query = f"SELECT count(*) FROM {schema}.entry"

    def entries() -> int:
        found = postgres.ask("SELECT to_regclass($1) IS NOT NULL", f"{schema}.entry")[0][0]
        return postgres.ask(query)[0][0] if found else 0

    assert Copying(*words).killed_when(lambda: entries() >= 2000)
    half = entries()
    assert 2000 <= half < 10_000

    async def opened() -> None:
        opening = PostgresLog.open(Database(postgres.url, schema=schema), clock=SystemClock())
        await refused(opening, LogUnavailableError)

    asyncio.run(opened())
    done = copy(*words, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.output)
    assert (told["resumed"], told["rows"]["entry"]) == (True, 10_000)
    assert at_server(postgres, schema, content) == in_file(tmp_path, content)


def test_a_copy_into_a_folder_that_was_killed_goes_on(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    schema = postgres.new_schema()
    at_server(postgres, schema, much)
    (tmp_path / "url").write_text(postgres.url)
    there = tmp_path / "there"
    words = (f"file:{tmp_path / 'url'}", str(there), "--from-schema", schema)
    half = there / "truth.db.copying"

    def entries() -> int:
        try:
            with closing(sqlite3.connect(f"{half.as_uri()}?mode=ro", uri=True)) as db:
                return db.execute("SELECT count(*) FROM entry").fetchone()[0]
        except sqlite3.Error:
            return 0

    assert Copying(*words).killed_when(lambda: entries() >= 2000)
    assert 2000 <= entries() < 10_000
    assert not (there / "truth.db").exists()
    done = copy(*words, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.output)
    assert (told["resumed"], told["rows"]["entry"]) == (True, 10_000)
    assert not half.exists()
    (there / "truth.db").rename(half)  # as if it had been killed just before it put it there
    again = copy(*words, "--json")
    assert json.loads(again.output)["sha256"] == told["sha256"], again.output
    assert in_file(there, content) == at_server(postgres, schema, content)


def test_half_a_copy_of_a_log_that_has_changed_since_begins_anew(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    schema = postgres.new_schema()
    (tmp_path / "url").write_text(postgres.url)
    in_file(tmp_path, fill)
    words = (str(tmp_path), f"file:{tmp_path / 'url'}", "--to-schema", schema)
    assert copy(*words).exit_code == 0
    with closing(sqlite3.connect(tmp_path / "truth.db")) as db:
        [(name,)] = db.execute("SELECT id FROM file").fetchall()
    postgres.ask_all([f"UPDATE {schema}.about SET copying = '{name} as it was before'"])
    in_file(tmp_path, go_on)
    done = copy(*words, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["resumed"] is False
    assert at_server(postgres, schema, content) == in_file(tmp_path, content)


def test_what_is_in_use_or_not_empty_or_damaged_is_refused(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    (tmp_path / "url").write_text(postgres.url)
    url, schema = f"file:{tmp_path / 'url'}", postgres.new_schema()
    here, other = tmp_path / "here", tmp_path / "other"
    here.mkdir()
    other.mkdir()
    in_file(here, fill)
    in_file(other, fill)

    def why(*words: str) -> str:
        done = copy(*words)
        assert done.exit_code == 1
        assert PASSWORD not in done.output
        return done.output

    to = ("--to-schema", schema)
    assert "there is no log to copy" in why(str(tmp_path / "none"), url, *to)
    assert "truth.db exists" in why(str(here), str(other))
    assert "expected a state folder" in why("mysql://h/db", str(other))
    with lock_state(here):
        assert "another murmurate" in why(str(here), url, *to)
    assert copy(str(here), url, *to).exit_code == 0
    with lock_state(here):
        assert "another murmurate" in why(url, str(here), "--from-schema", schema)
    assert "is not empty" in why(str(other), url, *to)
    postgres.ask_all([f"UPDATE {schema}.about SET copying = 'another log'"])
    assert "is not empty" in why(str(other), url, *to)
    assert "only half of a copy" in why(url, str(tmp_path / "new"), "--from-schema", schema)
    postgres.ask_all([f"UPDATE {schema}.about SET copying = NULL"])

    async def served(_: Log) -> str:
        return await asyncio.to_thread(why, url, str(tmp_path / "new"), "--from-schema", schema)

    assert "a murmurate runs on" in at_server(postgres, schema, served)
    postgres.ask_all([f"UPDATE {schema}.entry SET at = 1 WHERE seq = 1010"])
    words = why(url, str(tmp_path / "new"), "--from-schema", schema)
    assert f"entry 1010 of stream {S} of default is damaged" in words
    postgres.ask_all([f"DELETE FROM {schema}.entry WHERE seq = 1010"])
    words = why(url, str(tmp_path / "new"), "--from-schema", schema)
    assert "1 entries are lost" in words
    assert not (tmp_path / "new" / "truth.db").exists()
