"""All logs against the contract, and against a model that is too simple to be wrong."""

import asyncio
import tempfile
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from murmurate.adapters.memory import MemoryLog
from murmurate.adapters.postgres.database import Database
from murmurate.adapters.postgres.log import PostgresLog
from murmurate.adapters.sqlite.log import SqliteLog
from murmurate.core.clock import SystemClock
from murmurate.core.errors import LogConflictError
from murmurate.core.ports import SNAPSHOT, Entry, Log
from murmurate.testing import LogContract
from murmurate.testing.stories import all_of
from tests.servers.postgres import PostgresServer


class TestMemoryLog(LogContract):
    async def make_log(self) -> Log:
        return MemoryLog(clock=SystemClock())


class TestSqliteLog(LogContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    async def make_log(self) -> Log:
        return SqliteLog(self.folder / "truth.db", clock=SystemClock())


class TestPostgresLog(LogContract):
    @pytest.fixture(autouse=True)
    def _server(self, postgres: PostgresServer) -> None:
        self.server = postgres

    async def make_log(self) -> Log:
        database = Database(self.server.url, schema=self.server.new_schema())
        return await PostgresLog.open(database, clock=SystemClock())


class Model:
    """What a log should hold: per stream the bodies by seq, the head and the snapshot."""

    def __init__(self) -> None:
        self.entries: dict[str, dict[int, bytes]] = defaultdict(dict)
        self.heads: dict[str, int] = defaultdict(int)
        self.snapshots: dict[str, tuple[int, bytes]] = {}
        self.order: list[tuple[str, int]] = []

    def append(self, streams: list[str], body: bytes) -> list[int]:
        seqs: list[int] = []
        for stream in streams:
            self.heads[stream] += 1
            self.entries[stream][self.heads[stream]] = body
            self.order.append((stream, self.heads[stream]))
            seqs.append(self.heads[stream])
        return seqs

    def snapshot(self, stream: str, seq: int, body: bytes) -> bool:
        old, _ = self.snapshots.get(stream, (0, b""))
        if seq < old:
            return True
        if seq in self.entries[stream] or seq == old > 0:
            self.snapshots[stream] = (seq, body)
            return True
        return False

    def forget(self, stream: str, before: int | None) -> None:
        if before is None:
            self.snapshots.pop(stream, None)
        for seq in list(self.entries[stream]):
            if before is None or seq < before:
                del self.entries[stream][seq]

    def read(self, stream: str, after: int) -> list[tuple[str, int, bytes]]:
        seen: list[tuple[str, int, bytes]] = []
        seq, body = self.snapshots.get(stream, (0, b""))
        if seq > after:
            seen, after = [(SNAPSHOT, seq, body)], seq
        return seen + [("note", s, b) for s, b in self.entries[stream].items() if s > after]

    def streams(self) -> list[tuple[str, int]]:
        names = sorted({name for name in self.heads if self.entries[name]} | set(self.snapshots))
        return [(name, self.heads[name]) for name in names]

    def tail(self) -> list[tuple[str, int]]:
        return [(stream, seq) for stream, seq in self.order if seq in self.entries[stream]]


NAMES = st.sampled_from(["a", "a/1", "b"])
SEQS = st.integers(0, 8)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.lists(NAMES, min_size=1, max_size=3), SEQS),
        st.tuples(st.just("snapshot"), NAMES, SEQS),
        st.tuples(st.just("forget"), NAMES, st.none() | SEQS),
        st.tuples(st.just("read"), NAMES, SEQS),
    ),
    max_size=25,
)


async def follow_the_model(log: Log, steps: list[tuple[str, object, object]]) -> None:
    model = Model()
    for number, step in enumerate(steps):
        body = str(number).encode()
        match step:
            case ("append", list() as streams, int() as seen):
                expected = {("t", streams[0]): seen} if seen > 4 else {}
                entries = [Entry("t", stream, "note", body) for stream in streams]
                if expected and model.heads[streams[0]] != seen:
                    with pytest.raises(LogConflictError):
                        await log.append(entries, expected=expected)
                else:
                    seqs = await log.append(entries, expected=expected)
                    assert seqs == model.append(streams, body)
            case ("snapshot", str() as stream, int() as seq):
                if model.snapshot(stream, seq, body):
                    await log.snapshot("t", stream, seq, body)
                else:
                    with pytest.raises(LogConflictError):
                        await log.snapshot("t", stream, seq, body)
            case ("forget", str() as stream, int() | None as before):
                model.forget(stream, before)
                await log.forget("t", stream, before=before)
            case ("read", str() as stream, int() as after):
                stored = await all_of(log.read("t", stream, after=after))
                assert [(s.kind, s.seq, s.body) for s in stored] == model.read(stream, after)
            case _:
                raise AssertionError(step)
    listed = await all_of(log.streams("t", ""))
    assert [(info.stream, info.head) for info in listed] == model.streams()
    tail = log.tail("", after=0)
    assert [((s := await anext(tail)).stream, s.seq) for _ in model.tail()] == model.tail()
    await tail.aclose()


@settings(deadline=None)
@given(STEPS)
def test_the_memory_log_does_what_the_model_does(steps: list[tuple[str, object, object]]) -> None:
    async def story() -> None:
        log = MemoryLog(clock=SystemClock())
        await follow_the_model(log, steps)
        await log.close()

    asyncio.run(story())


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_the_sqlite_log_does_what_the_model_does(steps: list[tuple[str, object, object]]) -> None:
    async def story() -> None:
        with tempfile.TemporaryDirectory() as folder:
            log = SqliteLog(Path(folder) / "truth.db", clock=SystemClock())
            try:
                await follow_the_model(log, steps)
            finally:
                await log.close()

    asyncio.run(story())


@pytest.fixture(scope="module")
def schema(postgres: PostgresServer) -> str:
    return postgres.new_schema()


@settings(max_examples=40, deadline=None)
@given(steps=STEPS)
def test_the_postgres_log_does_what_the_model_does(
    postgres: PostgresServer, schema: str, steps: list[tuple[str, object, object]]
) -> None:
    async def story() -> None:
        log = await PostgresLog.open(Database(postgres.url, schema=schema), clock=SystemClock())
        try:
            await follow_the_model(log, steps)
        finally:
            await log.close()

    asyncio.run(story())
    postgres.ask_all(f"DELETE FROM {schema}.{name}" for name in ("entry", "head", "snapshot"))
