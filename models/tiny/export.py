"""Write the trained model as one GGUF file: Q8_0 weights, vocabulary and chat template."""

import argparse
import json
from pathlib import Path

import gguf
import numpy as np
from gguf_names import gguf_name
from network import Network, Shape
from places import BUILD, HERE, SHIPPED
from tokenizer import END, END_OF_TEXT, SPECIAL
from tokenizers import Tokenizer
from train import load


def export(network: Network, tokenizer: Tokenizer, path: Path) -> None:
    """Write the file; llama.cpp needs nothing beside it."""
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_name("murmurate tiny")
    writer.add_license("Apache-2.0")
    _describe(writer, network.shape)
    _add_vocabulary(writer, tokenizer)
    writer.add_chat_template((HERE / "chat_template.jinja").read_text())
    for name, tensor in network.state_dict().items():
        weights = tensor.float().numpy()
        if weights.ndim == 1:
            writer.add_tensor(gguf_name(name), weights.astype(np.float32))
            continue
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(gguf_name(name), gguf.quants.quantize(weights, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.positions_max)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.inner_width)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.key_heads)
    writer.add_key_length(shape.head_width)
    writer.add_value_length(shape.head_width)
    writer.add_layer_norm_rms_eps(shape.epsilon)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _add_vocabulary(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    count = tokenizer.get_vocab_size()
    types = [gguf.TokenType.NORMAL] * count
    for mark in SPECIAL:
        # llama.cpp prints a user-defined token and hides a control token; tool calls must be seen.
        seen = mark.startswith(("<tool", "</tool"))
        kind = gguf.TokenType.USER_DEFINED if seen else gguf.TokenType.CONTROL
        types[tokenizer.token_to_id(mark)] = kind
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([tokenizer.id_to_token(i) for i in range(count)])
    writer.add_token_types(types)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_eos_token_id(tokenizer.token_to_id(END))
    writer.add_pad_token_id(tokenizer.token_to_id(END_OF_TEXT))
    writer.add_bos_token_id(tokenizer.token_to_id(END_OF_TEXT))
    writer.add_add_bos_token(False)


def main() -> None:
    """Export what `train.py` saved."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trained", type=Path, default=BUILD)
    parser.add_argument("--to", type=Path, default=SHIPPED)
    told = parser.parse_args()
    told.to.parent.mkdir(parents=True, exist_ok=True)
    export(*load(told.trained), told.to)
    print(f"{told.to.name}: {told.to.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
