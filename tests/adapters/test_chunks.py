"""The chunk table: what is written is read back, counted and embedded once."""

import sqlite3
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from murmurate.adapters.chunks import FILE, ChunkTable, Counts, is_damage
from murmurate.core.errors import IndexUnwritableError
from murmurate.knowledge.ports import Document

T = "default"
TEXT = f"# Guide\n\n{'First words. ' * 30}\n\n## Install\n\n{'More words here. ' * 40}"
GUIDE = Document("g", "guide.md", "Guide", "1", TEXT)


@pytest.fixture
def table(tmp_path: Path) -> Generator[ChunkTable]:
    with closing(ChunkTable(tmp_path)) as opened:
        yield opened


def test_a_document_is_kept_as_its_chunks(table: ChunkTable) -> None:
    lines = table.put(T, "docs", [GUIDE]).added
    rows = table.rows([line.row for line in lines] + [999])
    assert len(rows) == len(lines) > 0
    for row in rows:
        assert TEXT[row.start : row.end] == row.text
        assert (row.document, row.path, row.collection) == ("g", "guide.md", "docs")
    assert table.held(T, "docs") == {"g": "1"}
    assert table.held("other", "docs") == table.held(T, "more") == {}
    assert [line.row for line in table.lines()] == [line.row for line in lines]


def test_a_dropped_document_names_its_rows(table: ChunkTable) -> None:
    lines = table.put(T, "docs", [GUIDE]).added
    assert table.drop(T, "docs", ["g", "unknown"]) == [line.row for line in lines]
    assert table.count(T, "docs") == Counts(0, 0, 0)
    assert table.generation() == 2


def test_a_full_disk_is_told_as_such_and_nothing_is_written(table: ChunkTable) -> None:
    table.put(T, "docs", [GUIDE])
    [pages] = table._writer.execute("PRAGMA page_count").fetchone()
    table._writer.execute(f"PRAGMA max_page_count = {pages}")
    big = Document("big", "big.md", "Big", "1", " ".join(f"word{n}" for n in range(20_000)))
    with pytest.raises(IndexUnwritableError, match="full"):
        table.put(T, "docs", [big])
    assert table.held(T, "docs") == {"g": "1"}


def test_chunks_without_vectors_are_pending_until_they_have_some(table: ChunkTable) -> None:
    lines = table.put(T, "docs", [GUIDE]).added
    table.use_embedder("a 1")
    pending = table.pending(after=0, limit=10)
    assert [chunk.row for chunk in pending] == [line.row for line in lines]
    assert all(text.split("\n")[0] in {"Guide", "Install"} for text in pending[0].texts)
    table.set_vectors([(lines[0].row, b"1234", b"5"), (lines[1].row, b"", b"")])
    assert table.count(T, "docs") == Counts(1, len(lines), len(lines) - 2)
    assert [(row, vectors) for row, _, _, vectors in table.vectors()] == [
        (lines[0].row, b"1234"),
        (lines[1].row, b""),
    ]
    table.use_embedder("a 1")
    assert len(list(table.vectors())) == 2
    assert table.states([line.row for line in lines]) == {lines[0].row: b"5"}
    table.use_embedder("a 2")
    assert table.states([line.row for line in lines]) == {}
    assert table.count(T, "docs") == Counts(1, len(lines), len(lines))


def test_a_failed_change_leaves_nothing(table: ChunkTable) -> None:
    unreadable = msgspec.structs.replace(GUIDE, id="u", text="half a pair \ud800")
    with pytest.raises(UnicodeEncodeError):
        table.put(T, "docs", [GUIDE, unreadable])
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


PARAGRAPHS = [f"Paragraph {n} tells about subject {n}. " * 6 for n in range(200)]


def of(paragraphs: list[str], **fields: str) -> Document:
    document = Document("b", "big.txt", "Big", "1", "\n\n".join(paragraphs))
    return msgspec.structs.replace(document, **fields)


def embedded(table: ChunkTable) -> None:
    """Give every chunk a vector that says what it was made of."""
    for chunk in table.pending(after=0, limit=10_000):
        table.set_vectors([(chunk.row, "".join(chunk.texts).encode(), b"states")])


