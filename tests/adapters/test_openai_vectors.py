"""Vectors are put in the place of their texts, or refused: never quietly in a wrong one."""

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from murmurate.adapters.openai_vectors import (
    BATCH_BYTES_MAX,
    Encoding,
    batches,
    decode,
    encode,
)
from murmurate.core.errors import EngineFailedError
from tests.adapters.remote_server import answer, packed


def decoded(body: Any, count: int, dimensions: int | None = None) -> Any:
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return decode(raw, count, name="e", dimensions=dimensions)


@given(st.lists(st.text(max_size=20), max_size=30), st.integers(1, 5))
def test_batches_hold_every_text_once_and_in_order(texts: list[str], texts_max: int) -> None:
    found = list(batches(texts, texts_max=texts_max))
    assert [text for batch in found for text in batch] == texts
    assert all(0 < len(batch) <= texts_max for batch in found)


def test_a_batch_is_bounded_in_bytes_but_one_text_alone_is_sent_whatever_its_size() -> None:
    half, big = "x" * (BATCH_BYTES_MAX // 2), "y" * (BATCH_BYTES_MAX + 1)
    sizes = [len(batch) for batch in batches([half, half, half, big, "z"], texts_max=64)]
    assert sizes == [2, 1, 1, 1]


def test_a_request_names_dimensions_only_where_they_are_configured() -> None:
    plain = msgspec.json.decode(encode(["a"], "m", dimensions=None, encoding=Encoding.BASE64))
    assert plain == {"model": "m", "input": ["a"], "encoding_format": "base64"}
    cut = msgspec.json.decode(encode(["a\udcff"], "m", dimensions=5, encoding=Encoding.FLOAT))
    assert (cut["dimensions"], cut["encoding_format"], cut["input"]) == (5, "float", ["a?"])


def test_floats_and_base64_give_the_same_vectors_in_the_order_of_the_texts() -> None:
    vectors = [[3.0, 4.0], [0.0, -2.0]]
    for body in (answer(vectors), answer([packed(vector) for vector in vectors])):
        batch = decoded(body, 2)
        assert batch.vectors == ((0.6, 0.8), (0.0, -1.0))
        assert batch.tokens == 1


def test_a_vector_of_unit_length_stays_as_it_is() -> None:
    assert decoded(answer([[0.6, 0.8]]), 1).vectors == ((0.6, 0.8),)


def test_without_numbers_or_usage_the_order_is_that_of_the_answer() -> None:
    batch = decoded({"data": [{"embedding": [1, 0]}, {"embedding": [0, 1]}]}, 2)
    assert batch.vectors == ((1, 0), (0, 1))
    assert batch.tokens == 0


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<html>", "e sent garbage"),
        (b'{"error": {"message": "no"}}', "e sent garbage"),
        (b'{"data": [{"embedding": {"a": 1}}]}', "e sent garbage"),
        ({"data": []}, "e sent 0 vectors for 1 texts"),
        (answer([[1.0], [1.0]]), "e sent 2 vectors for 1 texts"),
        ({"data": [{"index": 1, "embedding": [1.0]}]}, "wrong numbers: 1"),
        ({"data": [{"index": -1, "embedding": [1.0]}]}, "wrong numbers: -1"),
        (answer([[0.0, 0.0]]), "without a direction"),
        (answer([[]]), "without a direction"),
        (answer([packed([math.nan, 1.0])]), "without a direction"),
        (answer([packed([math.inf, 1.0])]), "without a direction"),
        (answer(["n°t base64"]), "no base64"),
        (answer(["AAAA"]), "a vector of 3 bytes"),
        (answer([[1.0, 0.0, 0.0]]), "a vector of 3 numbers, expected 2: check embeddings.dimens"),
    ],
)
def test_anything_but_the_vectors_that_were_asked_for_is_refused(body: Any, words: str) -> None:
    with pytest.raises(EngineFailedError) as raised:
        decoded(body, 1, dimensions=2)
    assert words in raised.value.detail


def test_two_vectors_for_one_text_or_of_two_sizes_are_refused() -> None:
    twice = {"data": [{"index": 0, "embedding": [1.0]}, {"index": 0, "embedding": [1.0]}]}
    with pytest.raises(EngineFailedError, match="wrong numbers: 0"):
        decoded(twice, 2)
    with pytest.raises(EngineFailedError, match="expected 1"):
        decoded(answer([[1.0], [1.0, 0.0]]), 2)
