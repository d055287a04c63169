"""OpenAI's embeddings protocol without the network: texts to bytes, bytes to checked vectors."""

import base64
import math
import sys
from array import array
from collections.abc import Iterator, Sequence
from enum import StrEnum

import msgspec

from murmurate.core.errors import EngineFailedError
from murmurate.core.types import Frozen

BATCH_BYTES_MAX = 256 * 1024
"""A token has a byte at least, and a request 300,000 tokens at most with OpenAI."""

UNIT_TOLERANCE = 1e-4
FLOAT_BYTES = 4


class Encoding(StrEnum):
    """How vectors travel: base64 is a third of the size; not every server knows it."""

    BASE64 = "base64"
    FLOAT = "float"


class Batch(Frozen, frozen=True):
    """The vectors of one request, of unit length and in order, and the tokens they took."""

    vectors: tuple[tuple[float, ...], ...]
    tokens: int


class _Vector(msgspec.Struct, frozen=True):
    embedding: list[float] | str
    index: int | None = None


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int = 0
    total_tokens: int = 0


class _Answer(msgspec.Struct, frozen=True):
    data: list[_Vector]
    usage: _Usage | None = None


_decode = msgspec.json.Decoder(_Answer).decode


def batches(texts: Sequence[str], *, texts_max: int) -> Iterator[Sequence[str]]:
    """Yield runs of the texts that fit into one request each; one text alone always does."""
    first, size = 0, 0
    for at, text in enumerate(texts):
        text_bytes = len(text.encode(errors="replace"))
        if at > first and (at - first == texts_max or size + text_bytes > BATCH_BYTES_MAX):
            yield texts[first:at]
            first, size = at, 0
        size += text_bytes
    if first < len(texts):
        yield texts[first:]


def encode(
    texts: Sequence[str], model: str, *, dimensions: int | None, encoding: Encoding
) -> bytes:
    """Return the body of a request."""
    body: dict[str, object] = {
        "model": model,
        # A file's name may hold bytes that are no UTF-8: JSON can't carry those.
        "input": [text.encode(errors="replace").decode() for text in texts],
        "encoding_format": encoding.value,
    }
    if dimensions is not None:
        body["dimensions"] = dimensions
    return msgspec.json.encode(body)


def decode(answer: bytes, count: int, *, name: str, dimensions: int | None) -> Batch:
    """Return the vectors in the order of the texts.

    `EngineFailedError` for anything that is not `count` vectors of the same, expected size:
    vectors in the wrong place would make wrong answers, quietly.
    """
    try:
        found = _decode(answer)
    except msgspec.DecodeError as cause:
        raise EngineFailedError(f"{name} sent garbage: {cause}") from cause
    if len(found.data) != count:
        raise EngineFailedError(f"{name} sent {len(found.data)} vectors for {count} texts")
    placed: list[tuple[float, ...] | None] = [None] * count
    for at, item in enumerate(found.data):
        index = at if item.index is None else item.index
        if not 0 <= index < count or placed[index] is not None:
            raise EngineFailedError(f"{name} sent vectors with wrong numbers: {index}")
        placed[index] = _unit(_numbers(item.embedding, name), name)
    vectors = tuple(vector for vector in placed if vector is not None)
    expected = dimensions or (len(vectors[0]) if vectors else 0)
    for vector in vectors:
        if len(vector) != expected:
            raise EngineFailedError(
                f"{name} sent a vector of {len(vector)} numbers, expected {expected}: "
                "check embeddings.dimensions"
            )
    usage = found.usage or _Usage()
    return Batch(vectors, usage.prompt_tokens or usage.total_tokens)


def _numbers(embedding: list[float] | str, name: str) -> Sequence[float]:
    if not isinstance(embedding, str):
        return embedding
    try:
        packed = base64.b64decode(embedding, validate=True)
    except ValueError as cause:  # binascii.Error among them
        raise EngineFailedError(f"{name} sent a vector that is no base64") from cause
    if len(packed) % FLOAT_BYTES:
        raise EngineFailedError(f"{name} sent a vector of {len(packed)} bytes")
    numbers = array("f")
    numbers.frombytes(packed)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _unit(numbers: Sequence[float], name: str) -> tuple[float, ...]:
    """Return the vector with length 1. Not every server sends them so, least of all cut ones."""
    length = math.sqrt(math.fsum(number * number for number in numbers))
    if not math.isfinite(length) or length == 0:
        raise EngineFailedError(f"{name} sent a vector without a direction")
    if abs(length - 1) <= UNIT_TOLERANCE:
        return tuple(numbers)
    return tuple(number / length for number in numbers)