def test_an_inserted_paragraph_changes_the_chunks_around_it_and_moves_the_others(
    table: ChunkTable,
) -> None:
    before = table.put(T, "docs", [of(PARAGRAPHS)]).added
    embedded(table)
    newer = of(["Something new at the very top. " * 9, *PARAGRAPHS], sha256="2")
    changed = table.put(T, "docs", [newer])
    assert len(changed.added) + len(changed.removed) < len(before) / 4
    assert table.held(T, "docs") == {"b": "2"}
    assert table.count(T, "docs").pending == len(changed.added)
    rows = table.rows([line.row for line in table.lines()])
    assert len(rows) == table.count(T, "docs").chunks
    for row in rows:
        assert newer.text[row.start : row.end] == row.text
        assert newer.text.count("\n", 0, row.start) + 1 == row.line_first


def test_the_same_document_again_changes_nothing(table: ChunkTable) -> None:
    table.put(T, "docs", [of(PARAGRAPHS)])
    embedded(table)
    changed = table.put(T, "docs", [of(PARAGRAPHS, sha256="2")])
    assert changed.added == changed.removed == []
    assert table.count(T, "docs").pending == 0


def test_a_chunk_that_stands_twice_is_kept_twice(table: ChunkTable) -> None:
    twice = [*PARAGRAPHS[:20], "\n\n# Again\n\n", *PARAGRAPHS[:20]]
    table.put(T, "docs", [of(twice, path="a.md")])
    count = table.count(T, "docs")
    assert table.put(T, "docs", [of(twice, path="a.md")]).removed == []
    assert table.count(T, "docs") == count


def test_a_renamed_document_is_not_embedded_again(table: ChunkTable) -> None:
    table.put(T, "docs", [of(PARAGRAPHS)])
    embedded(table)
    changed = table.put(T, "docs", [of(PARAGRAPHS, id="moved", path="moved.txt")])
    assert table.count(T, "docs").pending == 0
    assert [row for row, _ in changed.vectors] == [line.row for line in changed.added]
    stored = {row: vector for row, _, _, vector in table.vectors()}
    assert all(stored[row] == vector for row, vector in changed.vectors)


def test_tenants_share_no_vectors(table: ChunkTable) -> None:
    table.put(T, "docs", [of(PARAGRAPHS)])
    embedded(table)
    assert table.put("other", "docs", [of(PARAGRAPHS)]).vectors == []
    assert table.count("other", "docs").pending == table.count("other", "docs").chunks


def test_the_page_of_a_chunk_is_kept(table: ChunkTable) -> None:
    text = "".join(f"Page {n}.\f" for n in range(1, 4))
    lines = table.put(T, "docs", [Document("p", "p.pdf", "P", "1", text)]).added
    rows = sorted(table.rows([line.row for line in lines]), key=lambda row: row.row)
    assert [(row.text, row.page) for row in rows] == [
        ("Page 1.", 1),
        ("Page 2.", 2),
        ("Page 3.", 3),
    ]


def test_vectors_of_a_chunk_that_is_gone_are_not_kept(table: ChunkTable) -> None:
    lines = table.put(T, "docs", [GUIDE]).added
    table.drop(T, "docs", ["g"])
    assert table.set_vectors([(line.row, b"1234", b"5") for line in lines]) == set()


def test_a_condemned_file_is_thrown_away_and_its_successor_is_another(tmp_path: Path) -> None:
    with closing(ChunkTable(tmp_path)) as table:
        table.put(T, "docs", [GUIDE])
        birth = table.birth()
        assert table.size_bytes() > 0
    with closing(ChunkTable(tmp_path)) as table:
        assert table.birth() == birth
        table.condemn()
    with closing(ChunkTable(tmp_path)) as table:
        assert table.held(T, "docs") == {}
        assert table.birth() != birth
    with closing(ChunkTable(tmp_path)) as table:
        assert table.generation() == 0


def test_damage_is_told_from_what_passes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"garbage" * 1000)

    def fault(path: Path | str) -> sqlite3.DatabaseError:
        with closing(sqlite3.connect(path)) as connection:
            try:
                connection.execute("SELECT * FROM facts")
            except sqlite3.DatabaseError as error:
                return error
        raise AssertionError(path)

    assert is_damage(fault(tmp_path / "x"))
    assert not is_damage(fault(":memory:"))
