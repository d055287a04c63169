"""Makes the reader's training set: tokens, answers as spans of tokens, and hard negatives.

    python models/reader/prepare.py FOLDER_OF_DATA_SETS OUT.npz

A hard negative is a passage of the same data set that MiniLM finds near the question and that
does not hold the answer's words: on the subject, as what a search finds, but no answer.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from sources import Source, sources
from tokenizers import Tokenizer

from murmurate.adapters.minilm import MiniLM, weights_folder

QUESTION_TOKENS, PASSAGE_TOKENS = 40, 320
NEGATIVES = 8
SHORT_ANSWER = 60
"""Characters: the words of a longer answer stand in no other passage, even where it is told."""


def main() -> None:
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    tokenizer = Tokenizer.from_file(str(weights_folder() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    with tempfile.TemporaryDirectory() as scratch:
        model = MiniLM(Path(scratch))
    passages: list[list[int]] = []
    texts: list[list[int]] = []
    titles: list[list[int]] = []
    rows: list[tuple[int, int, int, int]] = []
    negatives: list[list[int]] = []
    for number, source in enumerate(sources(folder)):
        first = len(passages)
        spans: list[list[tuple[int, int]]] = []
        for title, text in source.passages:
            coded = tokenizer.encode(text, add_special_tokens=False)
            passages.append(coded.ids[:PASSAGE_TOKENS])
            spans.append(list(coded.offsets[:PASSAGE_TOKENS]))
            titles.append(tokenizer.encode(title, add_special_tokens=False).ids[:16])
        found = hard_negatives(model, source)
        for asked, near in zip(source.asked, found, strict=True):
            start, end = token_span(spans[asked.passage], asked.answers)
            if asked.answers and start < 0:
                continue
            coded = tokenizer.encode(asked.question, add_special_tokens=False)
            texts.append(coded.ids[:QUESTION_TOKENS])
            rows.append((number, first + asked.passage, start, end))
            negatives.append([first + at for at in near])
        print(source.name, len(passages), len(rows), flush=True)
    np.savez(
        out,
        rows=np.array(rows, np.int32),
        negatives=np.array(negatives, np.int32),
        **ragged("passages", passages),
        **ragged("questions", texts),
        **ragged("titles", titles),
    )


def ragged(name: str, lists: list[list[int]]) -> dict[str, Any]:
    """Return lists of different lengths as two arrays."""
    ends = np.cumsum([len(one) for one in lists])
    return {name: np.array([i for one in lists for i in one], np.int32), name + "_ends": ends}


def token_span(
    offsets: list[tuple[int, int]], answers: tuple[tuple[int, int], ...]
) -> tuple[int, int]:
    """Return the first and last token of the first answer, -1 where there is none."""
    for start, end in answers:
        inside = [at for at, (a, b) in enumerate(offsets) if a < end and b > start]
        if inside:
            return inside[0], inside[-1]
    return -1, -1


def hard_negatives(model: MiniLM, source: Source) -> list[list[int]]:
    """Return for each question the nearest passages that do not hold its answer's words."""
    vectors = np.concatenate([model.embed([text[:900]])[0] for _, text in source.passages])
    lowered = [text.lower() for _, text in source.passages]
    found: list[list[int]] = []
    for first in range(0, len(source.asked), 256):
        some = source.asked[first : first + 256]
        near = model.embed([asked.question for asked in some])[0] @ vectors.T
        for asked, cosines in zip(some, near, strict=True):
            text = source.passages[asked.passage][1]
            words = {text[a:b].lower() for a, b in asked.answers if b - a <= SHORT_ANSWER}
            kept = [
                int(at)
                for at in np.argsort(-cosines)[:60]
                if at != asked.passage and not any(word in lowered[at] for word in words)
            ]
            found.append((kept + [asked.passage] * NEGATIVES)[:NEGATIVES])
    return found


if __name__ == "__main__":
    main()
