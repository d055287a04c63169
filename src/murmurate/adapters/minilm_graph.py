"""Builds MiniLM's ONNX graph from its safetensors: `python -m` this, WEIGHTS_FOLDER FILE."""

import json
import logging
import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from safetensors.numpy import load_file

from murmurate.adapters.minilm import DIMENSIONS

STATES_LAYER = 4
"""Whose states stand for single tokens, from 0: the last layer's (5) found less."""
_OPSET = 17


def main() -> None:
    """Build the graph: the folder of the weights and the file to write are the arguments."""
    threading.Thread(target=_end_with_the_starter, daemon=True).start()
    folder, fresh = Path(sys.argv[1]), Path(sys.argv[2])
    whole = fresh.with_name(f"minilm-{fresh.stem}-whole.onnx.new")
    try:
        build(folder, whole)
        quantise(whole, fresh)
    finally:
        whole.unlink(missing_ok=True)


def _end_with_the_starter() -> None:
    """Wait on stdin, which is closed when the process that asked for the graph is gone."""
    while os.read(0, 4096):
        pass
    os._exit(3)


def quantise(whole: Path, small: Path) -> None:
    """Write the graph with its matrices as 8-bit integers, scaled per channel.

    Twice as fast as float32 (one text 2.5 ms, not 4.5; 43 chunks of 180 tokens a second, not 20;
    one thread, 2026-11-21), its vectors at a mean cosine of 0.995 to float32's. A text's vector
    depends a little on its batch (cosine 0.98 and more): the scale of activations is shared.
    """
    logging.getLogger().setLevel(logging.ERROR)  # it warns on the root logger about pre-processing
    quantize_dynamic(
        whole,
        small,
        weight_type=QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=["MatMul"],
        extra_options={"MatMulConstBOnly": True},
    )


