"""Search by meaning inside the library worker: the embedder and the vectors that it made."""

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from murmurate.adapters.chunks import ChunkTable, Pending
from murmurate.adapters.library import Find
from murmurate.core.errors import MissingPartError
from murmurate.workers.embedder import LibraryEmbedder

if TYPE_CHECKING:
    from murmurate.adapters.vectors import VectorTable


class Meaning:
    """The embedder and the vectors: there only where its packages are installed."""

    def __init__(self, embedder: LibraryEmbedder, table: ChunkTable) -> None:
        """Make room for vectors; `MissingPartError` where there is no numpy."""
        try:
            from murmurate.adapters import vectors  # noqa: PLC0415 - needs numpy, an extra
        except ImportError as cause:
            raise MissingPartError("search by vectors needs numpy: pip install numpy") from cause

        self.embedder = embedder
        self._vectors = vectors
        self._table = table
        self.kept: VectorTable = vectors.VectorTable(embedder.dimensions)

    def load(self) -> None:
        """Read the stored vectors. Runs in the indexing thread, so that no change is missed."""
        self._table.use_embedder(self.embedder.identity)
        for row, tenant, collection, vectors in self._table.vectors():
            if vectors:  # none: not a language that the model knows
                made = self._vectors.from_bytes(vectors, self.embedder.dimensions)
                self.kept.put(tenant, collection, row, made)

    def pending(self) -> list[Pending]:
        """Return some chunks that have no vectors. Runs in the indexing thread."""
        return self._table.pending(limit=self.embedder.pending_batch)

    async def made(self, chunks: Sequence[Pending], threads: ThreadPoolExecutor) -> list[Any]:
        """Return the vectors of each chunk."""
        prefix = self.embedder.passage_prefix
        texts = [prefix + text for chunk in chunks for text in chunk.texts]
        vectors, _ = await self.embedder.embed(texts, threads)
        found: list[Any] = []
        first = 0
        for chunk in chunks:
            found.append(vectors[first : first + len(chunk.texts)])
            first += len(chunk.texts)
        return found

    def keep(self, pending: Sequence[Pending], made: Mapping[int, Any]) -> None:
        """Store the vectors of chunks, none for those without. Runs in the indexing thread."""
        # Meanwhile some may have been dropped: nobody would take them out of memory again.
        there = {row.row for row in self._table.rows([chunk.row for chunk in pending])}
        blobs: list[tuple[int, bytes]] = []
        for chunk in pending:
            if chunk.row not in there:
                continue
            vectors = made.get(chunk.row)
            blobs.append((chunk.row, b"" if vectors is None else vectors.tobytes()))
            if vectors is not None:
                self.kept.put(chunk.tenant, chunk.collection, chunk.row, vectors)
        self._table.set_vectors(blobs)

    def nearest(
        self,
        message: Find,
        question: Any,  # noqa: ANN401 - an array, and numpy is an extra
        also: Collection[int],
    ) -> dict[int, float]:
        """Return the cosines of the nearest rows, and of the rows in `also`."""
        return self.kept.nearest(
            message.tenant, message.collections, question, limit=message.limit, also=also
        )
