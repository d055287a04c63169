"""The order of the hits: by what was measured where there is enough, else by fused ranks."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from murmurate.knowledge.ports import Found, Hit, Term
from murmurate.knowledge.rank import bm25_share, ranked, relevance

TERMS = (Term("cat", 2.0), Term("purr", 3.0))


def hit(
    document: str,
    *,
    cosine: float | None = None,
    bm25: float | None = None,
    late: float | None = None,
) -> Hit:
    text = f"a cat called {document} purrs"
    return Hit(
        document, "docs", f"{document}.md", "Cats", "", text, 0, len(text), 1, 1, cosine, bm25, late
    )


def order(*hits: Hit, limit: int = 9) -> list[str]:
    return [passage.document for passage in ranked(Found(hits, TERMS), limit=limit)]


def test_what_both_searches_find_comes_first() -> None:
    both = hit("both", cosine=0.6, bm25=3.0)
    assert order(hit("words", bm25=4.0), hit("meaning", cosine=0.7), both)[0] == "both"


def test_single_words_that_are_met_count_more_than_the_whole_that_is_near() -> None:
    near, met = hit("near", cosine=0.6, late=0.2), hit("met", cosine=0.5, late=0.3)
    assert order(near, met) == ["met", "near"]
    assert order(*(msgspec.structs.replace(one, late=None) for one in (near, met)))[0] == "near"


def test_what_was_looked_at_closely_comes_before_what_was_not() -> None:
    plain = [hit(str(number), cosine=0.9 - number / 100, bm25=9.0) for number in range(3)]
    assert order(*plain, hit("closer", cosine=0.3, late=0.1)) == ["closer", "0", "1", "2"]


def test_what_has_no_vectors_takes_its_place_by_its_words() -> None:
    far = [hit(str(number), cosine=0.05, late=0.05 - number / 1000) for number in range(25)]
    assert order(*far, hit("new", bm25=9.0), limit=5)[0] == "new"
    near = hit("near", cosine=0.8, late=0.6, bm25=9.0)
    assert order(near, *far, hit("new", bm25=9.0), limit=5)[:2] == ["near", "new"]


def test_no_more_than_asked_for_and_all_are_passages_with_a_chance() -> None:
    found = Found(tuple(hit(str(number), bm25=1.0 + number) for number in range(9)), TERMS)
    passages = ranked(found, limit=4)
    assert [passage.document for passage in passages] == ["8", "7", "6", "5"]
    assert all(0 <= passage.confidence <= 1 for passage in passages)
    assert [passage.score for passage in passages] == [1, 1 / 2, 1 / 3, 1 / 4]
    assert ranked(Found((), ()), limit=4) == []


def test_the_keyword_score_is_shared_among_the_words() -> None:
    assert bm25_share(hit("a", bm25=5.0), TERMS) == 1.0
    assert bm25_share(hit("a"), TERMS) == bm25_share(hit("a", bm25=5.0), ()) == 0.0


@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(0, 50), st.floats(0, 1))
def test_a_better_measurement_never_lowers_the_relevance(
    cosine: float, late: float, bm25: float, more: float
) -> None:
    base = relevance(hit("a", cosine=cosine, late=late, bm25=bm25), TERMS)
    assert base is not None
    for better in (
        hit("a", cosine=cosine + more, late=late, bm25=bm25),
        hit("a", cosine=cosine, late=late + more, bm25=bm25),
        hit("a", cosine=cosine, late=late, bm25=bm25 + more),
    ):
        value = relevance(better, TERMS)
        assert value is not None
        assert value >= base
