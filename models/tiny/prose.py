"""Real prose: passages of documentation, and questions that one of their sentences answers.

Nothing of it is stored in the repository. The sentences come from Python's language reference and
docstrings, from the docstrings of the packages that the training needs, and from the manual pages
of the machine. Whole documents are held out: the evaluation needs nothing but Python, as only
Python's own documents are held out.
"""

import gzip
import json
import random
import re
import sysconfig
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from pydoc_data.topics import topics
from typing import Final

from places import BUILD
from words import DOCUMENTS_HELD_OUT_ONE_IN, WORDINGS, docstrings_of, stdlib_documents

CACHE: Final = BUILD / "prose.json"
PACKAGES: Final = ("numpy", "torch", "sympy", "networkx", "mpmath", "jinja2", "huggingface_hub")
MANUAL: Final = Path("/usr/share/man")
MANUAL_SECTIONS: Final = ("man1", "man2", "man3", "man4", "man5", "man7", "man8")
MANUAL_BYTES_MAX: Final = 60_000
"""Longer pages (compressed) are mostly lists of options."""
SENTENCES_MIN, SENTENCES_MAX = 4, 8
WORDS_MIN, WORDS_MAX = 5, 30

_SENTENCE: Final = re.compile(r"(?<=[.!?])\s+(?=[\"'`(A-Z])")
_WORD: Final = re.compile(r"[A-Za-z][A-Za-z'-]+")
_STOP: Final = frozenset(
    (WORDINGS["stop_words"]["english"] + WORDINGS["stop_words"]["more"]).split()
)

Document = list[list[str]]
"""Runs of sentences that follow each other."""


@dataclass(frozen=True, slots=True)
class Passage:
    """Some sentences of a document."""

    sentences: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(self.sentences)


class Library:
    """Documents to draw from: one for training, one for the evaluation."""

    def __init__(self, documents: Iterable[Document]) -> None:
        runs = [run for document in documents for run in document]
        self._runs = [run for run in runs if len(run) >= SENTENCES_MIN]
        self._weights = list(accumulate(len(run) ** 0.7 for run in self._runs))
        self._rarity: dict[str, int] = {}
        for run in self._runs:
            for sentence in run:
                for word in set(content(sentence)):
                    self._rarity[word] = self._rarity.get(word, 0) + 1

    @property
    def sentences(self) -> int:
        """Return how many sentences there are."""
        return sum(map(len, self._runs))

    def passage(self, r: random.Random) -> Passage:
        """Draw four to eight sentences that follow each other."""
        run = r.choices(self._runs, cum_weights=self._weights)[0]
        count = min(len(run), r.randint(SENTENCES_MIN, SENTENCES_MAX))
        first = r.randint(0, len(run) - count)
        return Passage(tuple(run[first : first + count]))

    def rarity(self, word: str) -> int:
        """Return in how many sentences the word stands."""
        return self._rarity.get(word, 0)


def content(sentence: str) -> list[str]:
    """Return the words that tell what a sentence is about, in lower case."""
    return [w for w in map(str.lower, _WORD.findall(sentence)) if w not in _STOP and len(w) > 2]


def asked_passage(
    r: random.Random, library: Library, *, held_out: bool
) -> tuple[Passage, str, str]:
    """Draw a passage, a question, and the sentence of the passage that answers it."""
    while True:  # sentences that are all alike give no question, so try other passages
        passage = library.passage(r)
        place = r.randrange(len(passage.sentences))
        drawn = ask_about(r, passage, place, library=library, held_out=held_out)
        if drawn is not None:
            return passage, *drawn


def ask_about(
    r: random.Random, passage: Passage, place: int, *, library: Library, held_out: bool
) -> tuple[str, str] | None:
    """Return a question about one sentence, and the sentence; None if that is hard to do.

    The question shares some content words with the sentence; at least one of them stands in no
    other sentence of the passage.
    """
    gold = passage.sentences[place]
    others = {w for i, s in enumerate(passage.sentences) if i != place for w in content(s)}
    for _ in range(8):
        phrases = _phrases(r, gold, others, library)
        if phrases:
            return _worded(r, phrases, held_out=held_out), gold
    return None


def _phrases(r: random.Random, gold: str, others: set[str], library: Library) -> list[str] | None:
    """Choose one to three runs of words of the sentence; None if none of them is its own."""
    words = gold.rstrip(".!?").split()
    kept: list[str] = []
    chosen: list[tuple[int, int]] = []
    for _ in range(r.choices([1, 2, 3], [25, 50, 25])[0]):
        first = r.randrange(len(words))
        last = min(len(words), first + r.choice([1, 1, 2, 2, 3, 4]))
        while first < last and not content(words[first]):
            first += 1
        while first < last and not content(words[last - 1]):
            last -= 1
        if first < last and all(last <= a or b <= first for a, b in chosen):
            chosen.append((first, last))
    for first, last in sorted(chosen):
        kept.append(" ".join(words[first:last]).strip(",;:()\"'`"))
    own = {w for phrase in kept for w in content(phrase)} - others
    if not own or (len(own) == 1 and r.random() < 0.5):
        return None
    if len(own) == 1 and library.rarity(next(iter(own))) > 400:
        return None
    return kept


