"""What a name says about a file."""

import pytest

from murmurate.knowledge.formats import Format, Language, format_of, language_of


@pytest.mark.parametrize(
    ("path", "format_"),
    [
        ("a.md", Format.TEXT),
        ("deep/a.TXT", Format.TEXT),
        ("ls.1", Format.TEXT),
        ("README", Format.TEXT),
        ("a.html", Format.HTML),
        ("a.PDF", Format.PDF),
        ("a.docx", Format.DOCX),
        ("a.py", Format.CODE),
        ("Makefile", Format.CODE),
        ("a.doc", None),
        ("a.png", None),
        ("noname", None),
        ("md", None),
    ],
)
def test_the_format_follows_from_the_name(path: str, format_: Format | None) -> None:
    assert format_of(path) is format_


@pytest.mark.parametrize(
    ("path", "language"),
    [
        ("a.py", Language.PYTHON),
        ("a.tsx", Language.SCRIPT),
        ("a.go", Language.GO),
        ("a.rs", Language.RUST),
        ("A.java", Language.JAVA),
        ("a.hpp", Language.C),
        ("a.sh", Language.SHELL),
        ("a.toml", Language.SECTIONS),
        ("a.yml", Language.KEYS),
        ("a.json", Language.LINES),
        ("a.md", None),
        ("README", None),
        ("", None),
    ],
)
def test_the_language_follows_from_the_name(path: str, language: Language | None) -> None:
    assert language_of(path) is language
