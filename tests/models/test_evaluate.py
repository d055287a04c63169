"""The measurement: what counts as right, and what the figures are made of."""

import random
from collections.abc import Callable

import evaluate
import pytest
from tasks import Source
from words import words


def test_f1_weighs_what_is_missing_and_what_is_too_much() -> None:
    assert evaluate.f1("The file is open.", "the file is open") == 1
    assert evaluate.f1("open", "closed") == 0
    assert evaluate.f1("the file", "the file is open") == pytest.approx(2 / 3)


def test_every_key_is_made_of_classes_that_are_measured() -> None:
    measured = {draw.__name__.replace("_", " ") for draw in evaluate.CLASSES}
    named = {name for names in evaluate.KEYS.values() for name in names}
    assert named <= measured


def test_a_key_is_the_share_over_all_cases_of_its_classes() -> None:
    names = {name for names in evaluate.KEYS.values() for name in names}
    gathered = [evaluate.Score(name, 3, 4, {}, []) for name in names]
    assert set(evaluate.keys(gathered).values()) == {0.75}


@pytest.mark.parametrize("draw", evaluate.CLASSES, ids=lambda draw: str(draw.__name__))
def test_the_wanted_answer_is_right_and_another_is_not(
    draw: Callable[[Source], evaluate.Case],
) -> None:
    source = Source(random.Random(6), words(True), held_out=True)
    case = draw(source)
    assert not case.right(evaluate.Said("zzz nothing", tool="none"))
    assert case.talk.messages[-1]["role"] in {"user", "tool"}
