"""Files into text: each format by its own reader, each with a title."""

from collections.abc import Generator
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest

from murmurate.adapters.parse import extract
from murmurate.adapters.parser import Parser
from murmurate.adapters.parser_child import CHARS_MAX
from murmurate.core.errors import DocumentUnreadableError
from murmurate.knowledge.chunk import CHUNKS_MAX
from murmurate.knowledge.ports import Extracted
from tests.documents import docx, paragraph, pdf

BYTES_MAX = 1_000_000


@pytest.fixture(scope="module")
def parser() -> Generator[Parser]:
    with closing(Parser()) as made:
        yield made


def read(folder: Path, name: str, content: bytes, parser: Parser) -> Extracted:
    (folder / name).write_bytes(content)
    return extract(str(folder), name, bytes_max=BYTES_MAX, parser=parser)


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("intro\n\n# The Guide #\n", "The Guide"),
        ("The Guide\n=========\n", "The Guide"),
        (".. _label:\n\nThe Guide\n*********\n", "The Guide"),
        ("no heading at all\n", "a"),
    ],
)
def test_the_title_of_a_text_is_its_first_heading_or_its_name(
    tmp_path: Path, parser: Parser, text: str, title: str
) -> None:
    assert read(tmp_path, "a.rst", text.encode(), parser).title == title


@pytest.mark.parametrize(
    ("name", "content", "title", "text"),
    [
        ("a.py", b"# no heading\ndef f(): ...\n", "a.py", "# no heading\ndef f(): ...\n"),
        ("a.html", b"<title>T</title><p>Words", "T", "Words\n"),
        ("a.HTM", "<h1>标题</h1>".encode(), "标题", "# 标题\n"),
        ("a.pdf", pdf(["one"], ["two"], title="P"), "P", "one\ftwo\f"),
        ("b.pdf", pdf(["中文"]), "b", "中文\f"),
        ("a.docx", docx(paragraph("中文 words"), title="D"), "D", "中文 words\n"),
        ("c.md", b"", "c", ""),
    ],
)
def test_each_format_is_read_with_its_title(
    tmp_path: Path, parser: Parser, *, name: str, content: bytes, title: str, text: str
) -> None:
    found = read(tmp_path, name, content, parser)
    assert (found.title, found.text) == (title, text)
    assert found.sha256 == sha256(content).hexdigest()
    assert (found.size, found.mtime_ns) == (len(content), (tmp_path / name).stat().st_mtime_ns)


def test_a_text_of_nothing_but_pages_is_refused(tmp_path: Path, parser: Parser) -> None:
    with pytest.raises(DocumentUnreadableError, match=f"pages.txt: .* {CHUNKS_MAX} passages"):
        read(tmp_path, "pages.txt", b"a\f" * (CHUNKS_MAX + 1), parser)


def test_a_text_that_no_message_could_carry_is_refused(tmp_path: Path, parser: Parser) -> None:
    (tmp_path / "a.log").write_bytes(b"x" * (CHARS_MAX + 1))
    with pytest.raises(DocumentUnreadableError, match=f"a.log: its text is over {CHARS_MAX}"):
        extract(str(tmp_path), "a.log", bytes_max=2 * CHARS_MAX, parser=parser)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", b"\x00\x01", "a.txt: binary, not text"),
        ("a.pdf", b"<html>", "a.pdf: not a PDF file, whatever its name says"),
        ("a.docx", b"Dear all,", "a.docx: damaged, or not a Word document"),
        ("a.png", b"", "a.png: files of this type are not supported"),
        ("../a.md", b"", r"\.\./a\.md: leads out of the folder"),
    ],
)
def test_what_cannot_be_read_is_named(
    tmp_path: Path, parser: Parser, *, name: str, content: bytes, reason: str
) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(DocumentUnreadableError, match=reason):
        read(tmp_path / "in", name, content, parser)
