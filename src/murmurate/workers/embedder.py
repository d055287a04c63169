"""The library's embedder: MiniLM in this process, or the server that the configuration names."""

import asyncio
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, assert_never

from murmurate.adapters.minilm import BATCH, DIMENSIONS, GRAPH_VERSION, MiniLM, Question
from murmurate.config import EmbeddingsConfig, EmbeddingsEngine
from murmurate.core.clock import Clock
from murmurate.core.errors import EngineUnreachableError, MissingPartError
from murmurate.knowledge.words import is_mostly_latin
from murmurate.workers.boot import LibraryBoot

if TYPE_CHECKING:
    from murmurate.adapters.openai_embedder import OpenAIEmbedder

MINILM = f"minilm-int8-{GRAPH_VERSION}"
QUESTION_S = 3.0
"""How long a search waits for the vector of its question, before it goes on by words alone."""

PROBE = "How many numbers has a vector?"


class LibraryEmbedder(Protocol):
    """Makes vectors, as rows of a float32 array, and counts the tokens that it read."""

    identity: str
    """What stored vectors belong to: those of another identity are made anew."""

    dimensions: int
    pending_batch: int
    """Chunks embedded at a time: so many are made again after a kill, and closing waits for."""

    passage_prefix: str

    async def embed(self, texts: Sequence[str], threads: ThreadPoolExecutor) -> tuple[Any, int]:
        """Return one vector a text; blocking work is done in `threads`."""
        ...

    async def read(
        self, texts: Sequence[str], threads: ThreadPoolExecutor
    ) -> tuple[Any, list[Any] | None]:
        """Return one vector a text, and its tokens' states (see `late`) where there are any."""
        ...

    async def question(self, text: str, threads: ThreadPoolExecutor) -> Question:
        """Return what a question is compared by, soon or with an error of ours."""
        ...

    async def close(self) -> None:
        """Release what it holds."""
        ...


def knows(config: EmbeddingsConfig, text: str) -> bool:
    """Say whether this embedder's vectors mean anything for a text: MiniLM has English only."""
    return config.engine is not EmbeddingsEngine.MINILM or is_mostly_latin(text)


async def open_embedder(boot: LibraryBoot, clock: Clock) -> LibraryEmbedder:
    """Return the configured embedder, ready.

    `MissingPartError`: there is none, for good. Another error of ours: it may work later.
    """
    match boot.embeddings.engine:
        case EmbeddingsEngine.MINILM:
            return Local(await asyncio.to_thread(MiniLM, Path(boot.index)))
        case EmbeddingsEngine.OPENAI:
            return await Elsewhere.opened(boot, clock)
        case EmbeddingsEngine.NONE:
            raise MissingPartError("embeddings.engine is none")
        case _:
            assert_never(boot.embeddings.engine)


def identity(config: EmbeddingsConfig, dimensions: int) -> str:
    """Return what the vectors of the configured embedder belong to."""
    if config.engine is EmbeddingsEngine.MINILM:
        return MINILM
    # Not the question's prefix: no stored vector depends on it.
    parts = (config.url, config.model, str(dimensions), config.passage_prefix)
    return "openai " + " ".join(part or "-" for part in parts)


class Local:
    """MiniLM, computed here."""

    identity = MINILM
    dimensions = DIMENSIONS
    pending_batch = 16
    passage_prefix = ""

    def __init__(self, model: MiniLM) -> None:
        self._model = model

    async def embed(self, texts: Sequence[str], threads: ThreadPoolExecutor) -> tuple[Any, int]:
        """Return one vector a text. Other work of the threads comes in between."""
        import numpy as np  # noqa: PLC0415 - an extra

        made: list[Any] = [np.zeros((0, DIMENSIONS), np.float32)]
        tokens = 0
        loop = asyncio.get_running_loop()
        for first in range(0, len(texts), BATCH):
            batch = texts[first : first + BATCH]
            vectors, read = await loop.run_in_executor(threads, self._model.embed, batch)
            made.append(vectors)
            tokens += read
        return np.concatenate(made), tokens

    async def read(
        self, texts: Sequence[str], threads: ThreadPoolExecutor
    ) -> tuple[Any, list[Any] | None]:
        """Return one vector a text, and its tokens' states."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(threads, self._model.embed_with_states, texts)

    async def question(self, text: str, threads: ThreadPoolExecutor) -> Question:
        """Return the vector of a question, and its tokens' states."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(threads, self._model.question, text)

    async def close(self) -> None:
        """Nothing is held."""


class Elsewhere:
    """Another server, which may be slow, busy or away at any time."""

    pending_batch = 64

    def __init__(
        self, embedder: "OpenAIEmbedder", config: EmbeddingsConfig, dimensions: int
    ) -> None:
        self.dimensions = dimensions
        self.passage_prefix = config.passage_prefix
        self.identity = identity(config, dimensions)
        self._question_prefix = config.question_prefix
        self._embedder = embedder

    @classmethod
    async def opened(cls, boot: LibraryBoot, clock: Clock) -> "Elsewhere":
        """Ask for one vector, to learn its size and that there is somebody."""
        # aiohttp takes a third of a second and 20 MB, which the built-in embedder does not need.
        from murmurate.adapters.openai_embedder import OpenAIEmbedder  # noqa: PLC0415

        assert boot.remote is not None, "the supervisor tells how to reach it"
        chance = random.Random()  # noqa: S311 - spreads retries, no secret
        embedder = OpenAIEmbedder(boot.embeddings, boot.remote, clock=clock, chance=chance)
        try:
            made = await embedder.embed([PROBE])
        except BaseException:
            await embedder.close()
            raise
        return cls(embedder, boot.embeddings, len(made.vectors[0]))

    async def embed(self, texts: Sequence[str], threads: ThreadPoolExecutor) -> tuple[Any, int]:
        """Return one vector a text."""
        del threads  # nothing is computed here
        import numpy as np  # noqa: PLC0415 - an extra

        made = await self._embedder.embed(texts)
        shape = (len(texts), self.dimensions)
        return np.asarray(made.vectors, np.float32).reshape(shape), made.tokens

    async def read(
        self, texts: Sequence[str], threads: ThreadPoolExecutor
    ) -> tuple[Any, list[Any] | None]:
        """Return one vector a text; such servers tell nothing of single tokens."""
        vectors, _ = await self.embed(texts, threads)
        return vectors, None

    async def question(self, text: str, threads: ThreadPoolExecutor) -> Question:
        """Return the vector of a question within `QUESTION_S`."""
        try:
            async with asyncio.timeout(QUESTION_S):
                [vector], _ = await self.embed([self._question_prefix + text], threads)
        except TimeoutError as cause:
            raise EngineUnreachableError(
                f"{self._embedder.name} took longer than {QUESTION_S:g} s for a question", retry_s=1
            ) from cause
        return Question(vector, None, [])

    async def close(self) -> None:
        """Hang up."""
        await self._embedder.close()
