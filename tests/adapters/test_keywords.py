"""Search by words, English and Chinese, whatever the question looks like."""

import resource
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from murmurate.adapters.keywords import (
    JIEBA_CACHE,
    KeywordIndex,
    KeywordsDamagedError,
    Line,
    Words,
)

T = "default"
DOCS = ["docs"]


def index_of(folder: Path, *texts: str, titles: tuple[str, ...] = ()) -> KeywordIndex:
    index = KeywordIndex(folder, Words(folder))
    index.add(
        Line(row, T, "docs", titles[row] if titles else "", text) for row, text in enumerate(texts)
    )
    index.commit(1)
    return index


def rows(index: KeywordIndex, question: str) -> list[int]:
    return [row for row, _ in index.find(T, DOCS, question, limit=10).rows]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> KeywordIndex:
    return index_of(
        tmp_path_factory.mktemp("index"),
        "The gateway enforces rate limits per tenant.",
        "向量数据库支持混合检索和重排序",
        "今天上海的天气很好",
        "订单号 A1B2-9921 的退款申请 error code E4012",
    )


@pytest.mark.parametrize(
    ("question", "row"),
    [
        ("rate limiting", 0),
        ("GATEWAYS?", 0),
        ("怎么做混合检索", 1),
        ("天气", 2),
        ("error E4012", 3),
        ("退款怎么申请？", 3),
    ],
)
def test_words_are_found_in_all_their_forms(library: KeywordIndex, question: str, row: int) -> None:
    assert rows(library, question)[0] == row


@pytest.mark.parametrize(
    "question",
    ['foo:bar "unbalanced (', "[a TO b]", "a AND OR NOT", "*", "/.*/", "\0", "", "？", "x" * 9999],
)
def test_a_question_is_words_and_never_syntax(library: KeywordIndex, question: str) -> None:
    rows(library, question)


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_no_question_breaks_the_search(library: KeywordIndex, question: str) -> None:
    rows(library, question)


def test_rare_words_weigh_more(tmp_path: Path) -> None:
    index = index_of(tmp_path, "common rare", "common", "common")
    terms = dict(index.find(T, DOCS, "the common rare", limit=10).terms)
    assert set(terms) == {"common", "rar"}
    assert terms["rar"] > terms["common"]


def test_a_question_of_stop_words_still_looks_for_them(tmp_path: Path) -> None:
    index = index_of(tmp_path, "to be or not", "something else")
    assert rows(index, "to be") == [0]


def test_the_title_is_searched_too(tmp_path: Path) -> None:
    index = index_of(tmp_path, "text", "text", titles=("guide.md Installing", "other.md"))
    assert rows(index, "how to install") == [0]


def test_tenants_and_collections_do_not_see_each_other(tmp_path: Path) -> None:
    index = KeywordIndex(tmp_path, Words(tmp_path))
    index.add(
        [Line(1, T, "docs", "", "cat"), Line(2, T, "b", "", "cat"), Line(3, "x", "docs", "", "cat")]
    )
    index.commit(1)
    assert rows(index, "cat") == [1]
    both = index.find(T, ["docs", "b", "unknown"], "cat", limit=10)
    assert sorted(row for row, _ in both.rows) == [1, 2]
    assert index.find(T, [], "cat", limit=10).rows == ()


def test_a_removed_row_is_gone_after_the_commit(tmp_path: Path) -> None:
    index = index_of(tmp_path, "cat", "cat and dog")
    index.remove([0, 77])
    assert rows(index, "cat") != []
    index.commit(2)
    assert rows(index, "cat") == [1]


def test_an_index_knows_its_last_commit_when_opened_again(tmp_path: Path) -> None:
    index = index_of(tmp_path, "cat")
    index.add([Line(9, T, "docs", "", "cat never committed")])
    index.close()
    del index
    again = KeywordIndex(tmp_path, Words(tmp_path))
    assert again.generation() == 1
    assert rows(again, "cat") == [0]
    again.clear()
    again.commit(5)
    assert rows(again, "cat") == []
    assert again.generation() == 5


def test_a_damaged_index_is_started_anew(tmp_path: Path) -> None:
    index_of(tmp_path, "cat").close()
    [folder] = tmp_path.glob("keywords-*")
    (folder / "meta.json").write_text("{broken")
    again = KeywordIndex(tmp_path, Words(tmp_path))
    assert again.generation() == 0
    assert rows(again, "cat") == []


def test_a_writer_that_a_full_disk_has_ended_is_told_as_damage(tmp_path: Path) -> None:
    index = index_of(tmp_path, "cat")
    text = " ".join(f"word{n}" for n in range(2_000))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(KeywordsDamagedError):
            index.add(Line(row, T, "docs", "", f"{row} {text}") for row in range(10_000))
        changes: list[Callable[[], None]] = [
            lambda: index.add([Line(1, T, "docs", "", "cat")]),
            lambda: index.commit(2),
        ]
        for change in changes:
            with pytest.raises(KeywordsDamagedError):
                change()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_dictionary_is_loaded_for_chinese_only_and_kept_in_the_folder(tmp_path: Path) -> None:
    words = Words(tmp_path)
    assert words.of_text("English only") == ["english", "only"]
    assert not words.was_needed()
    assert "软件包" in words.of_text("安装软件包")
    assert words.was_needed()
    assert (tmp_path / JIEBA_CACHE).stat().st_mode & 0o077 == 0
