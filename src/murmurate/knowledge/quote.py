"""The extractive answer: the words of a document that answer a question, or nothing. Pure.

`confidence` weighs what the searches found about a passage; `quote` says "I don't know" (None)
below a threshold, and otherwise picks the sentences to show.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from murmurate.core.types import Citation, Frozen, Passage
from murmurate.knowledge.ports import Hit, Term
from murmurate.knowledge.words import runs, sentences, stem, stems

CONFIDENCE_MIN = 0.5
SENTENCES_MAX = 3
QUOTE_CHARS_MAX = 600

_HEADING = re.compile(r"#{1,6} [^\n]*|[^\n]+\n([=\-~^*+#\"'.])\1+")


class Quote(Frozen, frozen=True):
    """The words that answer, and where they stand."""

    citation: Citation
    text: str


class Features(Frozen, frozen=True):
    """What is known of a passage's fit to a question, each between 0 and 1.

    `cosine` is None without vectors. `coverage` is the share of the question's words, weighted by
    rarity, that stand in the passage or its headings; `bm25` its keyword score beside the best
    possible one; `lead` how far it is ahead of the next passage by the better of the searches.
    """

    cosine: float | None
    coverage: float
    bm25: float
    lead: float


WEIGHTS_VECTORS: Mapping[str, float] = {
    "bias": -8.0,
    "cosine": 9.0,
    "coverage": 4.0,
    "bm25": 1.0,
    "lead": 1.0,
}
WEIGHTS_WORDS: Mapping[str, float] = {"bias": -5.0, "coverage": 5.0, "bm25": 2.0, "lead": 1.0}


def confidence(features: Features) -> float:
    """Return the chance that the passage answers the question: a logistic function of its fit."""
    weights = WEIGHTS_WORDS if features.cosine is None else WEIGHTS_VECTORS
    total = weights["bias"]
    total += weights["coverage"] * features.coverage
    total += weights["bm25"] * features.bm25
    total += weights["lead"] * features.lead
    if features.cosine is not None:
        total += weights["cosine"] * features.cosine
    return 1 / (1 + math.exp(-total))


def coverage(terms: Sequence[Term], text: str) -> float:
    """Return the share of the terms, by rarity, that stand in a text; 0 when there are none."""
    words = {run if chinese else stem(run) for run, chinese in runs(text)}
    chinese_text = "\n".join(run for run, chinese in runs(text) if chinese)
    total = sum(term.idf for term in terms)
    found = sum(term.idf for term in terms if term.word in words or term.word in chinese_text)
    return found / total if total else 0.0


def features_of(hit: Hit, terms: Sequence[Term], *, lead: float) -> Features:
    """Return the features of a hit."""
    # BM25 saturates at (k1 + 1) = 2.2 times a term's rarity.
    possible = sum(term.idf for term in terms) * 2.2
    return Features(
        cosine=hit.cosine,
        coverage=coverage(terms, f"{hit.title}\n{hit.context}\n{hit.path}\n{hit.text}"),
        bm25=min((hit.bm25 or 0.0) / possible, 1.0) if possible else 0.0,
        lead=lead,
    )


def quote(
    question: str, passages: Sequence[Passage], *, confidence_min: float = CONFIDENCE_MIN
) -> Quote | None:
    """Return the sentences that answer best, or None: nothing in the passages answers this."""
    if not passages:
        return None
    best = max(passages, key=lambda passage: passage.confidence)
    if best.confidence < confidence_min:
        return None
    start, end = best_span(question, best.text)
    text = best.text[start:end]
    citation = Citation(
        document=best.document,
        path=best.path,
        start=best.start + start,
        end=best.start + end,
        line_first=best.line_first + best.text.count("\n", 0, start),
        line_last=best.line_first + best.text.count("\n", 0, end),
        quote=text,
        score=best.confidence,
    )
    return Quote(citation, text)


def best_span(question: str, text: str) -> tuple[int, int]:
    """Return the one to three neighbouring sentences that share most with the question.

    A word that many of the sentences have counts little. A passage that shares nothing, or is
    short, is quoted whole.
    """
    spans = [span for span in sentences(text) if not _HEADING.fullmatch(text, *span)]
    asked = set(stems(question))
    shared = [asked & set(stems(text[start:end])) for start, end in spans]
    counts = Counter(word for words in shared for word in words)
    if not counts:
        return 0, len(text)
    rarity = {word: math.log(1 + len(spans) / count) for word, count in counts.items()}
    best = (0.0, 0, 0)
    for first in range(len(spans)):
        words: set[str] = set()
        for last in range(first, min(first + SENTENCES_MAX, len(spans))):
            words |= shared[last]
            length = spans[last][1] - spans[first][0]
            if length > QUOTE_CHARS_MAX and last > first:
                break
            # Each further sentence must bring a word of its own.
            score = sum(rarity[word] for word in words) - 0.4 * (last - first)
            best = max(best, (score, -first, -last))
    _, first, last = best
    return spans[-first][0], spans[-last][1]
