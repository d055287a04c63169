import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest

from murmurate.adapters.sqlite.telemetry import TelemetryStore
from murmurate.core.errors import LogNewerError, LogUnavailableError
from murmurate.observe.spans import SpanRecord


def span(
    trace: int, number: int = 0, *, tenant: str | None = "acme", name: str = "s"
) -> SpanRecord:
    attributes: dict[str, str | int | float | bool] = {"model": "tiny", "tokens": 7, "hit": True}
    ids = (f"{trace:032x}", f"{number + 1:016x}", None)
    return SpanRecord(*ids, tenant, name, number, 250, attributes, None)


def play(
    path: Path,
    story: Callable[[TelemetryStore], Awaitable[None]],
    *,
    queue_max: int = 20_000,
    spans_max: int = 200_000,
) -> None:
    async def whole() -> None:
        store = TelemetryStore(path, queue_max=queue_max, spans_max=spans_max)
        try:
            await story(store)
        finally:
            await store.close()

    asyncio.run(whole())


def stored(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        return db.execute("SELECT count(*) FROM span").fetchone()[0]


def test_a_trace_can_be_read_right_after_its_spans_ended(tmp_path: Path) -> None:
    async def story(store: TelemetryStore) -> None:
        spans = [span(1, number) for number in range(5)]
        for one in (*reversed(spans), span(2)):
            store.put(one)
        assert await store.spans("acme", f"{1:032x}") == spans
        assert await store.spans("acme", f"{9:032x}") == []

    play(tmp_path / "telemetry.db", story)


def test_a_trace_of_another_tenant_is_not_found(tmp_path: Path) -> None:
    async def story(store: TelemetryStore) -> None:
        for one in (span(1, 0), span(1, 1, tenant="evil"), span(1, 2, tenant=None)):
            store.put(one)
        assert await store.spans("acme", f"{1:032x}") == [span(1, 0)]
        assert await store.spans("nobody", f"{1:032x}") == []

    play(tmp_path / "telemetry.db", story)


def test_what_waits_at_the_end_is_written(tmp_path: Path) -> None:
    async def story(store: TelemetryStore) -> None:
        for number in range(1000):
            store.put(span(number))

    play(tmp_path / "telemetry.db", story)
    assert stored(tmp_path / "telemetry.db") == 1000


def test_a_full_queue_drops_and_counts(tmp_path: Path) -> None:
    async def story(store: TelemetryStore) -> None:
        with store._turn:  # nothing is written meanwhile
            for number in range(15):
                store.put(span(1, number))
        assert store.dropped == 5
        assert len(await store.spans("acme", f"{1:032x}")) == 10

    play(tmp_path / "telemetry.db", story, queue_max=10)


def test_the_oldest_traces_make_room(tmp_path: Path) -> None:
    async def story(store: TelemetryStore) -> None:
        for trace in range(100):
            for number in range(7):
                store.put(span(trace, number))
            found = await store.spans("acme", f"{trace:032x}")
            assert len(found) == 7
            assert stored(tmp_path / "telemetry.db") <= 100
        assert await store.spans("acme", f"{0:032x}") == []
        assert len(await store.spans("acme", f"{90:032x}")) == 7

    play(tmp_path / "telemetry.db", story, spans_max=100)
    assert stored(tmp_path / "telemetry.db") >= 80


def test_one_span_that_cannot_be_stored_loses_no_other(tmp_path: Path) -> None:
    async def story(store: TelemetryStore) -> None:
        for one in (span(1, 0), span(1, 1, name="\ud800"), span(1, 2**70), span(1, 3)):
            store.put(one)
        assert await store.spans("acme", f"{1:032x}") == [span(1, 0), span(1, 3)]
        assert store.dropped == 2

    play(tmp_path / "telemetry.db", story)


def test_a_full_disk_loses_spans_and_nothing_else(tmp_path: Path) -> None:
    async def story(store: TelemetryStore) -> None:
        with store._turn:
            store._connection.execute("PRAGMA max_page_count=10").fetchall()
        for number in range(2000):
            store.put(span(1, number))
        assert await store.spans("acme", f"{1:032x}") == []
        assert store.dropped == 2000
        with store._turn:
            store._connection.execute("PRAGMA max_page_count=10000").fetchall()
        store.put(span(2))
        assert await store.spans("acme", f"{2:032x}") == [span(2)]

    play(tmp_path / "telemetry.db", story)


def test_a_damaged_file_is_put_aside_and_a_new_one_serves(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.db"
    damage = b"this is no database " * 1000
    for name in ("telemetry.db", "telemetry.db-wal", "telemetry.db-shm"):
        (tmp_path / name).write_bytes(damage)

    async def story(store: TelemetryStore) -> None:
        store.put(span(1))
        assert await store.spans("acme", f"{1:032x}") == [span(1)]

    play(path, story)
    assert stored(path) == 1
    assert (tmp_path / "telemetry.db.damaged").read_bytes() == damage


def test_a_file_of_a_newer_version_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version=99")
    before = path.read_bytes()
    with pytest.raises(LogNewerError):
        TelemetryStore(path)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (99,)
    assert len(path.read_bytes()) == len(before)


def test_a_closed_store_drops_and_refuses(tmp_path: Path) -> None:
    async def story(store: TelemetryStore) -> None:
        await store.close()
        store.put(span(1))
        assert store.dropped == 1
        with pytest.raises(LogUnavailableError):
            await store.spans("acme", f"{1:032x}")

    play(tmp_path / "telemetry.db", story)
