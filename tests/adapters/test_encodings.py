"""Bytes into text: what is certain is read, and nothing is guessed."""

import pytest

from murmurate.adapters.encodings import decoded
from murmurate.core.errors import DocumentUnreadableError

CHINESE = "# 安装\n\n如何安装软件包？请看这里，软件包的安装很简单。\n"
ENGLISH = "# Install\n\nHow to install a package.\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "gb18030", "gbk"])
def test_chinese_is_read_in_its_usual_encodings(encoding: str) -> None:
    assert decoded(CHINESE.encode(encoding)) == CHINESE


def test_big_endian_utf16_is_read_by_its_mark() -> None:
    assert decoded(b"\xfe\xff" + CHINESE.encode("utf-16-be")) == CHINESE


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_a_mark_is_known_by_its_zeros(encoding: str) -> None:
    assert decoded(ENGLISH.encode(encoding)) == ENGLISH


def test_an_encoding_that_the_file_names_is_taken_at_its_word_unless_a_mark_contradicts() -> None:
    assert decoded("café".encode("latin-1"), "latin-1") == "café"
    assert decoded("電話".encode("big5"), "big5") == "電話"
    assert decoded("é".encode("utf-8-sig"), "latin-1") == "é"
    with pytest.raises(DocumentUnreadableError, match="not valid utf-8 text"):
        decoded("café".encode("latin-1"), "utf-8")


def test_all_line_ends_become_one() -> None:
    assert decoded(b"a\r\nb\rc\n") == "a\nb\nc\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x7fELF\x00\x01", "binary, not text"),
        (b"\x89PNG\r\n\x1a\n\x00", "binary, not text"),
        (b"PK\x03\x04" + bytes(range(256)), "binary, not text|not valid utf-8"),
        (b"\0" * 64, "binary, not text"),
        ("café crème brûlée".encode("latin-1"), "not valid utf-8 or gb18030 text"),
        (b"fine until here \xff\xfe\xfd", "not valid utf-8 or gb18030 text"),
        (b"\xff\xfea", "not valid utf-16-le text"),
    ],
)
def test_what_is_no_text_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(DocumentUnreadableError, match=reason):
        decoded(content)


def test_an_empty_file_is_an_empty_text() -> None:
    assert decoded(b"") == ""
