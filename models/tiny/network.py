"""The network: a decoder of Qwen3's shape, so that llama.cpp runs it as it is."""

from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

PLAIN_LENGTH_MAX: Final = 640
"""Measured on one core with AVX-512 and bfloat16; beyond it, the fused attention is faster."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of the network."""

    vocabulary: int
    width: int = 256
    layers: int = 5
    heads: int = 4
    key_heads: int = 2
    head_width: int = 64
    inner_width: int = 768
    positions_max: int = 8192
    rope_base: float = 1_000_000.0
    epsilon: float = 1e-6


@dataclass(frozen=True, slots=True)
class Seen:
    """What the training wants to know of the layers."""

    after: list[Tensor] = field(default_factory=list[Tensor])
    """The vectors behind each layer."""
    looked: list[tuple[Tensor, Tensor]] = field(default_factory=list[tuple[Tensor, Tensor]])
    """The queries and the keys of each layer."""


class Attention(nn.Module):
    """Causal attention with grouped keys and normalised queries and keys."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        keys = shape.key_heads * shape.head_width
        self.q = nn.Linear(shape.width, shape.heads * shape.head_width, bias=False)
        self.k = nn.Linear(shape.width, keys, bias=False)
        self.v = nn.Linear(shape.width, keys, bias=False)
        self.out = nn.Linear(shape.heads * shape.head_width, shape.width, bias=False)
        self.q_norm = nn.RMSNorm(shape.head_width, eps=shape.epsilon)
        self.k_norm = nn.RMSNorm(shape.head_width, eps=shape.epsilon)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], seen: Seen | None = None) -> Tensor:
        def heads(projected: Tensor) -> Tensor:
            return projected.unflatten(-1, (-1, self.shape.head_width)).transpose(1, 2)

        q = rotate(self.q_norm(heads(self.q(x)).float()), turn)
        k = rotate(self.k_norm(heads(self.k(x)).float()), turn)
        v = heads(self.v(x))
        q, k = q.to(v.dtype), k.to(v.dtype)
        if seen is not None:
            seen.looked.append((q, k))
        return self.out(attend(q, k, v).transpose(1, 2).flatten(2))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return causal attention; on a short prompt plain products beat the fused ones threefold."""
    rows, heads, length, width = q.shape
    if length > PLAIN_LENGTH_MAX:
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    grouped = (rows * k.shape[1], heads // k.shape[1] * length, width)
    k, v = k.flatten(0, 1), v.flatten(0, 1)
    scores = torch.bmm(q.reshape(grouped) * width**-0.5, k.transpose(1, 2))
    later = torch.ones(length, length, dtype=torch.bool).triu(1)
    seen = scores.view(rows, heads, length, length).masked_fill(later, float("-inf")).softmax(-1)
    return torch.bmm(seen.view(*grouped[:2], length), v).view(q.shape)


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each half-pair of a head by its position (rotary embedding)."""
    cosine, sine = turn
    left, right = x.chunk(2, dim=-1)
    return torch.cat([left * cosine - right * sine, right * cosine + left * sine], dim=-1)


class Layer(nn.Module):
    """Attention, then a gated feed-forward step; both add to what came in."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(shape.width, eps=shape.epsilon)
        self.attention = Attention(shape)
        self.inner_norm = nn.RMSNorm(shape.width, eps=shape.epsilon)
        self.gate = nn.Linear(shape.width, shape.inner_width, bias=False)
        self.up = nn.Linear(shape.width, shape.inner_width, bias=False)
        self.down = nn.Linear(shape.inner_width, shape.width, bias=False)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], seen: Seen | None = None) -> Tensor:
        x = x + self.attention(_narrow(self.attention_norm(x)), turn, seen)
        inner = _narrow(self.inner_norm(x))
        x = x + self.down(functional.silu(self.gate(inner)) * self.up(inner))
        if seen is not None:
            seen.after.append(x)
        return x


def _narrow(x: Tensor) -> Tensor:
    """Convert once what several products read; autocast would convert it for each."""
    return x.bfloat16() if torch.is_autocast_enabled("cpu") else x


class Network(nn.Module):
    """Token numbers in, one vector a token out; `logits` turns vectors into scores."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width, eps=shape.epsilon)
        nn.init.normal_(self.embedding.weight, std=shape.width**-0.5)
        for name, parameter in self.layers.named_parameters():
            if parameter.ndim == 2:
                adds = name.endswith(("out.weight", "down.weight"))  # begin by adding little
                nn.init.normal_(parameter, std=(0.1 if adds else 1.0) * parameter.shape[1] ** -0.5)

    def forward(self, tokens: Tensor, seen: Seen | None = None) -> Tensor:
        half = self.shape.head_width // 2
        speed = self.shape.rope_base ** -(torch.arange(half) / half)
        angle = torch.arange(tokens.shape[1])[:, None] * speed
        turn = (angle.cos(), angle.sin())
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x, turn, seen)
        return self.norm(x)

    def logits(self, vectors: Tensor) -> Tensor:
        """Score every token; the embedding serves both ends."""
        return functional.linear(vectors, self.embedding.weight)
