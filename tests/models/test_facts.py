"""Contexts made of facts: what is asked is told once, or not at all."""

import random
import re

import pytest
from facts import RELATIONS, Maker
from words import is_held_out, words

CONTEXTS = 60


def plainly(wording: str) -> str:
    """Return a wording without its punctuation and capitals."""
    return " ".join(re.findall(r"[\w{}]+", wording.lower()))


def maker(seed: int, *, held_out: bool = False, chinese: bool = False) -> Maker:
    return Maker(random.Random(seed), words(held_out), held_out, chinese)


@pytest.mark.parametrize("chinese", [False, True])
@pytest.mark.parametrize("held_out", [False, True])
def test_what_an_answer_says_stands_in_the_context(*, chinese: bool, held_out: bool) -> None:
    for seed in range(CONTEXTS):
        drawn = maker(seed, held_out=held_out, chinese=chinese).context(
            questions=4, unknown_share=0.0
        )
        assert drawn.asked
        for question, answer in drawn.asked:
            assert answer is not None, question
            assert answer in drawn.text


def test_what_is_asked_in_vain_is_told_of_nothing() -> None:
    for seed in range(CONTEXTS):
        drawn = maker(seed).context(questions=4, unknown_share=1.0)
        assert [answer for _, answer in drawn.asked] == [None] * len(drawn.asked)


def test_no_two_facts_answer_the_same_question() -> None:
    for seed in range(CONTEXTS):
        drawn = maker(seed).context(questions=8, unknown_share=0.0)
        questions = [question.lower() for question, _ in drawn.asked]
        assert len(set(questions)) == len(questions)


def test_the_evaluation_has_four_facts_at_least() -> None:
    for seed in range(CONTEXTS):
        drawn = maker(seed, held_out=True).context(questions=8, unknown_share=0.0)
        assert 4 <= len(drawn.asked) <= 8


def test_the_evaluation_has_wordings_and_attributes_of_its_own() -> None:
    plain, attributes = RELATIONS["plain"], RELATIONS["attributes"]
    own = [
        (plain["facts"], plain["held_out"]),
        (plain["asked"], plain["asked_held_out"]),
        (plain["chinese_facts"], plain["chinese_held_out"]),
        (plain["chinese_asked"], plain["chinese_asked_held_out"]),
    ]
    for drawn in RELATIONS["relation"]:
        own.append((drawn["facts"], drawn.get("facts_held_out", "")))
        own.append((drawn["asked"], drawn.get("asked_held_out", "")))
    trained = {plainly(line) for lines, _ in own for line in lines.splitlines()[1:]}
    for _, lines in own:
        assert not trained & {plainly(line) for line in lines.splitlines()[1:]}
    for trained, evaluated in (("english", "held_out"), ("chinese", "chinese_held_out")):
        assert not set(attributes[trained].split()) & set(attributes[evaluated].split())


def test_names_of_the_lists_are_for_training_or_for_the_evaluation() -> None:
    for held_out in (False, True):
        drawn = maker(1, held_out=held_out)
        towns = set(RELATIONS["names"]["towns"].split())
        seen = {drawn.value("place") for _ in range(200)} & towns
        assert seen
        assert {is_held_out(town) for town in seen} == {held_out}


def test_training_leaves_out_wordings_to_be_checked_by() -> None:
    told = {True: set[str](), False: set[str]()}
    for checked in (True, False):
        drawn = Maker(random.Random(3), words(False), False, False, checked=checked)
        for _ in range(200):
            relation = drawn._relation()
            told[checked] |= {*relation.told, *relation.asked}
    assert len(told[True]) > 100
    assert not told[True] & told[False]


def test_an_answer_stands_on_a_line_of_its_own_or_ends_like_a_sentence() -> None:
    for seed in range(CONTEXTS):
        drawn = maker(seed).context(questions=8, unknown_share=0.0)
        answers = [answer for _, answer in drawn.asked if answer is not None]
        lines = drawn.text.splitlines()
        assert all(a in lines or a.endswith((".", "。")) for a in answers)
