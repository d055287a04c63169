"""Frames: a template keeps its slots, a fact and a question their words."""

import random

import pytest
from frames import framed_fact, framed_question, odd_fact, odd_question

DRAWN = 100


@pytest.mark.parametrize("chinese", [False, True])
def test_an_odd_wording_has_each_slot_once(*, chinese: bool) -> None:
    r = random.Random(1)
    for _ in range(DRAWN):
        told, asked = odd_fact(r, chinese=chinese), odd_question(r, chinese=chinese)
        assert [told.count(slot) for slot in ("{a}", "{t}", "{v}")] == [1, 1, 1]
        assert [asked.count(slot) for slot in ("{a}", "{t}", "{v}")] == [1, 1, 0]


@pytest.mark.parametrize("chinese", [False, True])
def test_a_framed_fact_keeps_its_words_and_stays_one_sentence(*, chinese: bool) -> None:
    r, stop = random.Random(2), "。" if chinese else "."
    for _ in range(DRAWN):
        framed = framed_fact(r, f"Ann has 5{stop}", "Bo", chinese=chinese)
        assert "Ann has 5" in framed
        assert framed.endswith(stop)
        assert framed.count(stop) == 1


@pytest.mark.parametrize("chinese", [False, True])
def test_a_framed_question_keeps_its_words(*, chinese: bool) -> None:
    r = random.Random(3)
    for _ in range(DRAWN):
        assert "what has Ann" in framed_question(r, "what has Ann", chinese=chinese)
