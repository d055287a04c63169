"""Several rankings become one."""

from hypothesis import given
from hypothesis import strategies as st

from murmurate.knowledge.fuse import RANK_OFFSET, fuse

RANKINGS = st.lists(st.tuples(st.just(1.0), st.lists(st.integers(0, 9), unique=True)))


def test_what_both_rankings_have_leads() -> None:
    fused = fuse([(1.0, ["a", "b", "c"]), (1.0, ["c", "b"])])
    assert list(fused) == ["b", "c", "a"] or list(fused) == ["c", "b", "a"]
    assert fused["a"] == 1 / (RANK_OFFSET + 1)


def test_a_heavier_ranking_decides() -> None:
    assert next(iter(fuse([(1.0, ["a", "b"]), (2.0, ["b", "a"])]))) == "b"


def test_equal_scores_keep_the_order_of_meeting() -> None:
    assert list(fuse([(1.0, ["a", "b"]), (1.0, ["b", "a"])])) == ["a", "b"]


def test_nothing_fuses_to_nothing() -> None:
    assert fuse([]) == {}
    assert fuse([(1.0, [])]) == {}


@given(RANKINGS)
def test_every_thing_appears_once_and_best_first(rankings: list[tuple[float, list[int]]]) -> None:
    fused = fuse(rankings)
    assert set(fused) == {thing for _, ranking in rankings for thing in ranking}
    assert list(fused.values()) == sorted(fused.values(), reverse=True)


@given(RANKINGS, st.randoms())
def test_the_order_of_the_rankings_does_not_change_a_score(
    rankings: list[tuple[float, list[int]]], chance: object
) -> None:
    shuffled = list(rankings)
    chance.shuffle(shuffled)  # pyright: ignore[reportAttributeAccessIssue]
    there, back = fuse(rankings), fuse(shuffled)
    assert {k: round(v, 12) for k, v in there.items()} == {k: round(v, 12) for k, v in back.items()}
