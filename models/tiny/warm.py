"""Begins from a file that `export.py` wrote: the same weights and vocabulary, and more layers."""

from dataclasses import replace
from pathlib import Path
from typing import Final

import gguf
import torch
from gguf.quants import dequantize
from gguf_names import gguf_name
from network import Layer, Network, Shape
from tokenizer import restored
from tokenizers import Tokenizer

NEW_LAYERS: Final = (2,)
"""Where new layers go: behind those that copy. They begin by adding nothing."""


def from_file(path: Path, *, layers: int) -> tuple[Network, Tokenizer]:
    """Return the network of the file and its tokenizer; fewer layers are filled up."""
    reader = gguf.GGUFReader(path)
    kept = {t.name: dequantize(t.data, t.tensor_type) for t in reader.tensors}
    tokens = reader.get_field("tokenizer.ggml.tokens").contents()
    merges = reader.get_field("tokenizer.ggml.merges").contents()
    network = Network(_shape(reader))
    weights = {name: torch.tensor(kept[gguf_name(name)]) for name in network.state_dict()}
    network.load_state_dict(weights)
    for place in NEW_LAYERS[: layers - network.shape.layers]:
        _insert(network, place)
    return network, restored(tokens, merges)


def _shape(reader: gguf.GGUFReader) -> Shape:
    def number(key: str) -> float:
        return reader.get_field(f"qwen3.{key}").contents()

    return Shape(
        vocabulary=len(reader.get_field("tokenizer.ggml.tokens").contents()),
        width=int(number("embedding_length")),
        layers=int(number("block_count")),
        heads=int(number("attention.head_count")),
        key_heads=int(number("attention.head_count_kv")),
        head_width=int(number("attention.key_length")),
        inner_width=int(number("feed_forward_length")),
        positions_max=int(number("context_length")),
        rope_base=float(number("rope.freq_base")),
        epsilon=float(f"{number('attention.layer_norm_rms_epsilon'):.6g}"),
    )


@torch.no_grad()
def _insert(network: Network, place: int) -> None:
    """Add a layer that changes nothing yet."""
    network.shape = replace(network.shape, layers=network.shape.layers + 1)
    layer = Layer(network.shape)
    for parameter in layer.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    layer.attention.out.weight.zero_()
    layer.down.weight.zero_()
    network.layers.insert(place, layer)
