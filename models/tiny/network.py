"""The network: a decoder of Qwen3's shape, so that llama.cpp runs it as it is."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


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

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        def heads(projected: Tensor) -> Tensor:
            return projected.unflatten(-1, (-1, self.shape.head_width)).transpose(1, 2)

        q = rotate(self.q_norm(heads(self.q(x)).float()), turn)
        k = rotate(self.k_norm(heads(self.k(x)).float()), turn)
        v = heads(self.v(x))
        q, k = q.to(v.dtype), k.to(v.dtype)
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.out(seen.transpose(1, 2).flatten(2))


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

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.attention(_narrow(self.attention_norm(x)), turn)
        inner = _narrow(self.inner_norm(x))
        return x + self.down(functional.silu(self.gate(inner)) * self.up(inner))


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

    def forward(self, tokens: Tensor) -> Tensor:
        half = self.shape.head_width // 2
        speed = self.shape.rope_base ** -(torch.arange(half) / half)
        angle = torch.arange(tokens.shape[1])[:, None] * speed
        turn = (angle.cos(), angle.sin())
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x, turn)
        return self.norm(x)

    def logits(self, vectors: Tensor) -> Tensor:
        """Score every token; the embedding serves both ends."""
        return functional.linear(vectors, self.embedding.weight)
