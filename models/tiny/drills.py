"""Drills: finding the one line that a question shares its words with, among lines of random tokens.

A context's question, a passage's question and these are the same task; here nothing has to be read
to do it, and an answer costs half as many tokens. So the model learns to look here first.
"""

import random
from dataclasses import dataclass
from typing import Final

from tasks import UNKNOWN
from tokenizer import END, START
from tokenizers import Tokenizer

UNKNOWN_SHARE: Final = 0.2
LINES_MAX: Final = 8
WORDS_MIN, WORDS_MAX = 3, 12
FIRST_WEIGHT: Final = 4.0


@dataclass(frozen=True, slots=True)
class _Line:
    """Tokens of one line: those that other lines have too, and those of its own."""

    tokens: list[int]
    own: list[int]


class Drills:
    """Draws drills in the form of the chat template."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        pieces = {number: piece for piece, number in tokenizer.get_vocab().items()}
        letters = {n: p for n, p in pieces.items() if p.lstrip("Ġ").isascii() and p[-1:].isalpha()}
        self._first = sorted(n for n, p in letters.items() if not p.startswith(("Ġ", "<")))
        self._later = sorted(n for n, p in letters.items() if p.startswith("Ġ") and len(p) > 2)
        parts = (
            f"{START}user\nQuestion:",
            "?\nContext:\n",
            ".\n",
            "\nQuestion:",
            f"?{END}\n{START}assistant\n",
            f".{END}",
            UNKNOWN + END,
        )
        self._parts = [tokenizer.encode(part).ids for part in parts]

    def draw(self, r: random.Random) -> tuple[list[int], list[float]]:
        """Return the tokens, and how much each weighs that is to be said."""
        ask, context, stop, again, answer, end, unknown = self._parts
        lines = self._lines(r, r.randint(2, LINES_MAX))
        gold = r.choice(lines)
        own = r.sample(gold.own, min(len(gold.own), r.choice([1, 2, 2, 3, 4])))
        if r.random() < 0.5:
            own.sort(key=gold.tokens.index)
        known = r.random() >= UNKNOWN_SHARE
        if not known:
            own = r.sample(self._later, len(own))
        question = self._with_shared(r, own, lines)
        told = [token for line in lines for token in (*line.tokens, *stop)][:-1]
        before = [*ask, *question, *context, *told, *again, *question, *answer]
        said = [*gold.tokens, *end] if known else unknown
        return before + said, [0.0] * len(before) + [FIRST_WEIGHT] + [1.0] * (len(said) - 1)

    def _lines(self, r: random.Random, count: int) -> list[_Line]:
        """Draw lines; each has tokens of its own, and most share others."""
        starts = r.sample(self._first, r.choice([1, 2, count, count]))
        shared = r.sample(self._later, r.choice([1, 4, 8]))
        share = r.choice([0.0, 0.2, 0.5])
        lines: list[_Line] = []
        for _ in range(count):
            words = [r.choice(self._later) for _ in range(r.randint(WORDS_MIN, WORDS_MAX))]
            marks = [r.random() < share for _ in words]
            marks[r.randrange(len(words))] = False
            tokens = [
                r.choice(shared) if mark else word for word, mark in zip(words, marks, strict=True)
            ]
            own = [word for word, mark in zip(words, marks, strict=True) if not mark]
            lines.append(_Line([r.choice(starts), *tokens], own))
        return lines

    @staticmethod
    def _with_shared(r: random.Random, own: list[int], lines: list[_Line]) -> list[int]:
        """Put tokens that many lines have among those asked for."""
        pool = [token for line in lines for token in line.tokens[1:] if token not in line.own]
        question = list(own)
        for _ in range(r.choice([0, 0, 1, 2, 3]) if pool else 0):
            question.insert(r.randint(0, len(question)), r.choice(pool))
        return question
