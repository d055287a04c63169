"""The choice among upstreams, with a seeded chance."""

import random
from collections import Counter

import pytest

from murmurate.router.breaker import REST_S, State
from murmurate.router.failures import Failure
from murmurate.router.pool import Pool, Turn


def pool(*weights: float) -> Pool:
    members = [(f"up{index}", weight) for index, weight in enumerate(weights)]
    return Pool(members, chance=random.Random(7))


def taken(it: Pool, now_s: float = 0.0, tried: tuple[int, ...] = ()) -> Turn:
    turn = it.take(now_s, tried=tried)
    assert turn is not None
    return turn


def fail(it: Pool, index: int, *, times: int, now_s: float = 0.0) -> None:
    others = tuple(n for n in range(len(it.standings(now_s))) if n != index)
    for _ in range(times):
        turn = taken(it, now_s, tried=others)
        assert turn.index == index
        it.failed(turn, Failure.FAILED, now_s)


def test_an_idle_pool_is_used_in_proportion_to_its_weights() -> None:
    it, seen = pool(3, 1), Counter[int]()
    for _ in range(4000):
        turn = taken(it)
        seen[turn.index] += 1
        it.answered(turn, 0)
        it.over(turn)
    assert seen[0] / 4000 == pytest.approx(0.75, abs=0.03)


def test_a_busy_pool_is_filled_in_proportion_to_its_weights() -> None:
    it = pool(3, 1)
    for _ in range(80):
        taken(it)
    full, half = it.standings(0)
    assert full.outstanding == pytest.approx(60, abs=2)
    assert full.outstanding + half.outstanding == 80


def test_the_less_loaded_of_two_is_taken() -> None:
    it = pool(1, 1)
    first = taken(it)
    assert all(taken(it, tried=()).index != first.index for _ in range(1))
    assert [standing.outstanding for standing in it.standings(0)] == [1, 1]


def test_what_was_tried_is_asked_again_only_when_nothing_else_is_left() -> None:
    it = pool(1, 1)
    assert taken(it, tried=(0,)).index == 1
    assert taken(it, tried=(0, 1)).index in (0, 1)
    assert it.has_other(0, (0,))
    assert not it.has_other(0, (0, 1))


def test_one_that_asked_to_be_left_alone_is_left_alone_while_there_are_others() -> None:
    it = pool(1, 1)
    turn = taken(it, tried=(1,))
    it.failed(turn, Failure.OVERLOADED, 0, retry_s=4)
    assert {taken(it, 3.9).index for _ in range(9)} == {1}
    assert taken(it, 3.9, tried=(1,)).index == 0, "better than nothing"
    assert not it.has_other(3.9, (1,))
    assert it.has_other(4, (1,))


def test_one_that_failed_too_often_is_not_asked_until_it_has_rested() -> None:
    it = pool(1, 1)
    fail(it, 0, times=5)
    assert [standing.state for standing in it.standings(0)] == [State.OPEN, State.CLOSED]
    assert {taken(it).index for _ in range(9)} == {1}
    assert taken(it, tried=(1,)).index == 1, "better the one that was tried"
    probe = taken(it, REST_S, tried=(1,))
    assert probe.index == 0
    it.answered(probe, REST_S)
    assert it.standings(REST_S)[0].state is State.CLOSED


def test_when_all_are_at_rest_there_is_none_and_it_says_until_when() -> None:
    it = pool(1, 1)
    fail(it, 0, times=5)
    fail(it, 1, times=5, now_s=1)
    assert it.take(2) is None
    assert it.waits_s(2) == REST_S - 2


def test_a_lone_one_is_refused_at_rest_and_probed_by_one_request_at_a_time() -> None:
    it = pool(1)
    fail(it, 0, times=5)
    assert it.take(1) is None
    probe = taken(it, REST_S)
    assert it.take(REST_S) is None
    it.over(probe)
    assert taken(it, REST_S).probe, "the first one left without an outcome"


def test_an_answer_that_breaks_off_counts_as_a_failure_behind_its_success() -> None:
    it = pool(1)
    for _ in range(3):
        turn = taken(it)
        it.answered(turn, 0)
        it.failed(turn, Failure.FAILED, 0)
    assert it.standings(0)[0].state is State.OPEN


def test_a_refused_request_says_nothing_against_its_upstream() -> None:
    it = pool(1)
    for _ in range(9):
        it.failed(taken(it), Failure.REFUSED, 0)
    (standing,) = it.standings(0)
    assert (standing.state, standing.outstanding) == (State.CLOSED, 0)
    assert (standing.asked, standing.failed) == (9, 0)


def test_a_turn_is_given_back_once_however_often_it_is_over() -> None:
    it = pool(1)
    turn = taken(it)
    it.over(turn)
    it.over(turn)
    assert it.standings(0)[0].outstanding == 0
