"""Search by meaning: all chunks' vectors in memory, by collection, compared exactly.

A chunk has a vector for each of its windows; it is as near as the nearest of them.
"""

import threading
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
PLACES_FIRST = 256
WINDOWS_TYPICAL = 8
"""How many of the nearest windows are looked at for each row wanted: few chunks have more."""


class _Part:
    """The vectors of one collection, in the first `count` places of a growing array."""

    def __init__(self, dimensions: int) -> None:
        self.vectors: Vectors = np.zeros((PLACES_FIRST, dimensions), np.float32)
        self.rows: NDArray[np.int64] = np.zeros(PLACES_FIRST, np.int64)
        self.places: dict[int, list[int]] = {}
        self.count = 0

    def put(self, row: int, vectors: Vectors) -> None:
        self.remove(row)
        while self.count + len(vectors) > len(self.rows):
            self.vectors = np.concatenate([self.vectors, np.zeros_like(self.vectors)])
            self.rows = np.concatenate([self.rows, np.zeros_like(self.rows)])
        end = self.count + len(vectors)
        self.vectors[self.count : end] = vectors
        self.rows[self.count : end] = row
        self.places[row] = list(range(self.count, end))
        self.count = end

    def remove(self, row: int) -> None:
        for place in sorted(self.places.pop(row, ()), reverse=True):
            self.count -= 1
            if place == self.count:
                continue
            last = int(self.rows[self.count])
            self.vectors[place] = self.vectors[self.count]
            self.rows[place] = last
            self.places[last].remove(self.count)
            self.places[last].append(place)


class VectorTable:
    """Vectors of unit length by row of the chunk table. Safe to use from several threads."""

    def __init__(self, dimensions: int) -> None:
        self._dimensions = dimensions
        self._parts: dict[tuple[str, str], _Part] = {}
        self._lock = threading.Lock()

    def put(self, tenant: str, collection: str, row: int, vectors: Vectors) -> None:
        """Set the vectors of a row, in place of older ones."""
        with self._lock:
            part = self._parts.get((tenant, collection))
            if part is None:
                part = self._parts[tenant, collection] = _Part(self._dimensions)
            part.put(row, vectors)

    def remove(self, tenant: str, collection: str, rows: Sequence[int]) -> None:
        """Forget rows; unknown ones do no harm."""
        with self._lock:
            part = self._parts.get((tenant, collection))
            if part is not None:
                for row in rows:
                    part.remove(row)

    def nearest(
        self,
        tenant: str,
        collections: Sequence[str],
        question: Vectors,
        *,
        limit: int,
        also: Collection[int],
    ) -> dict[int, float]:
        """Return the cosines of the `limit` nearest rows, and of the rows in `also`."""
        found: dict[int, float] = {}
        near: list[tuple[float, int]] = []
        with self._lock:
            parts = [self._parts.get((tenant, name)) for name in dict.fromkeys(collections)]
            for part in parts:
                if part is None or not part.count:
                    continue
                cosines = part.vectors[: part.count] @ question
                near += _nearest(part.rows[: part.count], cosines, limit=limit)
                for row in also:
                    if row in part.places:
                        found[row] = float(cosines[part.places[row]].max())
        found.update({row: cosine for cosine, row in sorted(near, reverse=True)[:limit]})
        return found


def _nearest(rows: NDArray[np.int64], cosines: Vectors, *, limit: int) -> list[tuple[float, int]]:
    """Return cosine and row of the nearest rows, each row once, by its nearest vector."""
    count = min(limit * WINDOWS_TYPICAL, len(rows))
    top = np.argpartition(-cosines, count - 1)[:count]
    best: dict[int, float] = {}
    for place in top[np.argsort(-cosines[top], kind="stable")]:
        best.setdefault(int(rows[place]), float(cosines[place]))
    return [(cosine, row) for row, cosine in list(best.items())[:limit]]


def from_bytes(blob: bytes, dimensions: int) -> Vectors:
    """Return stored vectors."""
    return np.frombuffer(blob, np.float32).reshape(-1, dimensions)
