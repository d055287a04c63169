"""Sentences and words, English and Chinese."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from murmurate.knowledge.words import is_mostly_latin, sentences, stem, stems


@pytest.mark.parametrize(
    "family",
    [
        ("install", "installs", "installed", "installing", "installation"),
        ("remove", "removes", "removed", "removing"),
        ("configure", "configured", "configuration", "configurations"),
        ("policy", "policies"),
        ("process", "processes", "processed", "processing"),
        ("maintain", "maintainer", "maintainers"),
        ("run", "running", "runs"),
        ("delete", "deletion"),
    ],
)
def test_words_of_a_family_share_a_stem(family: tuple[str, ...]) -> None:
    assert len({stem(word) for word in family}) == 1


@pytest.mark.parametrize("word", ["is", "32bit", "naïve", "软件", "bus", "this", "x86", "être"])
def test_short_and_foreign_words_stay_as_they_are(word: str) -> None:
    assert stem(word) == word


def test_stop_words_say_nothing() -> None:
    assert stems("How do I install the packages?") == ["instal", "packag"]


def test_chinese_falls_into_pairs_of_characters() -> None:
    assert stems("安装 sshd，软件包") == ["安装", "sshd", "软件", "件包"]
    assert stems("云") == ["云"]


@given(st.text())
def test_sentences_lose_nothing_but_white_space(text: str) -> None:
    at = 0
    for start, end in sentences(text):
        assert at <= start < end
        assert not text[at:start].strip()
        assert text[start:end] == text[start:end].strip()
        at = end
    assert not text[at:].strip()


def test_numbers_names_and_abbreviations_do_not_end_a_sentence() -> None:
    text = "Python 3.11 runs a.out, e.g. on Linux. It works! 第一句。第二句？"
    assert [text[start:end] for start, end in sentences(text)] == [
        "Python 3.11 runs a.out, e.g. on Linux.",
        "It works!",
        "第一句。",
        "第二句？",
    ]


@pytest.mark.parametrize(
    ("text", "latin"),
    [
        ("How long may a package name be?", True),
        ("What does 安装 mean in this manual page?", True),
        ("如何安装 Debian 软件包", False),
        ("Как установить пакет?", False),
        ("42 ???", False),
    ],
)
def test_vectors_are_for_mostly_latin_texts(text: str, *, latin: bool) -> None:
    assert is_mostly_latin(text) is latin
