"""OpenAI's embeddings: texts in, vectors out. Pure."""

import base64
import struct
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from murmurate.core.errors import BadRequestError

TEXTS_MAX = 2048


class EmbeddingsBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /v1/embeddings`."""

    model: str
    input: str | Annotated[list[str], Meta(min_length=1, max_length=TEXTS_MAX)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    user: str | None = None


def texts_of(body: EmbeddingsBody) -> list[str]:
    """Return the texts to embed."""
    texts = [body.input] if isinstance(body.input, str) else body.input
    if not all(texts):
        raise BadRequestError("input: a text is empty", param="input")
    return texts


def encode(body: EmbeddingsBody, vectors: Sequence[Sequence[float]], tokens: int) -> bytes:
    """Return the response; `dimensions` other than the model's own are refused."""
    if body.dimensions is not None and body.dimensions != len(vectors[0]):
        raise BadRequestError(
            f"dimensions = {body.dimensions}: {body.model} has {len(vectors[0])}",
            param="dimensions",
        )
    data = [
        {"object": "embedding", "index": index, "embedding": _vector(body, vector)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return msgspec.json.encode(
        {"object": "list", "data": data, "model": body.model, "usage": usage}
    )


def _vector(body: EmbeddingsBody, vector: Sequence[float]) -> Any:  # noqa: ANN401 - list or text
    if body.encoding_format == "base64":
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    return list(vector)
