"""Where the model's files are."""

from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
BUILD: Final = HERE.parent.parent / "build" / "tiny"
SHIPPED: Final = HERE.parent.parent / "src" / "murmurate" / "data" / "tiny.gguf"
