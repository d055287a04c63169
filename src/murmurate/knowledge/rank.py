"""Which of the hits comes first. Pure.

With vectors and token states, by a weighted sum of what the searches measured; without, by the
fused ranks of the searches that there are.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence

from murmurate.core.types import Passage
from murmurate.knowledge.fuse import fuse
from murmurate.knowledge.ports import Found, Hit, Term
from murmurate.knowledge.quote import confidence, features_of

CANDIDATES = 50
"""How many hits of each search are asked for, and fused."""

# A softmax regression over the hits of the English calibration questions, 2026-11-21
# (`python benchmarks/retrieval.py --calibrate`): how much more likely the right one is.
_BM25_SHARE, _COSINE, _LATE = 1.07, 8.9, 35.36

_Key = tuple[str, int]


def ranked(found: Found, *, limit: int) -> list[Passage]:
    """Return the best hits as passages, best first."""
    keyed = {(hit.document, hit.start): hit for hit in found.hits}
    by_words = _ranking(keyed, lambda hit: hit.bm25)
    by_vectors = _ranking(keyed, lambda hit: hit.cosine)
    # A heavier vote for the vectors (1.5, 2) and one by the scores themselves were no better.
    scores = fuse([(1.0, by_words[:CANDIDATES]), (1.0, by_vectors[:CANDIDATES])])
    closer = {key: value for key, hit in keyed.items() if (value := relevance(hit, found.terms))}
    first = sorted(closer, key=lambda key: (-closer[key], key))
    new = [key for key in scores if closer and keyed[key].cosine is None]
    chances = {key: confidence(features_of(keyed[key], found.terms)) for key in (*first, *new)}
    order = list(dict.fromkeys([*_merged(first, new, chances), *scores]))[:limit]
    return [
        passage_of(keyed[key], found.terms, score=1 / place)
        for place, key in enumerate(order, start=1)
    ]


def _merged(first: list[_Key], new: list[_Key], chances: Mapping[_Key, float]) -> list[_Key]:
    """Return both rankings as one, each in its order: the next is whose turn has the better chance.

    What has no vectors yet, or is in a language that the embedder does not know, can't be compared
    with the others in any other way.
    """
    left, right = deque(first), deque(new)
    order: list[_Key] = []
    while left and right:
        order.append((left if chances[left[0]] >= chances[right[0]] else right).popleft())
    return [*order, *left, *right]


def relevance(hit: Hit, terms: Sequence[Term]) -> float | None:
    """Return a number that is larger for a better hit, None where a measurement is missing."""
    if hit.cosine is None or hit.late is None:
        return None
    return _BM25_SHARE * bm25_share(hit, terms) + _COSINE * hit.cosine + _LATE * hit.late


def bm25_share(hit: Hit, terms: Sequence[Term]) -> float:
    """Return the keyword score over the rarity of all words asked for: about 0 to 2."""
    total = sum(term.idf for term in terms)
    return (hit.bm25 or 0.0) / total if total else 0.0


def passage_of(hit: Hit, terms: Sequence[Term], *, score: float) -> Passage:
    """Return a hit as a passage, with its confidence."""
    return Passage(
        document=hit.document,
        collection=hit.collection,
        path=hit.path,
        text=hit.text,
        start=hit.start,
        end=hit.end,
        line_first=hit.line_first,
        line_last=hit.line_last,
        page=hit.page,
        score=score,
        confidence=confidence(features_of(hit, terms)),
    )


def _ranking(hits: Mapping[_Key, Hit], score: Callable[[Hit], float | None]) -> list[_Key]:
    """Return the keys of the hits that have a score, best first."""
    scored = [(value, key) for key, hit in hits.items() if (value := score(hit)) is not None]
    return [key for _, key in sorted(scored, key=lambda pair: (-pair[0], pair[1]))]