def _worded(r: random.Random, phrases: list[str], *, held_out: bool) -> str:
    key = "held_out" if held_out else "asked"
    fitting = [t for t in WORDINGS["spans"][key].splitlines() if t.count("{}") == len(phrases)]
    if r.random() < 0.15:
        fitting = fitting or ["{}"]
    if r.random() < 0.3:
        r.shuffle(phrases)
    varied = [_varied(r, phrase) for phrase in phrases]
    text = r.choice(fitting).format(*varied)
    style = r.random()
    if style < 0.2:
        return text.lower()
    return text[0].upper() + text[1:] if style < 0.8 else text


def _varied(r: random.Random, phrase: str) -> str:
    """Now and then use another form of the last word, as a person would."""
    if r.random() < 0.8 or not phrase[-1:].isalpha():
        return phrase
    for ending, instead in (("ies", "y"), ("ing", "e"), ("ed", ""), ("s", ""), ("", "s")):
        if phrase.endswith(ending) and not phrase.endswith("ss"):
            return phrase[: len(phrase) - len(ending)] + instead
    return phrase


@cache
def library(held_out: bool) -> Library:
    """Return the documents of training, or those of the evaluation."""
    if held_out:
        return Library(_split(texts) for _, texts in python_documents(held_out=True))
    if not CACHE.exists():
        CACHE.parent.mkdir(parents=True, exist_ok=True)
        CACHE.write_text(json.dumps(list(_training_documents())))
    return Library(json.loads(CACHE.read_text()))


def _training_documents() -> Iterator[Document]:
    for _, texts in python_documents(held_out=False):
        yield _split(texts)
    site = Path(sysconfig.get_path("purelib"))
    for package in PACKAGES:
        for path in sorted((site / package).rglob("*.py")):
            if "test" not in path.as_posix():
                yield _split(docstrings_of(path))
    for section in MANUAL_SECTIONS:
        for path in sorted((MANUAL / section).glob("*.gz")):
            if path.stat().st_size < MANUAL_BYTES_MAX and not path.name.startswith("gcloud"):
                with gzip.open(path, "rt", encoding="utf-8", errors="replace") as page:
                    yield _split([unformatted(page.read())])


def python_documents(*, held_out: bool) -> Iterator[tuple[str, list[str]]]:
    """Yield the name and the texts of Python's own documents: modules and reference topics."""
    yield from stdlib_documents(held_out)
    for name, text in sorted(topics.items()):
        if (zlib.crc32(name.encode()) % DOCUMENTS_HELD_OUT_ONE_IN == 0) == held_out:
            yield name, [text]


def _split(texts: Iterable[str]) -> Document:
    """Cut texts into runs of clean sentences; code, tables and headings end a run."""
    runs: list[list[str]] = [[]]
    for text in texts:
        runs.append([])
        for paragraph in re.split(r"\n[ \t]*\n", text):
            lines = paragraph.strip().splitlines()
            if not lines or any(
                line.lstrip().startswith((">>>", "...", "|", "+-")) for line in lines
            ):
                continue
            for sentence in _SENTENCE.split(" ".join(" ".join(lines).split())):
                if _is_clean(sentence):
                    if sentence not in runs[-1]:
                        runs[-1].append(sentence)
                else:
                    runs.append([])
    return [run for run in runs if len(run) >= SENTENCES_MIN]


def _is_clean(sentence: str) -> bool:
    words = sentence.split()
    letters = sum(char.isalpha() or char == " " for char in sentence)
    return (
        WORDS_MIN <= len(words) <= WORDS_MAX
        and sentence[-1] in ".!?"
        and sentence[0].isupper()
        and letters > 0.85 * len(sentence)
        and sum(not word.isascii() for word in words) <= 1
        and len(content(sentence)) >= 2
    )


def unformatted(page: str) -> str:
    """Return the paragraphs of a manual page without its markup (roff, the `man` macros)."""
    lines: list[str] = []
    literal = False
    for raw in page.splitlines():
        line = re.sub(r"\\f(\[\w*\]|\(..|.)|\\s[-+]?\d|\\[&%/,|^]|\\\*\(..", "", raw)
        line = line.replace(r"\-", "-").replace(r"\e", "\\").replace(r"\ ", " ")
        line = re.sub(r"\\\((aq|cq|oq)|\\\[(aq|cq|oq)\]", "'", line)
        line = re.sub(r"\\\((lq|rq|dq)|\\\[(lq|rq|dq)\]", '"', line)
        if not line.startswith((".", "'")):
            lines.append("" if literal else line)
            continue
        macro, _, rest = line[1:].strip().partition(" ")
        literal = macro in {"nf", "EX", "Vb"} or (literal and macro not in {"fi", "EE", "Ve"})
        if macro in {"B", "I", "BR", "IR", "RB", "RI", "BI", "IB", "SM"} and not literal:
            parts = re.findall(r'"([^"]*)"|(\S+)', rest)
            joint = " " if macro in {"B", "I", "SM"} else ""
            lines.append(joint.join(a or b for a, b in parts))
        elif not macro.startswith("\\"):
            lines.append("")
    return "\n".join(lines)
