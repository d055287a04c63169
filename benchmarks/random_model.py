"""Writes a GGUF file of 88 million random weights in Qwen3's shape, with numpy and nothing else.

What a request costs an engine depends on a model's shape, not on what it knows, so the benchmarks
need no download: random weights of 768 x 12 cost what trained ones cost, and the same ones are
drawn every time. Two things make the file convenient to measure with: the end-of-text token is
never the likeliest, so an answer has exactly `max_tokens` tokens; and every token that can be
drawn is printable, so each one is a piece of text in the stream.

    python benchmarks/random_model.py FILE.gguf
"""

import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LAYERS, HIDDEN, INNER, HEADS, HEADS_KV, HEAD = 12, 768, 2048, 12, 4, 64
VOCABULARY, CONTEXT = 8192, 4096
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content"
    " + '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)

# GGUF, version 3: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
ALIGNMENT = 32
KIND_UINT32, KIND_INT32, KIND_FLOAT32, KIND_BOOL, KIND_STRING, KIND_ARRAY = 4, 5, 6, 7, 8, 9
TENSOR_F32, TENSOR_Q8_0 = 0, 8
TOKEN_NORMAL, TOKEN_CONTROL = 1, 3
FILE_MOSTLY_Q8_0 = 7
BLOCK = 32
"""Q8_0 keeps 32 weights as one half-precision scale and 32 bytes."""

Tensor = tuple[str, tuple[int, ...], int, bytes]


def write(path: Path, seed: int = 0) -> int:
    """Write the model; return the number of its parameters."""
    tensors = list(_tensors(np.random.default_rng(seed)))
    facts = _facts()
    with path.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(facts)))
        for key, value in facts.items():
            file.write(_string(key) + _typed(value))
        offset = 0
        for name, shape, kind, data in tensors:
            sizes = struct.pack(f"<{len(shape)}Q", *reversed(shape))
            file.write(_string(name) + struct.pack("<I", len(shape)) + sizes)
            file.write(struct.pack("<IQ", kind, offset))
            offset += _aligned(len(data))
        file.write(bytes(_aligned(file.tell()) - file.tell()))
        for _, _, _, data in tensors:
            file.write(data + bytes(_aligned(len(data)) - len(data)))
    return sum(int(np.prod(shape)) for _, shape, _, _ in tensors)


def _tensors(random: np.random.Generator) -> Iterator[Tensor]:
    """Yield the tensors of Qwen3, which knows no biases and normalises queries and keys."""
    yield _weights(random, "token_embd", VOCABULARY, HIDDEN)
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        yield _ones(f"{block}.attn_norm", HIDDEN)
        yield _weights(random, f"{block}.attn_q", HEADS * HEAD, HIDDEN)
        yield _weights(random, f"{block}.attn_k", HEADS_KV * HEAD, HIDDEN)
        yield _weights(random, f"{block}.attn_v", HEADS_KV * HEAD, HIDDEN)
        yield _weights(random, f"{block}.attn_output", HIDDEN, HEADS * HEAD)
        yield _ones(f"{block}.attn_q_norm", HEAD)
        yield _ones(f"{block}.attn_k_norm", HEAD)
        yield _ones(f"{block}.ffn_norm", HIDDEN)
        yield _weights(random, f"{block}.ffn_gate", INNER, HIDDEN)
        yield _weights(random, f"{block}.ffn_up", INNER, HIDDEN)
        yield _weights(random, f"{block}.ffn_down", HIDDEN, INNER)
    yield _ones("output_norm", HIDDEN)
    # A row of zeros gives a token the logit 0, which is never the greatest of thousands.
    silent = [number for number, token in enumerate(_vocabulary()) if not _is_printable(token)]
    yield _weights(random, "output", VOCABULARY, HIDDEN, silent=silent)


