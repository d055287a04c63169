"""Search by meaning inside the library worker: the embedder and the vectors that it made."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from murmurate.adapters.chunks import Changed, ChunkTable, Pending
from murmurate.adapters.library import Find
from murmurate.core.errors import MissingPartError
from murmurate.workers.embedder import LibraryEmbedder, Question

if TYPE_CHECKING:
    from murmurate.adapters.vectors import VectorTable

CLOSER_LOOKS = 25
"""Of so many chunks of each search the single words are compared, too (about 10 ms)."""


@dataclass(frozen=True, slots=True)
class Made:
    """What was made of a chunk: its vectors, and its tokens' states where the embedder has them."""

    vectors: bytes
    states: bytes


class Meaning:
    """The embedder and the vectors: there only where its packages are installed."""

    def __init__(self, embedder: LibraryEmbedder, table: ChunkTable) -> None:
        """Make room for vectors; `MissingPartError` where there is no numpy."""
        try:
            from murmurate.adapters import late, vectors  # noqa: PLC0415 - need numpy, an extra
        except ImportError as cause:
            raise MissingPartError("search by vectors needs numpy: pip install numpy") from cause

        self.embedder = embedder
        self._vectors, self._late = vectors, late
        self._table = table
        self.kept: VectorTable = vectors.VectorTable(embedder.dimensions)

    def load(self) -> None:
        """Read the stored vectors. Runs in the indexing thread, so that no change is missed."""
        self._table.use_embedder(self.embedder.identity)
        for row, tenant, collection, vectors in self._table.vectors():
            self._keep(row, tenant, collection, vectors)

    def change(self, tenant: str, collection: str, changed: Changed) -> None:
        """Follow a change of the chunk table. Runs in the indexing thread."""
        self.kept.remove(tenant, collection, changed.removed)
        for row, vectors in changed.vectors:
            self._keep(row, tenant, collection, vectors)

    def pending(self, *, after: int) -> list[Pending]:
        """Return the first chunks behind a row that have no vectors."""
        return self._table.pending(after=after, limit=self.embedder.pending_batch)

    async def made(self, chunks: Sequence[Pending], threads: ThreadPoolExecutor) -> list[Made]:
        """Return what the embedder makes of each chunk."""
        prefix = self.embedder.passage_prefix
        texts = [prefix + text for chunk in chunks for text in chunk.texts]
        vectors, states = await self.embedder.read(texts, threads)
        found: list[Made] = []
        first = 0
        for chunk in chunks:
            own = slice(first, first + len(chunk.texts))
            packed = b"".join(self._late.pack(text) for text in states[own]) if states else b""
            found.append(Made(vectors[own].tobytes(), packed))
            first += len(chunk.texts)
        return found

    def keep(self, pending: Sequence[Pending], made: Mapping[int, Made]) -> None:
        """Store the vectors of chunks, none for those without. Runs in the indexing thread."""
        nothing = Made(b"", b"")
        found = {chunk.row: made.get(chunk.row, nothing) for chunk in pending}
        # Meanwhile some may have been dropped: nobody would take them out of memory again.
        there = self._table.set_vectors([(r, one.vectors, one.states) for r, one in found.items()])
        for chunk in pending:
            if chunk.row in there:
                self._keep(chunk.row, chunk.tenant, chunk.collection, found[chunk.row].vectors)

    def _keep(self, row: int, tenant: str, collection: str, vectors: bytes) -> None:
        if vectors:  # none: not a language that the model knows, or a text that it refuses
            made = self._vectors.from_bytes(vectors, self.embedder.dimensions)
            self.kept.put(tenant, collection, row, made)

    def find(
        self,
        message: Find,
        question: Question,
        by_words: Sequence[int],
        rarity: Mapping[str, float],
    ) -> tuple[dict[int, float], dict[int, float]]:
        """Return the cosines of the nearest rows and of those in `by_words`.

        And for the best of both, how well the single words meet (see `late`), where the embedder
        has states of tokens.
        """
        cosines = self.kept.nearest(
            message.tenant, message.collections, question.vector, limit=message.limit, also=by_words
        )
        if question.states is None:
            return cosines, {}
        nearest = sorted(cosines, key=lambda row: -cosines[row])[:CLOSER_LOOKS]
        states = self._table.states([*{*nearest, *by_words[:CLOSER_LOOKS]}])
        weights = self._late.weights(message.question, question.spans, rarity)
        scores = self._late.similarities(question.states, weights, list(states.values()))
        return cosines, dict(zip(states, scores, strict=True))
