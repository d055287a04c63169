"""Writes what the package ships of a trained reader: `python export.py TRAINED.pt OUT.safetensors`.

Matrices become 8-bit integers with a scale for each row, as the graph that is run has them.
"""

import sys
from pathlib import Path

import torch
from network import FROZEN, LAYERS, NAMES
from safetensors.torch import save_file
from torch import Tensor


def main() -> None:
    trained, out = Path(sys.argv[1]), Path(sys.argv[2])
    save_file(packed(named(torch.load(trained, map_location="cpu"))), out)
    print(out, out.stat().st_size)


def named(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights that were trained, by the names that they have in BERT."""
    found: dict[str, Tensor] = {}
    for at in range(FROZEN, LAYERS):
        for own, name in NAMES.items():
            for part in ("weight", "bias"):
                value = state[f"layers.{at}.{own}.{part}"]
                found[f"encoder.layer.{at}.{name}.{part}"] = value
    for name in ("pooled", "answers"):
        for part in ("weight", "bias"):
            found[f"{name}.{part}"] = state[f"{name}.{part}"]
    found["kinds.weight"] = state["kinds.weight"]
    return found


def packed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights with the large matrices as 8-bit integers, each row over its largest."""
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        if value.dim() == 2 and value.numel() > 10_000:
            scale = value.abs().amax(dim=1) / 127
            found[name] = (value / scale[:, None]).round().to(torch.int8).contiguous()
            found[name + ".scale"] = scale.float().contiguous()
        else:
            found[name] = value.float().contiguous()
    return found


if __name__ == "__main__":
    main()