def _weights(
    random: np.random.Generator,
    name: str,
    rows: int,
    columns: int,
    *,
    silent: list[int] | None = None,
) -> Tensor:
    """Return random weights of deviation 0.02, drawn as Q8_0 at once."""
    blocks = np.empty((rows, columns // BLOCK), dtype=[("scale", "<f2"), ("weights", "i1", BLOCK)])
    blocks["scale"] = 0.02 / (127 / np.sqrt(3))
    blocks["weights"] = random.integers(-127, 128, blocks["weights"].shape, dtype=np.int8)
    blocks["weights"][silent or []] = 0
    return f"{name}.weight", (rows, columns), TENSOR_Q8_0, blocks.tobytes()


def _ones(name: str, size: int) -> Tensor:
    ones: NDArray[np.float32] = np.ones(size, dtype=np.float32)
    return f"{name}.weight", (size,), TENSOR_F32, ones.tobytes()


def _vocabulary() -> list[str]:
    """Return the tokens: specials, all bytes, pairs of letters, and as many quads as fit."""
    tokens = [*SPECIALS, *_byte_letters(), *_pairs()]
    return [*tokens, *(a + b for a, b in _quads(VOCABULARY - len(tokens)))]


def _merges() -> list[str]:
    """Return how letters join: into pairs first, and pairs into quads."""
    pairs = [f"{pair[0]} {pair[1]}" for pair in _pairs()]
    quads = _quads(VOCABULARY - len(SPECIALS) - 256 - len(pairs))
    return [*pairs, *(f"{a} {b}" for a, b in quads)]


def _pairs() -> list[str]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return [a + b for a in letters for b in letters]


def _quads(count: int) -> list[tuple[str, str]]:
    """Return `count` different pairs of pairs, spread over the alphabet."""
    pairs = _pairs()
    step = 61  # has no factor in common with 26 ** 4, so no pair of pairs comes twice
    numbers = (index * step % len(pairs) ** 2 for index in range(count))
    return [(pairs[number // len(pairs)], pairs[number % len(pairs)]) for number in numbers]


def _byte_letters() -> list[str]:
    """Return the letter that stands for each byte in GPT-2's vocabulary."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {byte: chr(byte) for byte in shown}
    letters |= {byte: chr(256 + index) for index, byte in enumerate(hidden)}
    return [letters[byte] for byte in range(256)]


def _is_printable(token: str) -> bool:
    return token.isascii() and token not in SPECIALS


def _facts() -> dict[str, Any]:
    tokens = _vocabulary()
    assert len(set(tokens)) == VOCABULARY
    return {
        "general.architecture": "qwen3",
        "general.name": "random-88m",
        "general.file_type": FILE_MOSTLY_Q8_0,
        "general.quantization_version": 2,
        "qwen3.block_count": LAYERS,
        "qwen3.context_length": CONTEXT,
        "qwen3.embedding_length": HIDDEN,
        "qwen3.feed_forward_length": INNER,
        "qwen3.attention.head_count": HEADS,
        "qwen3.attention.head_count_kv": HEADS_KV,
        "qwen3.attention.key_length": HEAD,
        "qwen3.attention.value_length": HEAD,
        "qwen3.attention.layer_norm_rms_epsilon": 1e-6,
        "qwen3.rope.freq_base": 1e6,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [
            TOKEN_CONTROL if token in SPECIALS else TOKEN_NORMAL for token in tokens
        ],
        "tokenizer.ggml.merges": _merges(),
        "tokenizer.ggml.bos_token_id": tokens.index("<|endoftext|>"),
        "tokenizer.ggml.eos_token_id": tokens.index("<|im_end|>"),
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": TEMPLATE,
    }


def _typed(value: Any) -> bytes:
    """Return a value behind its kind."""
    match value:
        case bool():
            return struct.pack("<I?", KIND_BOOL, value)
        case int():
            return struct.pack("<II", KIND_UINT32, value)
        case float():
            return struct.pack("<If", KIND_FLOAT32, value)
        case str():
            return struct.pack("<I", KIND_STRING) + _string(value)
        case [str(), *_]:
            head = struct.pack("<IIQ", KIND_ARRAY, KIND_STRING, len(value))
            return head + b"".join(map(_string, value))
        case _:
            head = struct.pack("<IIQ", KIND_ARRAY, KIND_INT32, len(value))
            return head + struct.pack(f"<{len(value)}i", *value)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


if __name__ == "__main__":
    target = Path(sys.argv[1])
    parameters = write(target)
    print(f"{target}: {parameters / 1e6:.1f} million parameters, {target.stat().st_size >> 20} MiB")
