"""The chunk table: what is written is read back, counted and embedded once."""

import sqlite3
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import pytest

from murmurate.adapters.chunks import FILE, ChunkTable
from murmurate.knowledge.ports import Document

T = "default"
TEXT = f"# Guide\n\n{'First words. ' * 30}\n\n## Install\n\n{'More words here. ' * 40}"
GUIDE = Document("g", "guide.md", "Guide", "1", TEXT)


@pytest.fixture
def table(tmp_path: Path) -> Generator[ChunkTable]:
    with closing(ChunkTable(tmp_path)) as opened:
        yield opened


def test_a_document_is_kept_as_its_chunks(table: ChunkTable) -> None:
    lines = table.put(T, "docs", [GUIDE])
    rows = table.rows([line.row for line in lines] + [999])
    assert len(rows) == len(lines) > 0
    for row in rows:
        assert TEXT[row.start : row.end] == row.text
        assert (row.document, row.path, row.collection) == ("g", "guide.md", "docs")
    assert table.held(T, "docs") == {"g": "1"}
    assert table.held("other", "docs") == table.held(T, "more") == {}
    assert [line.row for line in table.lines()] == [line.row for line in lines]


def test_a_dropped_document_names_its_rows(table: ChunkTable) -> None:
    lines = table.put(T, "docs", [GUIDE])
    assert table.drop(T, "docs", ["g", "unknown"]) == [line.row for line in lines]
    assert table.count(T, "docs") == (0, 0)
    assert table.generation() == 2


def test_chunks_without_vectors_are_pending_until_they_have_some(table: ChunkTable) -> None:
    lines = table.put(T, "docs", [GUIDE])
    table.use_embedder("a")
    pending = table.pending(limit=10)
    assert [chunk.row for chunk in pending] == [line.row for line in lines]
    assert all(text.split("\n")[0] in {"Guide", "Install"} for text in pending[0].texts)
    table.set_vectors([(lines[0].row, b"1234"), (lines[1].row, b"")])
    assert table.count(T, "docs") == (len(lines), len(lines) - 2)
    assert [(row, vectors) for row, _, _, vectors in table.vectors()] == [
        (lines[0].row, b"1234"),
        (lines[1].row, b""),
    ]
    table.use_embedder("a")
    assert len(list(table.vectors())) == 2
    table.use_embedder("another")
    assert table.count(T, "docs") == (len(lines), len(lines))


def test_a_failed_change_leaves_nothing(table: ChunkTable) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        table.put(T, "docs", [GUIDE, GUIDE])
    assert table.held(T, "docs") == {}
    assert table.generation() == 0
    assert table.put(T, "docs", [GUIDE])


def test_everything_is_there_when_opened_again(tmp_path: Path) -> None:
    with closing(ChunkTable(tmp_path)) as table:
        table.put(T, "docs", [GUIDE])
    with closing(ChunkTable(tmp_path)) as table:
        assert table.held(T, "docs") == {"g": "1"}
        assert table.generation() == 1


@pytest.mark.parametrize("damage", ["garbage", "another version"])
def test_a_file_that_cannot_be_used_is_started_anew(tmp_path: Path, damage: str) -> None:
    with closing(ChunkTable(tmp_path)) as table:
        table.put(T, "docs", [GUIDE])
    if damage == "garbage":
        (tmp_path / FILE).write_bytes(b"garbage" * 1000)
    else:
        with closing(sqlite3.connect(tmp_path / FILE)) as connection:
            connection.execute("PRAGMA user_version = 1")
    with closing(ChunkTable(tmp_path)) as table:
        assert table.held(T, "docs") == {}
        assert table.put(T, "docs", [GUIDE])
