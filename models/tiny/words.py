"""Where the words come from: Python's own docstrings, jieba's Chinese dictionary, and invention.

Nothing is copied into the repository: both sources are read from the Python that runs the training.
One word in ten is held out, so that the evaluation asks about words that training never showed.
"""

import ast
import random
import re
import sysconfig
import tomllib
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import jieba

WORDINGS: Final = tomllib.loads((Path(__file__).parent / "wordings.toml").read_text("utf-8"))
HELD_OUT_ONE_IN: Final = 10
DOCUMENTS_HELD_OUT_ONE_IN: Final = 3
CHINESE_WORDS_MAX: Final = 6000
_SKIPPED_FOLDERS: Final = {"test", "tests", "idlelib", "site-packages", "turtledemo", "lib2to3"}
_STOP: Final = frozenset(WORDINGS["stop_words"]["english"].split())


def is_held_out(word: str) -> bool:
    """Say whether only the evaluation may use the word (or number)."""
    return zlib.crc32(word.lower().encode()) % HELD_OUT_ONE_IN == 0


@dataclass(frozen=True, slots=True)
class Words:
    """What sentences are filled with; one instance for training, another for the evaluation."""

    phrases: tuple[str, ...]
    """One to four words from a docstring, such as "buffered reader"."""
    actions: tuple[str, ...]
    """What functions do, such as "remove the trailing newline"."""
    sentences: tuple[str, ...]
    """Whole sentences."""
    chinese: tuple[str, ...]

    def phrase(self, r: random.Random) -> str:
        """Return a thing to ask about; sometimes an invented name or an identifier."""
        kind = r.random()
        if kind < 0.7:
            return r.choice(self.phrases)
        if kind < 0.8:
            return invented(r)
        if kind < 0.87:
            return r.choice(self.phrases) + " " + invented(r).capitalize()
        if kind < 0.94:
            return r.choice("_-.").join(r.choice(self.phrases).lower().split())
        return invented(r).upper()[: r.randint(2, 5)]


def invented(r: random.Random) -> str:
    """Return a word that no dictionary has."""
    syllables = r.randint(2, 4)
    letters = [r.choice("bcdfghjklmnprstvwxyz") + r.choice("aeiou") for _ in range(syllables)]
    return "".join(letters) + r.choice(["", "", "n", "r", "s", "x", "t"])


@cache
def words(held_out: bool) -> Words:
    """Return the words of training, or those of the evaluation.

    Training reads no sentence of a held-out document; the evaluation takes its words from all.
    """
    phrases, actions, sentences = Counter[str](), Counter[str](), Counter[str]()
    for docstring in _docstrings(held_out):
        for sentence in re.split(r"(?<=[.!?])\s+", " ".join(docstring.split())):
            tokens = re.findall(r"[A-Za-z][A-Za-z'-]+", sentence)
            if not 3 <= len(tokens) <= 22 or not sentence.isascii() or ">>>" in sentence:
                continue
            _gather_phrases(tokens, phrases, held_out)
            unusual = [token for token in tokens if token.lower() not in _STOP]
            if any(map(is_held_out, unusual)) != held_out:
                continue
            sentences[sentence] += 1
            if re.fullmatch(r"[A-Z][a-z]+(e|t|n|d|k|l|p|r|m|h|w|y) .*\.", sentence):
                actions[sentence[0].lower() + sentence[1:-1]] += 1
    chinese = tuple(w for w in _chinese_words() if is_held_out(w) == held_out)
    return Words(tuple(phrases), tuple(actions), tuple(sentences), chinese)


def _gather_phrases(tokens: list[str], phrases: Counter[str], held_out: bool) -> None:
    """Count the runs of up to four words between stop words."""
    run: list[str] = []
    for token in [*tokens, "the"]:
        if token.lower() not in _STOP:
            run.append(token)
            continue
        if 1 <= len(run) <= 4 and any(map(is_held_out, run)) == held_out:
            phrases[" ".join(run)] += 1
        run = []


def _docstrings(held_out: bool) -> Iterator[str]:
    for _, texts in stdlib_documents(held_out=False):
        yield from texts
    if held_out:
        for _, texts in stdlib_documents(held_out=True):
            yield from texts


def stdlib_documents(held_out: bool) -> Iterator[tuple[str, list[str]]]:
    """Yield the name and the docstrings of the standard library's modules, in a fixed order.

    One module in three is held out as a whole.
    """
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if _SKIPPED_FOLDERS & set(name.parts):
            continue
        if (zlib.crc32(name.as_posix().encode()) % DOCUMENTS_HELD_OUT_ONE_IN == 0) == held_out:
            yield name.as_posix(), docstrings_of(path)


def docstrings_of(path: Path) -> list[str]:
    """Return the docstrings of a Python file; none if it can't be read."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return []  # a file in an old encoding, kept there on purpose
    described = ast.Module | ast.ClassDef | ast.FunctionDef
    nodes = (node for node in ast.walk(tree) if isinstance(node, described))
    return [text for node in nodes if (text := ast.get_docstring(node))]


def _chinese_words() -> list[str]:
    """Return the most frequent Chinese nouns and verbs of two to four characters."""
    counted: list[tuple[int, str]] = []
    with jieba.get_dict_file() as lines:
        for line in lines:
            word, count, tag = line.decode().split()
            if 2 <= len(word) <= 4 and tag in {"n", "v", "vn", "nz", "ns", "l", "a"}:
                counted.append((-int(count), word))
    return [word for _, word in sorted(counted)[:CHINESE_WORDS_MAX]]
