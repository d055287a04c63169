"""Chunks can be cited: they are pieces of the text, in order, below their headings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from murmurate.core.errors import DocumentUnreadableError
from murmurate.knowledge.chunk import (
    CHUNKS_MAX,
    FENCE_WEIGHT_MAX,
    PART_CHARS_MAX,
    WEIGHT_FULL,
    WEIGHT_MAX,
    chunk,
    weight,
    windows,
)

LINES = st.sampled_from(
    [
        "",
        "  ",
        "# A heading",
        "### Deeper #",
        "Underlined",
        "==========",
        "~~~",
        "```python",
        "```",
        "SYNOPSIS",
        "LS(1)      LS(1)",
        "       indented words of a manual",
        "- an item, e.g. this one. And more! Really?",
        "一句话。第二句！第三句？" * 12,
        "word " * 60,
        "x" * 1200,
        "汉" * 700,
        "\r",
        "\u2028",
    ]
)
TEXTS = st.one_of(st.text(), st.lists(LINES, max_size=25).map("\n".join))


@given(TEXTS)
def test_a_chunk_is_the_text_between_its_offsets(text: str) -> None:
    for piece in chunk(text):
        assert text[piece.start : piece.end] == piece.text
        assert piece.text == piece.text.strip()
        assert piece.text


@given(TEXTS)
def test_chunks_are_in_order_and_lose_nothing_but_white_space(text: str) -> None:
    at = 0
    for piece in chunk(text):
        assert piece.start >= at
        assert not text[at : piece.start].strip()
        at = piece.end
    assert not text[at:].strip()


@given(TEXTS)
def test_the_lines_of_a_chunk_are_where_it_starts_and_ends(text: str) -> None:
    for piece in chunk(text):
        assert piece.line_first == text.count("\n", 0, piece.start) + 1
        assert piece.line_last == text.count("\n", 0, piece.end) + 1


@given(TEXTS)
def test_no_chunk_is_heavier_than_a_code_block_with_its_heading(text: str) -> None:
    for piece in chunk(text):
        assert weight(piece.text) <= FENCE_WEIGHT_MAX + WEIGHT_MAX


def test_markdown_headings_become_the_context() -> None:
    text = f"# Guide\n\n{'Words. ' * 80}\n\n## Install\n\n### Linux\n\n{'More words. ' * 60}\n"
    contexts = [piece.context for piece in chunk(text)]
    assert contexts == ["Guide", "Guide > Install > Linux"]


def test_small_sections_share_a_chunk_below_their_common_heading() -> None:
    text = "# Guide\n\n## One\n\nShort.\n\n## Two\n\nShort too.\n"
    [piece] = chunk(text)
    assert piece.context == "Guide"
    assert piece.text.startswith("# Guide")


def test_a_heading_stays_with_the_text_below_it() -> None:
    text = f"# One\n\n{'a sentence. ' * 25}\n\n# Two\n\n{'another one. ' * 60}\n"
    first, second = chunk(text)
    assert "# Two" not in first.text
    assert second.text.startswith("# Two")
    assert second.context == "Two"


def test_a_heading_that_ends_the_text_is_kept() -> None:
    assert [piece.text for piece in chunk("# Alone\n")] == ["# Alone"]


def test_restructured_text_headings_nest_by_their_underlines() -> None:
    body = "Words of a paragraph. " * 25
    text = f"Binary packages\n===============\n\n{body}\n\nThe name\n--------\n\n{body}\n"
    assert [piece.context for piece in chunk(text)] == [
        "Binary packages",
        "Binary packages > The name",
    ]


def test_a_line_of_dashes_under_a_paragraph_is_no_heading() -> None:
    [piece] = chunk("first line\nsecond line\n-----------\nthird line\n")
    assert piece.context == ""


def test_headings_of_man_pages_are_found_in_english_and_chinese() -> None:
    body = "       运行命令，并忽略挂起信号。" * 20
    sections = "".join(f"{name}\n{body}\n\n" for name in ("名称", "描述", "EXIT STATUS"))
    text = f"NOHUP(1)      用户命令      NOHUP(1)\n\n{sections}"
    assert {piece.context for piece in chunk(text)} >= {
        "NOHUP(1) > 名称",
        "NOHUP(1) > 描述",
        "NOHUP(1) > EXIT STATUS",
    }


def test_capitals_within_a_paragraph_are_no_heading() -> None:
    assert chunk("NOTE\nthis goes on at the margin\n")[0].context == ""


def test_a_code_block_stays_whole_although_it_is_long() -> None:
    code = "```python\n" + "x = 1  # a line of code\n" * 50 + "```"
    text = f"# Code\n\nBefore.\n\n{code}\n\nAfter.\n"
    assert any(code in piece.text for piece in chunk(text))


def test_a_huge_code_block_is_cut_between_lines() -> None:
    line = "x = 1  # a line of code"
    code = "```\n" + f"{line}\n" * 400 + "```"
    pieces = chunk(code)
    assert len(pieces) > 5
    assert all(set(piece.text.splitlines()) <= {line, "```"} for piece in pieces)


def test_a_fence_that_is_never_closed_is_text() -> None:
    [piece] = chunk("```\nnot code\n")
    assert piece.text == "```\nnot code"


def test_a_fence_is_closed_by_its_own_mark_at_least_as_long() -> None:
    long = "\n".join(["````", *["```", "~~~~~"] * 150, "`````"])
    whole, after = chunk(f"{long}\n\n{'after. ' * 100}")
    assert whole.text == long
    assert after.text.startswith("after.")


@pytest.mark.parametrize(
    "text",
    [
        "```a\n" * 50_000,
        "`````a\n```\n" * 25_000,
        f"# a{' ' * 500_000}b",
        f"#{' ' * 500_000}",
        "汉" * 1_000_000,
        "# a\n" * 50_000,
        "words, e.g. " * 50_000,
        f"{'a-' * 200_000}(1) {'a-' * 200_000}",
    ],
    ids=["open fences", "closed fences", "heading", "spaces", "Chinese", "headings", "e.g.", "man"],
)
def test_a_large_and_odd_text_is_cut_in_time_that_grows_with_its_size(text: str) -> None:
    """Each of these took minutes when the time grew with the square of the size."""
    assert chunk(text)[-1].end == len(text.rstrip())


@pytest.mark.parametrize(
    ("line", "context"),
    [
        ("# One", "One"),
        ("## One ##  ", "One"),
        ("#\t One # two # ", "One # two"),
        ("# # ", "#"),
        ("#One", ""),
        ("####### One", ""),
    ],
)
def test_a_heading_is_read_without_its_marks(line: str, context: str) -> None:
    assert chunk(f"{line}\n\ntext")[0].context == context


def test_chinese_is_cut_at_its_own_full_stops_into_smaller_chunks() -> None:
    text = "这是一个关于软件包管理的句子，它说明了怎样安装。" * 100
    pieces = chunk(text)
    assert all(piece.text.endswith("。") for piece in pieces)
    assert all(200 <= len(piece.text) <= 520 for piece in pieces[:-1])


def test_prose_gives_chunks_of_the_intended_size() -> None:
    paragraph = "A sentence of a quite ordinary length stands here. " * 6
    pieces = chunk("\n\n".join([paragraph] * 20))
    assert all(WEIGHT_FULL <= weight(piece.text) <= WEIGHT_MAX for piece in pieces[:-1])


@given(TEXTS)
def test_windows_are_neighbouring_sentences_that_lose_nothing(text: str) -> None:
    for window in windows(text):
        assert window in text
    assert "".join("".join(windows(text)).split()) == "".join(text.split())


def test_windows_are_small() -> None:
    found = windows("A sentence of a quite ordinary length stands here. " * 18)
    assert all(200 <= len(window) <= 300 for window in found[:-1])
    assert len(found) == 4


def test_a_text_of_too_many_chunks_is_refused_and_one_of_as_many_as_allowed_is_not() -> None:
    assert len(chunk("a\f" * CHUNKS_MAX)) == CHUNKS_MAX
    with pytest.raises(DocumentUnreadableError, match=f"a.txt: .* {CHUNKS_MAX} passages"):
        chunk("a\f" * (CHUNKS_MAX + 1), "a.txt")


def test_a_page_ends_a_chunk_and_is_known_to_it() -> None:
    text = "One sentence.\nTwo.\fThree.\f\fFive"
    pieces = chunk(text)
    assert [(piece.page, piece.text) for piece in pieces] == [
        (1, "One sentence.\nTwo."),
        (2, "Three."),
        (4, "Five"),
    ]
    assert all(text[piece.start : piece.end] == piece.text for piece in pieces)
    assert chunk("no pages")[0].page is None


def test_code_is_cut_at_its_definitions_below_their_signatures() -> None:
    body = "    value = compute(argument)\n" * 8
    imports = "import module_of_mine\n" * 8
    code = f"# not a heading\n{imports}\n\n\ndef first(a):\n{body}\n\n"
    code += f"class A:\n    def b(self):\n{body}"
    pieces = chunk(code, "module.py")
    assert [piece.context for piece in pieces] == ["", "def first(a)", "class A"]
    assert pieces[0].text == f"# not a heading\n{imports}".strip()
    assert [piece.context for piece in chunk(code, "module.txt")] != ["", "def first(a)", "class A"]


def test_a_long_function_is_cut_between_lines() -> None:
    code = "def long():\n" + "".join(f"    line_{n} = {n}\n" for n in range(400))
    pieces = chunk(code, "a.py")
    assert len(pieces) > 3
    assert {piece.context for piece in pieces} == {"def long()"}
    assert all(weight(piece.text) <= FENCE_WEIGHT_MAX for piece in pieces)
    assert all(code[piece.end : piece.end + 1] in {"\n", ""} for piece in pieces)


@pytest.mark.parametrize("unit", ["A paragraph about {}. ", "这一段说的是第{}件事情。"])
@pytest.mark.parametrize("between", ["\n\n", " ", "\n"])
def test_what_is_inserted_at_the_top_changes_few_chunks(unit: str, between: str) -> None:
    paragraphs = [unit.format(n) * 3 for n in range(1000)]
    before = {piece.text for piece in chunk(between.join(paragraphs))}
    after = {piece.text for piece in chunk(between.join(["Quite new here. " * 5, *paragraphs]))}
    assert len(after - before) <= len(before) / 4


def test_code_without_definitions_is_cut_between_lines() -> None:
    text = '{"key": [1, 2, 3]},\n' * 300
    pieces = chunk(text, "a.json")
    assert len(pieces) > 3
    assert all(piece.text.endswith("},") for piece in pieces)


@pytest.mark.parametrize(
    "unit", ["x\n", "# h\n", "a", "\f", "word ", "Some words. " * 10 + "\n\n", "def f(): 0\n"]
)
@pytest.mark.parametrize("path", ["a.md", "a.py"])
def test_a_huge_text_falls_into_chunks_of_the_usual_size(unit: str, path: str) -> None:
    text = unit * ((PART_CHARS_MAX + 20_000) // len(unit))
    pieces = chunk(text, path)
    assert all(weight(piece.text) <= FENCE_WEIGHT_MAX for piece in pieces)
    assert "".join("".join(piece.text for piece in pieces).split()) == "".join(text.split())
    for piece in pieces[:: max(len(pieces) // 20, 1)]:
        assert text[piece.start : piece.end] == piece.text
        assert text.count("\n", 0, piece.start) + 1 == piece.line_first
        assert text.count("\n", 0, piece.end) + 1 == piece.line_last
