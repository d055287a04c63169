"""Builds copying into the first weights: look back for the same token, and say what followed it.

Training finds this circuit by itself, but only after hours on a small machine, as its two halves
are useless alone. Layer 0 tells each position its two previous tokens; layer 1 looks for a position
whose previous token is the present one, and copies what stands there. Training then bends all of it
to its needs.
"""

from typing import Final

import torch
from network import Network
from torch import Tensor, nn

CONSTANT: Final = 0
"""The channel that is alike in all tokens: what depends on the place alone is made from it."""
TOKEN: Final = slice(1, 176)
PREVIOUS: Final = (slice(176, 216), slice(216, 256))
"""The channels for the token, for the one before, and for the one before that."""

_PLACE_TURNS: Final = 5
"""The fastest rotary pairs tell neighbours apart; the rest turn too slowly for that."""
_MATCH_TURNS: Final = slice(12, 32)
"""Pairs that turn less than 0.006 a position hardly change what they carry over a long prompt."""
_PLACE_SHARPNESS: Final = 2.5
_MATCH_SHARPNESS: Final = 2.2


@torch.no_grad()
def build_in(network: Network) -> None:
    """Overwrite the embedding and parts of layers 0 and 1."""
    shape = network.shape
    assert (shape.width, shape.heads, shape.key_heads, shape.head_width) == (256, 4, 2, 64)
    weights = network.embedding.weight
    weights.zero_()
    weights[:, CONSTANT] = 0.5
    nn.init.normal_(weights[:, TOKEN], std=(TOKEN.stop - TOKEN.start) ** -0.5)
    seen = _orthonormal(40, TOKEN.stop - TOKEN.start)
    _tell_previous(network, seen)
    _find_and_copy(network, seen)


def _tell_previous(network: Network, seen: Tensor) -> None:
    """Layer 0, heads 0 and 1: write a view of the tokens one and two places before."""
    attention = network.layers[0].attention
    speed = network.shape.rope_base ** -(torch.arange(_PLACE_TURNS) / 32)
    first = slice(0, _PLACE_TURNS)
    second = slice(32, 32 + _PLACE_TURNS)
    attention.k.weight[:64] = 0
    attention.k.weight[first, CONSTANT] = 1
    attention.v.weight[:64] = 0
    attention.v.weight[:40, TOKEN] = seen
    for head, channels in enumerate(PREVIOUS):
        q = attention.q.weight[64 * head : 64 * head + 64]
        q.zero_()
        q[first, CONSTANT] = torch.cos(-speed * (head + 1))
        q[second, CONSTANT] = torch.sin(-speed * (head + 1))
        out = attention.out.weight[:, 64 * head : 64 * head + 64]
        out.zero_()
        out[channels, :40] = 0.2 * torch.eye(40)
    for norm in (attention.q_norm, attention.k_norm):
        norm.weight[first] = norm.weight[second] = _PLACE_SHARPNESS


def _find_and_copy(network: Network, seen: Tensor) -> None:
    """Layer 1, heads 0 and 2: find where the present token (the one before) stood, one place on."""
    attention = network.layers[1].attention
    carried = _orthonormal(128, TOKEN.stop - TOKEN.start)
    match = [*range(32)[_MATCH_TURNS], *range(32, 64)[_MATCH_TURNS]]
    for group in range(2):
        k = attention.k.weight[64 * group : 64 * group + 64]
        k.zero_()
        k[match, PREVIOUS[group]] = torch.eye(40)
        q = attention.q.weight[128 * group : 128 * group + 64]
        q.zero_()
        if group == 0:
            q[match, TOKEN] = seen
        else:
            q[match, PREVIOUS[0]] = torch.eye(40)
        half = carried[64 * group : 64 * group + 64]
        v = attention.v.weight[64 * group : 64 * group + 64]
        v.zero_()
        v[:, TOKEN] = half
        out = attention.out.weight[:, 128 * group : 128 * group + 64]
        out.zero_()
        out[TOKEN] = 0.5 * half.T
    for norm in (attention.q_norm, attention.k_norm):
        norm.weight[match] = _MATCH_SHARPNESS


def _orthonormal(rows: int, columns: int) -> Tensor:
    return torch.linalg.qr(torch.randn(columns, rows)).Q.T
