"""Reciprocal rank fusion: several rankings of the same things become one. Pure."""

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

RANK_OFFSET = 60
"""Cormack, Clarke and Büttcher (2009): damps the lead of the very first ranks."""

_K = TypeVar("_K", bound=Hashable)


def fuse(rankings: Sequence[tuple[float, Sequence[_K]]]) -> Mapping[_K, float]:
    """Return each thing's score, best first: the sum of `weight / (60 + rank)`.

    A ranking is a weight and the things, best first; a thing that it leaves out gets nothing from
    it. Equal scores keep the order in which the things were first met.
    """
    scores: dict[_K, float] = {}
    for weight, ranking in rankings:
        for rank, thing in enumerate(ranking, start=1):
            scores[thing] = scores.get(thing, 0.0) + weight / (RANK_OFFSET + rank)
    return dict(sorted(scores.items(), key=lambda pair: -pair[1]))
