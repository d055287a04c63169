"""The extractive answer: the words of a document that answer a question, or nothing. Pure.

`confidence` weighs what the searches found about a passage; `quote` says "I don't know" (None)
below a threshold, and otherwise picks the sentences to show.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

from murmurate.core.types import Citation, Frozen, Passage
from murmurate.knowledge.ports import Hit, Term
from murmurate.knowledge.words import runs, sentences, stem, stems

CONFIDENCE_MIN = 0.48
"""Of the unanswerable calibration questions nine in ten stay below it, with vectors and without
(`python benchmarks/retrieval.py --calibrate`, 2026-11-21)."""
SENTENCES_MAX = 3
"""The best sentences are looked for in runs of this length; what stands around them is added."""
QUOTE_CHARS_MAX = 700
"""Of right passages of the calibration questions the quotation kept the answer for 0.93 with 700
characters around the best sentences, 0.81 with 300, 0.76 with those sentences alone."""

_HEADING = re.compile(r"#{1,6} [^\n]*|[^\n]+\n([=\-~^*+#\"'.])\1+")


class Quote(Frozen, frozen=True):
    """The words that answer, and where they stand."""

    citation: Citation
    text: str


class Features(Frozen, frozen=True):
    """What is known of a passage's fit to a question.

    `cosine` and `late` are None without vectors (see `Hit`). `together` is the share of the
    question's words, weighted by rarity, that stand in two neighbouring sentences of the passage
    with the headings; `words` is how many content words the question has, 2 to 6.
    """

    cosine: float | None
    late: float | None
    together: float
    words: int


# Logistic regressions over the first passages of the 264 calibration questions (L2 = 2 on
# standardised features), 2026-11-21: with vectors on the English ones, without on all of them, its
# bias moved by 0.5 so that one threshold serves both. Nothing here depends on the size of the
# collection, as the keyword score does.
_BIAS_VECTORS, _COSINE, _LATE, _TOGETHER_VECTORS = -7.51, 4.261, 7.796, 1.294
_BIAS_WORDS, _TOGETHER, _WORDS = -5.57, 4.442, 0.544


def confidence(features: Features) -> float:
    """Return the chance that the passage answers the question: a logistic function of its fit."""
    if features.cosine is None or features.late is None:
        total = _BIAS_WORDS + _TOGETHER * features.together + _WORDS * features.words
    else:
        total = _BIAS_VECTORS + _COSINE * features.cosine + _LATE * features.late
        total += _TOGETHER_VECTORS * features.together
    return 1 / (1 + math.exp(-total))


def coverage(terms: Sequence[Term], text: str) -> float:
    """Return the share of the terms, by rarity, that stand in a text; 0 when there are none."""
    words: set[str] = set()
    chinese_text = ""
    for run, chinese in runs(text):
        if chinese:
            chinese_text += f"{run}\n"
        else:
            words.add(stem(run))
    total = sum(term.idf for term in terms)
    found = sum(term.idf for term in terms if term.word in words or term.word in chinese_text)
    return found / total if total else 0.0


def features_of(hit: Hit, terms: Sequence[Term]) -> Features:
    """Return the features of a hit."""
    spans = sentences(hit.text)
    pairs = zip(spans, [*spans[1:], *spans[-1:]], strict=True)
    headings = f"{hit.title} {hit.context} "
    together = [coverage(terms, headings + hit.text[a[0] : b[1]]) for a, b in pairs]
    return Features(
        cosine=hit.cosine,
        late=hit.late,
        together=max(together, default=0.0),
        words=min(max(len(terms), 2), 6),
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
        page=best.page,
    )
    return Quote(citation, text)


def best_span(question: str, text: str) -> tuple[int, int]:
    """Return the neighbouring sentences that share most with the question, and what is around.

    A word that many of the sentences have counts little. Headings at the ends are left out. A
    passage that shares nothing with the question is quoted whole.
    """
    spans = [span for span in sentences(text) if not _HEADING.fullmatch(text, *span)]
    asked = set(stems(question))
    shared = [asked & set(stems(text[start:end])) for start, end in spans]
    if not any(shared):
        return 0, len(text)
    first, last = _best_run(spans, shared)
    while True:  # what follows explains more often than what stands before
        if last + 1 < len(spans) and spans[last + 1][1] - spans[first][0] <= QUOTE_CHARS_MAX:
            last += 1
        elif first and spans[last][1] - spans[first - 1][0] <= QUOTE_CHARS_MAX:
            first -= 1
        else:
            return spans[first][0], spans[last][1]


def _best_run(spans: list[tuple[int, int]], shared: list[set[str]]) -> tuple[int, int]:
    """Return the first and the last sentence of the run whose words weigh most."""
    counts = Counter(word for words in shared for word in words)
    rarity = {word: math.log(1 + len(spans) / count) for word, count in counts.items()}
    best = (-math.inf, 0, 0)
    for first in range(len(spans)):
        words: set[str] = set()
        for last in range(first, min(first + SENTENCES_MAX, len(spans))):
            if last > first and spans[last][1] - spans[first][0] > QUOTE_CHARS_MAX:
                break
            words |= shared[last]
            # Each further sentence must bring a word of its own.
            score = sum(rarity[word] for word in words) - 0.4 * (last - first)
            best = max(best, (score, -first, -last))
    _, first, last = best
    return -first, -last
