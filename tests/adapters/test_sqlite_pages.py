"""Our own reading of SQLite's file format sees what SQLite sees."""

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from murmurate.adapters.sqlite.pages import Pages, Value, _values, frames_of


def written(path: Path, *, page_bytes: int = 4096, wal: bool = False) -> sqlite3.Connection:
    """Make a table with all kinds of values and sizes, a keyed one and an index."""
    chance = random.Random(3)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute(f"PRAGMA page_size={page_bytes}")
    db.execute("PRAGMA synchronous=OFF")
    if wal:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA wal_autocheckpoint=0")
    db.execute("BEGIN")
    db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a, b)")
    db.execute("CREATE INDEX t_by_a ON t (a)")
    db.execute("CREATE TABLE k (a TEXT PRIMARY KEY, b) WITHOUT ROWID")
    numbers = [0, 1, -1, 127, 128, -32768, 8388607, 2**31, -(2**40), 2**62, 1.5, None]
    for number in range(400):
        size = chance.choice([0, 1, 50, 900, page_bytes, page_bytes * 3 + 7])
        id_ = number if number % 50 else -(2**50) + number
        a = chance.choice(numbers)
        db.execute("INSERT INTO t VALUES (?, ?, ?)", (id_, a, chance.randbytes(size)))
        db.execute("INSERT INTO k VALUES (?, ?)", (f"{number:05}", chance.randbytes(size % 3000)))
    db.execute("COMMIT")
    return db


def seen(path: Path) -> tuple[dict[int, tuple[Value, ...]], dict[bytes, Value]]:
    table: dict[int, tuple[Value, ...]] = {}
    keyed: dict[bytes, Value] = {}
    with closing(Pages(path, path.with_name(f"{path.name}-wal"))) as pages:
        for row in pages.rows():
            match row.values:
                case (None, a, bytes() as b) if row.rowid is not None:
                    table[row.rowid] = (a, b)
                case (bytes() as a, b) if row.rowid is None:
                    keyed[a] = b
                case _:
                    pass
    return table, keyed


@pytest.mark.parametrize("page_bytes", [512, 4096, 65536])
@pytest.mark.parametrize("wal", [False, True])
def test_every_row_is_found_whatever_its_size(
    tmp_path: Path, page_bytes: int, *, wal: bool
) -> None:
    path = tmp_path / "some.db"
    with closing(written(path, page_bytes=page_bytes, wal=wal)) as db:
        table, keyed = seen(path)
        assert table == {id_: (a, b) for id_, a, b in db.execute("SELECT * FROM t")}
        assert keyed == {a.encode(): b for a, b in db.execute("SELECT * FROM k")}
        assert bool(frames_of(path.with_name("some.db-wal"))) is wal


def test_what_was_deleted_is_not_found_again(tmp_path: Path) -> None:
    path = tmp_path / "some.db"
    with closing(written(path)) as db:
        db.execute("PRAGMA secure_delete=ON")
        db.execute("DELETE FROM t WHERE id > 100")
    table, _ = seen(path)
    assert max(table) == 99


def test_a_file_that_ends_in_the_middle_of_a_page_gives_the_pages_before(tmp_path: Path) -> None:
    path = tmp_path / "some.db"
    written(path).close()
    whole, _ = seen(path)
    path.write_bytes(path.read_bytes()[: 4096 * 40 + 17])
    table, _ = seen(path)
    assert 0 < len(table) < len(whole)
    assert all(whole[id_] == row for id_, row in table.items())


@given(st.binary(max_size=4096 * 3), st.integers(0, 40))
def test_nonsense_is_read_without_end_or_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, kind: int
) -> None:
    folder = tmp_path_factory.getbasetemp()
    path, wal = folder / "nonsense.db", folder / "nonsense.db-wal"
    path.write_bytes(bytes([kind]) + content)
    wal.write_bytes(content)
    with closing(Pages(path, wal)) as pages:
        assert len(list(pages.rows())) < 100_000


@given(st.binary(max_size=60))
def test_a_record_of_nonsense_is_refused_or_read_to_its_end(record: bytes) -> None:
    try:
        values = _values(record)
    except (IndexError, ValueError):
        return
    assert len(values) <= len(record)


@pytest.mark.parametrize("stated", [b"\x02\x00", b"\x20\x00", b"\x00\x01"])
def test_a_header_that_states_another_valid_size_of_pages_is_not_believed(
    tmp_path: Path, stated: bytes
) -> None:
    path = tmp_path / "a.db"
    written(path).close()
    before = seen(path)
    content = bytearray(path.read_bytes())
    content[16:18] = stated
    path.write_bytes(content)
    assert seen(path) == before
