"""A quotation is the document's own words, or nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from murmurate.core.types import Passage
from murmurate.knowledge.ports import Hit, Term
from murmurate.knowledge.quote import (
    CONFIDENCE_MIN,
    QUOTE_CHARS_MAX,
    Features,
    best_span,
    confidence,
    coverage,
    features_of,
    quote,
)

FAR = "It is a long story, " + "x" * 700 + "。"
DOCUMENT = (
    "# Names\n\nNames are short. They must be at least two characters long.\nThey start low.\n"
)


def passage(text: str, *, chance: float = 0.9, start: int = 0, line: int = 1) -> Passage:
    last = line + text.count("\n")
    return Passage("d", "docs", "a.md", text, start, start + len(text), line, last, 1.0, chance)


def test_the_answering_sentence_is_quoted_with_its_place() -> None:
    found = quote("How many characters must a name have?", [passage(DOCUMENT, start=100, line=5)])
    assert found is not None
    citation = found.citation
    assert "at least two characters" in found.text
    assert found.text == citation.quote
    assert DOCUMENT[citation.start - 100 : citation.end - 100] == citation.quote
    assert (citation.line_first, citation.line_last) == (7, 8)
    assert (citation.document, citation.path, citation.score) == ("d", "a.md", 0.9)


def test_below_the_threshold_nothing_is_quoted() -> None:
    assert quote("names?", [passage(DOCUMENT, chance=CONFIDENCE_MIN - 0.01)]) is None
    assert quote("names?", [passage(DOCUMENT, chance=CONFIDENCE_MIN)]) is not None
    assert quote("names?", [passage(DOCUMENT)], confidence_min=0.95) is None
    assert quote("names?", []) is None


def test_the_surest_passage_is_quoted_wherever_it_ranks() -> None:
    found = quote("cats", [passage("Cats purr.", chance=0.5), passage("Cats eat.", chance=0.8)])
    assert found is not None
    assert found.text == "Cats eat."


@pytest.mark.parametrize(
    ("question", "text", "expected"),
    [
        ("What do dogs do?", f"{FAR} Dogs bark. {FAR}", "Dogs bark."),
        ("狗会做什么", f"{FAR}狗会看门。{FAR}", "狗会看门。"),
        ("cats", "Cats purr. Dogs bark. Birds sing.", "Cats purr. Dogs bark. Birds sing."),
        ("fish", "Cats purr. Dogs bark.", "Cats purr. Dogs bark."),
        ("dogs", "Dogs\n----\n\nDogs bark at night.", "Dogs bark at night."),
        (
            "dogs",
            "# Dogs\n\nThey bark. Some do not.\n\n# Dogs",
            "# Dogs\n\nThey bark. Some do not.\n\n# Dogs",
        ),
        ("", "Cats purr.", "Cats purr."),
    ],
)
def test_the_best_sentences_are_quoted_with_what_is_around_them(
    question: str, text: str, expected: str
) -> None:
    start, end = best_span(question, text)
    assert text[start:end] == expected


def test_a_quotation_of_several_sentences_stays_short() -> None:
    text = "".join(f"Cats {'x' * 280} w{n}. " for n in range(6))
    start, end = best_span("cats w3", text)
    assert "w3" in text[start:end]
    assert 300 < end - start <= QUOTE_CHARS_MAX
    assert text[start:].startswith("Cats")


@given(st.text(), st.text(min_size=1))
def test_a_span_lies_within_the_text(question: str, text: str) -> None:
    start, end = best_span(question, text)
    assert 0 <= start <= end <= len(text)


def test_coverage_counts_rare_words_more_and_knows_both_languages() -> None:
    terms = (Term("cat", 3.0), Term("pur", 1.0))
    assert coverage(terms, "A cat.") == 0.75
    assert coverage(terms, "purring") == 0.25
    assert coverage((Term("软件包", 1.0),), "安装软件包") == 1.0
    assert coverage((), "text") == 0.0


CHANCES = st.floats(0, 1)


@given(st.one_of(st.none(), CHANCES), CHANCES, CHANCES, st.integers(2, 6))
def test_a_better_fit_never_lowers_the_confidence(
    cosine: float | None, late: float, together: float, words: int
) -> None:
    poorer = Features(cosine and cosine / 2, late / 2, together / 2, words)
    better = Features(cosine, late, together, words)
    assert 0 <= confidence(poorer) <= confidence(better) <= 1


def test_without_vectors_the_words_decide() -> None:
    weak, strong = Features(None, None, 0.4, 6), Features(None, None, 1.0, 2)
    assert confidence(weak) < CONFIDENCE_MIN < confidence(strong)
    assert confidence(Features(0.1, None, 1.0, 2)) == confidence(strong)


def test_words_that_stand_together_are_seen() -> None:
    text = "Cats purr. Dogs bark. Birds sing."
    hit = Hit("d", "docs", "a.md", "Zoo", "", text, 0, len(text), 1, 1, None, None)
    terms = (Term("cat", 1.0), Term("bird", 1.0), Term("zoo", 1.0))
    features = features_of(hit, terms)
    assert features.together == pytest.approx(2 / 3)
    assert features.words == 3
    assert features_of(hit, terms[:1]).words == 2
    assert features_of(hit, ()).together == 0.0
