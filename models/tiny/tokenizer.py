"""The vocabulary: byte-level BPE that runs under llama.cpp's qwen2 pre-tokenizer.

Merges are learnt from pieces smaller than qwen2's own: a letter never joins punctuation, a digit
and a Chinese character stay alone. So a word is cut the same way wherever it stands, and can be
copied.
Only the punctuation of JSON merges with itself, since every prompt with tools is full of it.
"""

from collections.abc import Iterable
from typing import Final

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TEXT: Final = "<|endoftext|>"
START: Final = "<|im_start|>"
END: Final = "<|im_end|>"
SPECIAL: Final = (
    END_OF_TEXT,
    START,
    END,
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
)
VOCABULARY: Final = 2048

_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LEARNING = r" ?[A-Za-zÀ-ž]+|\p{L}|\p{N}| ?[\"{}:,\[\]]+|[^\s\p{L}\p{N}]|\s"


def learn(texts: Iterable[str]) -> Tokenizer:
    """Return a tokenizer whose merges come from the texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.pre_tokenizer = _cut(_LEARNING)
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=list(SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.pre_tokenizer = _cut(_QWEN2)
    return tokenizer


def restored(tokens: list[str], merges: list[str]) -> Tokenizer:
    """Return the tokenizer of which a file holds the tokens and the merges, in their order."""
    vocabulary = {token: number for number, token in enumerate(tokens)}
    pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
    tokenizer = Tokenizer(models.BPE(vocabulary, pairs))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.pre_tokenizer = _cut(_QWEN2)
    return tokenizer


def _cut(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
