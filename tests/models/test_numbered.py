"""Questions with numbers: what the evaluation asks, training has not seen."""

import random
import re

import pytest
from numbered import KINDS, numbered_question, value
from words import WORDINGS, words

OPERATION = re.compile(r"\d\)? ?([+*/×÷]|plus|minus|times) ?\(?\d")


@pytest.mark.parametrize("held_out", [False, True])
def test_a_question_has_a_number_and_no_slot_left(held_out: bool) -> None:
    r = random.Random(8)
    for _ in range(300):
        text = numbered_question(r, words(held_out), held_out)
        assert re.search(r"\d", text)
        assert "{" not in text


@pytest.mark.parametrize(
    "kind", sorted(set(KINDS) - {"a", "w"})
)  # those have 10.0.0.0/8, 3/11/2024
def test_a_value_is_no_operation(kind: str) -> None:
    r = random.Random(9)
    for _ in range(300):
        assert not OPERATION.search(value(r, kind, held_out=False))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_evaluation_asks_for_values_of_its_own(kind: str) -> None:
    r = random.Random(10)
    trained, asked = ({value(r, kind, held_out) for _ in range(400)} for held_out in (False, True))
    assert not trained & asked


@pytest.mark.parametrize("language", ["english", "chinese"])
def test_the_evaluation_asks_in_templates_of_its_own(language: str) -> None:
    asked = WORDINGS["numbered"]
    trained = {line.lower().rstrip("?.？") for line in asked[language].splitlines()}
    held_out = {line.lower().rstrip("?.？") for line in asked[f"{language}_held_out"].splitlines()}
    assert not trained & held_out
