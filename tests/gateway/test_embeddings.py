"""Texts in, vectors out, in OpenAI's form."""

import base64
import json
import struct

import pytest

from murmurate.core.errors import BadRequestError
from murmurate.gateway.embeddings import EmbeddingsBody, encode, texts_of

VECTORS = [(1.0, 0.0), (0.5, -0.25)]


def test_one_text_and_a_list_are_both_lists() -> None:
    assert texts_of(EmbeddingsBody("minilm", "a")) == ["a"]
    assert texts_of(EmbeddingsBody("minilm", ["a", "b"])) == ["a", "b"]


@pytest.mark.parametrize("texts", ["", ["a", ""]])
def test_an_empty_text_is_refused(texts: str | list[str]) -> None:
    with pytest.raises(BadRequestError) as raised:
        texts_of(EmbeddingsBody("minilm", texts))
    assert raised.value.param == "input"


def test_vectors_come_as_numbers_with_index_and_usage() -> None:
    body = EmbeddingsBody("minilm", ["a", "b"], dimensions=2)
    assert json.loads(encode(body, VECTORS, 7)) == {
        "object": "list",
        "model": "minilm",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [1.0, 0.0]},
            {"object": "embedding", "index": 1, "embedding": [0.5, -0.25]},
        ],
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }


def test_base64_is_little_endian_single_precision() -> None:
    body = EmbeddingsBody("minilm", ["a", "b"], encoding_format="base64")
    data = json.loads(encode(body, VECTORS, 7))["data"]
    assert struct.unpack("<2f", base64.b64decode(data[1]["embedding"])) == (0.5, -0.25)


def test_other_dimensions_than_the_models_are_refused() -> None:
    with pytest.raises(BadRequestError, match="minilm has 2") as raised:
        encode(EmbeddingsBody("minilm", "a", dimensions=256), VECTORS, 7)
    assert raised.value.param == "dimensions"
