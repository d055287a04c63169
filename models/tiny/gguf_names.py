"""What the tensors of the network are called in a GGUF file."""

from typing import Final

_LAYER: Final = {
    "attention_norm": "attn_norm",
    "attention.q": "attn_q",
    "attention.k": "attn_k",
    "attention.v": "attn_v",
    "attention.out": "attn_output",
    "attention.q_norm": "attn_q_norm",
    "attention.k_norm": "attn_k_norm",
    "inner_norm": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}
_TOP: Final = {"embedding.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}


def gguf_name(name: str) -> str:
    """Return GGUF's name of a tensor: "layers.0.gate.weight" is "blk.0.ffn_gate.weight"."""
    if name in _TOP:
        return _TOP[name]
    _, layer, inside = name.split(".", 2)
    return f"blk.{layer}.{_LAYER[inside.removesuffix('.weight')]}.weight"
