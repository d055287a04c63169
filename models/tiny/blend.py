"""Blend two checkpoints: a part of each one's weights.

A training that goes on with a higher rate forgets some of what it knew; the blend knows both.
"""

import argparse
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file


def blend(before: Path, after: Path, share: float, to: Path) -> None:
    """Write a checkpoint of which `share` is `after` and the rest is `before`."""
    to.mkdir(parents=True, exist_ok=True)
    for name in ("shape.json", "tokenizer.json"):
        shutil.copy(after / name, to / name)
    old, new = (load_file(folder / "network.safetensors") for folder in (before, after))
    mixed = {name: (1 - share) * old[name] + share * new[name] for name in new}
    save_file(mixed, to / "network.safetensors")


def main() -> None:
    """Blend what two runs of `train.py` saved."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("to", type=Path)
    parser.add_argument("--share", type=float, default=0.7, help="how much of it is `after`")
    told = parser.parse_args()
    blend(told.before, told.after, told.share, told.to)


if __name__ == "__main__":
    main()