def build(folder: Path, path: Path) -> None:
    """Write the float32 graph: token ids and mask in, unit vectors and token states out."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = load_file(folder / "model.safetensors")
    graph = _Graph({name.removeprefix("bert."): array for name, array in weights.items()})
    graph.bert(config)
    graph.mean_of_unit_length()
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])
    mask = helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "tokens"])
    out = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", DIMENSIONS])
    shape = ["batch", "tokens", DIMENSIONS]
    states = helper.make_tensor_value_info("states", TensorProto.FLOAT, shape)
    model = helper.make_model(
        helper.make_graph(graph.nodes, "minilm", [ids, mask], [out, states], graph.constants),
        opset_imports=[helper.make_opsetid("", _OPSET)],
    )
    model.ir_version = 8
    onnx.checker.check_model(model)
    onnx.save(model, path)


class _Graph:
    """Writes BERT as ONNX nodes; each method returns the name of what it computes."""

    def __init__(self, weights: dict[str, Any]) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._weights = weights

    def bert(self, config: dict[str, Any]) -> None:
        """Add the embeddings and all layers; the results are `hidden`, and `states` on the way."""
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        width = hidden // heads
        self._eps = config["layer_norm_eps"]
        self._constant("one", np.array(1.0, np.float32))
        self._constant("half", np.array(0.5, np.float32))
        self._constant("root2", np.array(np.sqrt(2), np.float32))
        self._constant("scale", np.array(1 / np.sqrt(width), np.float32))
        self._constant("split", np.array([0, 0, heads, width], np.int64))
        self._constant("joined", np.array([0, 0, hidden], np.int64))
        mask = self._op("Cast", ["attention_mask"], "mask", to=1)
        away = self._op("Mul", [self._op("Sub", ["one", mask], "hole"), "far"], "away")
        self._constant("far", np.array(-1e4, np.float32))
        self._constant("axes12", np.array([1, 2], np.int64))
        self._op("Unsqueeze", [away, "axes12"], "bias")
        x = self._embeddings()
        for layer in range(config["num_hidden_layers"]):
            x = self._layer(x, f"encoder.layer.{layer}.")
            if layer == STATES_LAYER:
                self._op("Identity", [x], "states")
        self._op("Identity", [x], "hidden")

    def mean_of_unit_length(self) -> None:
        """Add the mean over the tokens under the mask, divided by its length."""
        self._constant("last", np.array([-1], np.int64))
        self._constant("tokens", np.array([1], np.int64))
        mask = self._op("Unsqueeze", ["mask", "last"], "mask3")
        kept = self._op("Mul", ["hidden", mask], "kept")
        total = self._op("ReduceSum", [kept, "tokens"], "total", keepdims=0)
        count = self._op("ReduceSum", [mask, "tokens"], "count", keepdims=0)
        mean = self._op("Div", [total, count], "mean")
        length = self._op("ReduceL2", [mean], "length", axes=[-1], keepdims=1)
        self._op("Div", [mean, length], "embedding")

    def _embeddings(self) -> str:
        self._constant("axis1", np.array(1, np.int64))
        self._constant("one_int", np.array(1, np.int64))
        counted = self._op("CumSum", ["attention_mask", "axis1"], "counted")
        places = self._op("Sub", [counted, "one_int"], "places")
        prefix = "embeddings."
        words = self._op(
            "Gather", [self._weight(prefix + "word_embeddings.weight"), "input_ids"], "words"
        )
        positions = self._op(
            "Gather", [self._weight(prefix + "position_embeddings.weight"), places], "positions"
        )
        kind = self._weights[prefix + "token_type_embeddings.weight"][0]
        self._constant("kind", kind.astype(np.float32))
        both = self._op("Add", [words, positions], "words_positions")
        return self._norm(self._op("Add", [both, "kind"], "embedded"), prefix + "LayerNorm")

    def _layer(self, x: str, prefix: str) -> str:
        attention = prefix + "attention.self."
        query = self._heads(self._linear(x, attention + "query"), [0, 2, 1, 3])
        key = self._heads(self._linear(x, attention + "key"), [0, 2, 3, 1])
        value = self._heads(self._linear(x, attention + "value"), [0, 2, 1, 3])
        scores = self._op("MatMul", [query, key], prefix + "scores")
        scaled = self._op("Mul", [scores, "scale"], prefix + "scaled")
        masked = self._op("Add", [scaled, "bias"], prefix + "masked")
        shares = self._op("Softmax", [masked], prefix + "shares", axis=-1)
        mixed = self._op("MatMul", [shares, value], prefix + "mixed")
        turned = self._op("Transpose", [mixed], prefix + "turned", perm=[0, 2, 1, 3])
        joined = self._op("Reshape", [turned, "joined"], prefix + "joined")
        out = self._linear(joined, prefix + "attention.output.dense")
        x = self._norm(
            self._op("Add", [out, x], prefix + "sum"), prefix + "attention.output.LayerNorm"
        )
        inner = self._gelu(self._linear(x, prefix + "intermediate.dense"))
        out = self._linear(inner, prefix + "output.dense")
        return self._norm(self._op("Add", [out, x], prefix + "sum2"), prefix + "output.LayerNorm")

    def _heads(self, x: str, perm: list[int]) -> str:
        return self._op(
            "Transpose", [self._op("Reshape", [x, "split"], x + ".split")], x + ".heads", perm=perm
        )

    def _linear(self, x: str, name: str) -> str:
        matrix = self._constant(name + ".matrix", self._weights[name + ".weight"].T)
        product = self._op("MatMul", [x, matrix], name + ".product")
        return self._op("Add", [product, self._weight(name + ".bias")], name)

    def _gelu(self, x: str) -> str:
        erf = self._op("Erf", [self._op("Div", [x, "root2"], x + ".scaled")], x + ".erf")
        factor = self._op("Add", [erf, "one"], x + ".factor")
        return self._op("Mul", [self._op("Mul", [x, factor], x + ".double"), "half"], x + ".gelu")

    def _norm(self, x: str, name: str) -> str:
        scale, shift = self._weight(name + ".weight"), self._weight(name + ".bias")
        return self._op("LayerNormalization", [x, scale, shift], name, axis=-1, epsilon=self._eps)

    def _weight(self, name: str) -> str:
        return self._constant(name, self._weights[name])

    def _constant(self, name: str, array: Any) -> str:  # noqa: ANN401 - a numpy array
        kept = array if array.dtype == np.int64 else array.astype(np.float32)
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(kept), name))
        return name

    def _op(self, kind: str, inputs: list[str], out: str, **attributes: Any) -> str:  # noqa: ANN401
        self.nodes.append(helper.make_node(kind, inputs, [out], **attributes))
        return out


if __name__ == "__main__":
    main()
