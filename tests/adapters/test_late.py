"""Late interaction: signs of token states, and how well a question's tokens are met by them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from murmurate.adapters.late import MARK, WORD_PLAIN, pack, similarities, weights

DIMENSIONS = 384


def states(count: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIMENSIONS)).astype(np.float32)


def test_a_token_takes_a_bit_a_dimension() -> None:
    assert len(pack(states(10))) == 10 * DIMENSIONS // 8
    assert pack(states(0)) == b""


def test_a_passage_with_the_same_tokens_is_nearer_than_one_without() -> None:
    question, even = states(5), np.full(5, 0.2, np.float32)
    same = pack(np.concatenate([states(50, seed=1), question]))
    other = pack(states(55, seed=2))
    near, far, nothing = similarities(question, even, [same, other, b""])
    assert near > 0.75  # the cosine of a normal vector and its signs is about 0.8
    assert far < 0.3
    assert nothing == 0.0


def test_signs_keep_the_cosine_of_the_whole_states() -> None:
    question, passage = states(1), states(1, seed=1) + states(1)
    whole = (question @ passage.T / np.linalg.norm(question) / np.linalg.norm(passage)).item()
    [found] = similarities(question, np.ones(1, np.float32), [pack(passage)])
    assert found == pytest.approx(whole * (2 / np.pi) ** 0.5, abs=0.08)


def test_tokens_count_as_they_weigh() -> None:
    question = states(2)
    passages = [pack(question[:1]), pack(question[1:])]
    first, second = similarities(question, np.array([0.9, 0.1], np.float32), passages)
    assert first > 2 * second


def test_without_any_tokens_all_are_alike() -> None:
    assert similarities(states(3), np.ones(3, np.float32), [b"", b""]) == [0.0, 0.0]
    assert similarities(states(3), np.ones(3, np.float32), []) == []


def test_rare_words_weigh_more_and_share_it_among_their_tokens() -> None:
    #            [CLS]   what    are    pack    ages      ?     [SEP]
    spans = [(0, 0), (0, 4), (5, 8), (9, 13), (13, 17), (17, 18), (0, 0)]
    found = weights("what are packages?", spans, {"packag": 4.0})
    whole = 2 * WORD_PLAIN + 2 * 4.0 / 2**0.5 + MARK
    expected = [0, WORD_PLAIN, WORD_PLAIN, 4 / 2**0.5, 4 / 2**0.5, MARK, 0]
    assert found.tolist() == pytest.approx([value / whole for value in expected])


@given(st.text(max_size=40))
def test_weights_are_shares(question: str) -> None:
    spans = [(at, at + 1) for at in range(len(question))]
    found = weights(question, spans, {})
    assert len(found) == len(spans)
    assert float(found.sum()) == pytest.approx(1.0 if spans else 0.0)
