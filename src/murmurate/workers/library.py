"""The library worker: parsers, embedder and index, in a process that may crash and come back.

What it keeps under `index/` can be made again from the log. All changes of the index go through
one thread, in order; searches and the embedder run beside it.
"""

# Over 400 lines: which thread does what, and in which order, is decided in one place.

import asyncio
import os
import signal
import sqlite3
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import SubprocessError
from typing import TYPE_CHECKING, ParamSpec, TypeVar, assert_never

import msgspec

from murmurate.adapters.chunks import Changed, ChunkTable, Pending, is_damage
from murmurate.adapters.folder import fingerprint, listing
from murmurate.adapters.keywords import KeywordIndex, KeywordsDamagedError, Words
from murmurate.adapters.library import (
    Drop,
    Embed,
    Extract,
    Find,
    Fingerprint,
    Held,
    List,
    Put,
    State,
)
from murmurate.adapters.minilm import BATCH, DIMENSIONS, GRAPH_VERSION, MiniLM
from murmurate.adapters.parse import extract
from murmurate.adapters.parser import Parser
from murmurate.adapters.wire import serve
from murmurate.core.errors import MissingPartError, OverloadedError, WorkerUnreachableError
from murmurate.core.ports import Embeddings
from murmurate.knowledge.ports import Found, Hit, LibraryState, Term
from murmurate.knowledge.words import is_mostly_latin
from murmurate.workers.boot import LibraryBoot
from murmurate.workers.lifeline import boot, say_ready

if TYPE_CHECKING:
    from murmurate.adapters.vectors import VectorTable

SEARCH_THREADS = 2
SEARCHES_MAX = 64
"""Searches and embeddings at once, waiting ones included; more are refused."""
TEXTS_MAX = 2048
EMBEDDER_WAIT_S = 3.0
"""How long a search waits for an embedder that is still loading, before it goes on without."""
EMBEDDER = f"minilm-int8-{GRAPH_VERSION}"
CLOSER_LOOKS = 25
"""Of so many chunks of each search the single words are compared, too (about 10 ms)."""
PENDING_BATCH = 16
"""Chunks embedded at a time: so many are embedded again after a kill, and closing waits for."""
SWITCH_S = 0.0005
"""How long the embedder's thread may wait for another one that computes (5 ms by default): it asks
for the interpreter about forty times a second."""

LibraryMessage = List | Fingerprint | Extract | Held | Put | Drop | State | Find | Embed

_P = ParamSpec("_P")
_R = TypeVar("_R")
_M = TypeVar("_M")


@dataclass(frozen=True, slots=True)
class Made:
    """Chunks that were embedded, with vectors and token states by row: none in another language."""

    chunks: list[Pending]
    blobs: dict[int, tuple[bytes, bytes]]


class Meaning:
    """The loaded embedder and the vectors: there only where its packages are installed."""

    def __init__(self, folder: Path, table: ChunkTable) -> None:
        """Load both; blocks for a moment, or for seconds when the model's graph must be built."""
        self.model = MiniLM(folder)
        from murmurate.adapters import late, vectors  # noqa: PLC0415 - need numpy, an extra

        self._vectors, self._late = vectors, late
        self._table = table
        self.kept: VectorTable = vectors.VectorTable(DIMENSIONS)

    def load(self) -> None:
        """Read the stored vectors. Runs in the indexing thread, so that no change is missed."""
        self._table.use_embedder(EMBEDDER, DIMENSIONS)
        for row, tenant, collection, vectors in self._table.vectors():
            self._keep(row, tenant, collection, vectors)

    def change(self, tenant: str, collection: str, changed: Changed) -> None:
        """Follow a change of the chunk table. Runs in the indexing thread."""
        self.kept.remove(tenant, collection, changed.removed)
        for row, vectors in changed.vectors:
            self._keep(row, tenant, collection, vectors)

    def made(self, *, after: int) -> Made:
        """Make the vectors of the first chunks behind a row that have none.

        Runs in a thread of its own, so that the embedder never waits for changes of the index.
        """
        pending = self._table.pending(after=after, limit=PENDING_BATCH)
        # The model knows English only: what is mostly something else is found by its words.
        known = [chunk for chunk in pending if is_mostly_latin(" ".join(chunk.texts))]
        texts = [text for chunk in known for text in chunk.texts]
        vectors, states = self.model.embed_with_states(texts)
        blobs: dict[int, tuple[bytes, bytes]] = {chunk.row: (b"", b"") for chunk in pending}
        first = 0
        for chunk in known:
            own = slice(first, first + len(chunk.texts))
            packed = b"".join(self._late.pack(text) for text in states[own])
            blobs[chunk.row] = vectors[own].tobytes(), packed
            first += len(chunk.texts)
        return Made(pending, blobs)

    def keep(self, made: Made) -> None:
        """Write vectors down and search in them from now on. Runs in the indexing thread."""
        still_there = self._table.set_vectors([(row, *both) for row, both in made.blobs.items()])
        for chunk in made.chunks:
            if chunk.row in still_there:
                self._keep(chunk.row, chunk.tenant, chunk.collection, made.blobs[chunk.row][0])

    def _keep(self, row: int, tenant: str, collection: str, vectors: bytes) -> None:
        if vectors:  # none: not a language that the model knows
            self.kept.put(tenant, collection, row, self._vectors.from_bytes(vectors, DIMENSIONS))

    def find(
        self, message: Find, by_words: Sequence[int], terms: Mapping[str, float]
    ) -> tuple[dict[int, float], dict[int, float]]:
        """Return the cosines of the nearest rows and of those in `by_words`.

        And for the best of both, how well the single words meet (see `late`).
        """
        question = self.model.question(message.question)
        cosines = self.kept.nearest(
            message.tenant, message.collections, question.vector, limit=message.limit, also=by_words
        )
        nearest = sorted(cosines, key=lambda row: -cosines[row])[:CLOSER_LOOKS]
        states = self._table.states([*{*nearest, *by_words[:CLOSER_LOOKS]}])
        counted = self._late.weights(message.question, question.spans, terms)
        scores = self._late.similarities(question.states, counted, list(states.values()))
        return cosines, dict(zip(states, scores, strict=True))


class LibraryWorker:
    """Answers the messages of `adapters.library`."""

    def __init__(
        self,
        folder: Path,
        *,
        on_failure: Callable[[], None],
        embedder_wait_s: float = EMBEDDER_WAIT_S,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._words = Words(folder)
        self._table = ChunkTable(folder)
        self._keywords = KeywordIndex(folder, self._words)
        self._indexing = ThreadPoolExecutor(1, "indexing")
        self._searching = ThreadPoolExecutor(SEARCH_THREADS, "searching")
        self._reading = ThreadPoolExecutor(1, "reading")
        self._embedding = ThreadPoolExecutor(1, "embedding")
        self._parser = Parser()
        self._meaning: asyncio.Future[Meaning] = asyncio.get_running_loop().create_future()
        self._indexed_by: Meaning | None = None
        """As `_meaning`, but for the indexing thread: set when the stored vectors are loaded."""
        self._searches = 0
        self._caught_up = False
        self._work = asyncio.Event()
        self._settled = asyncio.Event()
        self.failure: BaseException | None = None
        self._on_failure = on_failure
        self._embedder_wait_s = embedder_wait_s
        self._tasks = [
            asyncio.create_task(self._catch_up()),
            asyncio.create_task(self._load_and_embed()),
        ]
        for task in self._tasks:
            task.add_done_callback(self._note)

    async def handle(self, message: LibraryMessage) -> object:
        """Answer one message."""
        match message:
            case List() | Fingerprint() | Extract():
                return await self._read(message)
            case Held():
                return await self._on(
                    self._indexing, self._table.held, message.tenant, message.collection
                )
            case Put():
                await self._on(self._indexing, self._put, message)
                self._has_work()
                return None
            case Drop():
                return await self._on(self._indexing, self._drop, message)
            case State():
                return await self._state(message)
            case Find():
                return await self._bounded(self._find, message)
            case Embed():
                return await self._bounded(self._embed, message)
            case _:
                assert_never(message)

    async def _read(self, message: List | Fingerprint | Extract) -> object:
        """Look into a folder of documents."""
        match message:
            case List():
                return await self._on(self._reading, listing, message.folder, message.rules)
            case Fingerprint():
                seen = await self._on(self._reading, fingerprint, message.folder, message.rules)
                return f"{self._table.birth()}/{seen}"
            case Extract():
                return await self._on(
                    self._reading,
                    extract,
                    message.folder,
                    message.path,
                    bytes_max=message.bytes_max,
                    parser=self._parser,
                )

    def _has_work(self) -> None:
        """Let the embedder know of new chunks, when there is one."""
        if not self._missing():
            self._settled.clear()
            self._work.set()

    async def close(self) -> None:
        """Stop after the batch that is under way, and close the files."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        pools = (self._reading, self._searching, self._embedding, self._indexing)
        for threads in pools:
            await asyncio.to_thread(threads.shutdown, wait=True, cancel_futures=True)
        self._parser.close()
        self._keywords.close()
        self._table.close()

    def _note(self, task: asyncio.Task[None]) -> None:
        """A part that broke takes the worker with it: started again, it goes on where it was."""
        if not task.cancelled() and task.exception() is not None:
            self.failure = task.exception()
            self._on_failure()

    async def _catch_up(self) -> None:
        """Build the keyword index anew when it misses what the chunk table has."""
        await self._on(self._indexing, self._rebuild_keywords)
        self._caught_up = True
        if self._words.was_needed():
            await asyncio.to_thread(self._words.load)

    def _rebuild_keywords(self) -> None:
        generation = self._table.generation()
        if self._keywords.generation() != generation:
            self._keywords.clear()
            self._keywords.add(self._table.lines())
            self._keywords.commit(generation)

    async def _load_and_embed(self) -> None:
        """Load the embedder, then give vectors to all chunks that have none, as they come."""
        try:
            meaning = await asyncio.to_thread(Meaning, self._folder, self._table)
            await self._on(self._indexing, self._load, meaning)
        except (MissingPartError, ImportError, OSError, SubprocessError) as cause:
            detail = cause.detail if isinstance(cause, MissingPartError) else str(cause)
            missing = MissingPartError(detail)
            self._meaning.set_exception(missing)
            self._meaning.exception()  # seen: whoever asks gets it again
            self._settled.set()
            sys.stderr.write(f"library: {missing}\n")
            return
        self._meaning.set_result(meaning)
        while True:
            self._work.clear()
            await self._embed_pending(meaning)
            if not self._work.is_set():
                self._settled.set()
                await self._work.wait()

    async def _embed_pending(self, meaning: Meaning) -> None:
        """Embed what has no vectors; while one batch is written down the next is embedded."""
        after = 0
        writing: asyncio.Future[None] | None = None
        while (made := await self._on(self._embedding, meaning.made, after=after)).chunks:
            after = made.chunks[-1].row
            if writing is not None:
                await writing
            writing = asyncio.ensure_future(self._on(self._indexing, meaning.keep, made))
        if writing is not None:
            await writing

    def _load(self, meaning: Meaning) -> None:
        meaning.load()
        self._indexed_by = meaning

    def _put(self, message: Put) -> None:
        """Put documents in place of their older versions."""
        changed = self._table.put(message.tenant, message.collection, message.documents)
        self._follow(message.tenant, message.collection, changed)

    def _drop(self, message: Drop) -> None:
        rows = self._table.drop(message.tenant, message.collection, message.ids)
        self._follow(message.tenant, message.collection, Changed(removed=rows))

    def _follow(self, tenant: str, collection: str, changed: Changed) -> None:
        """Bring the other indexes up to the chunk table."""
        if self._indexed_by is not None:
            self._indexed_by.change(tenant, collection, changed)
        self._keywords.remove(changed.removed)
        self._keywords.add(changed.added)
        self._keywords.commit(self._table.generation())

    async def _state(self, message: State) -> LibraryState:
        state = await self._state_now(message)
        if state.chunks_pending and message.wait_s > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(message.wait_s):
                    await self._settled.wait()
            state = await self._state_now(message)
        return state

    async def _state_now(self, message: State) -> LibraryState:
        counts = await self._on(
            self._searching, self._table.count, message.tenant, message.collection
        )
        missing = self._missing()
        size_bytes = await self._on(self._searching, self._size_bytes)
        is_loaded = self._meaning.done() and missing is None
        return LibraryState(
            counts.chunks,
            0 if missing else counts.pending,
            missing,
            embedder=EMBEDDER if is_loaded else None,
            dimensions=DIMENSIONS if is_loaded else None,
            index_bytes=size_bytes,
        )

    def _size_bytes(self) -> int:
        return self._table.size_bytes() + self._keywords.size_bytes()

    async def _find(self, message: Find) -> Found:
        # Whether what follows may miss something is judged before it begins.
        is_partial = not self._caught_up
        meaning: Meaning | None = None
        if is_mostly_latin(message.question):
            meaning, is_late = await self._meaning_in_time()
            is_partial = is_partial or is_late
        found = await self._on(self._searching, self._find_now, message, meaning)
        return msgspec.structs.replace(found, is_partial=is_partial)

    def _find_now(self, message: Find, meaning: Meaning | None) -> Found:
        asked = self._keywords.find(
            message.tenant, message.collections, message.question, limit=message.limit
        )
        scores = dict(asked.rows)
        cosines, closer = {}, {}
        if meaning is not None:
            cosines, closer = meaning.find(message, list(scores), dict(asked.terms))
        hits = [
            Hit(
                document=row.document,
                collection=row.collection,
                path=row.path,
                title=row.title,
                context=row.context,
                text=row.text,
                start=row.start,
                end=row.end,
                line_first=row.line_first,
                line_last=row.line_last,
                page=row.page,
                cosine=cosines.get(row.row),
                bm25=scores.get(row.row),
                late=closer.get(row.row),
            )
            for row in self._table.rows([*(scores.keys() | cosines.keys())])
        ]
        return Found(tuple(hits), tuple(Term(word, idf) for word, idf in asked.terms))

    async def _embed(self, message: Embed) -> Embeddings:
        meaning = await asyncio.shield(self._meaning)
        vectors: list[tuple[float, ...]] = []
        tokens = 0
        for first in range(0, len(message.texts), BATCH):  # searches come in between
            texts = message.texts[first : first + BATCH]
            made, read = await self._on(self._searching, meaning.model.embed, texts)
            vectors.extend(tuple(vector) for vector in made.tolist())
            tokens += read
        return Embeddings(tuple(vectors), tokens)

    async def _meaning_in_time(self) -> tuple[Meaning | None, bool]:
        """Return embedder and vectors where there are any, and whether they are still to come."""
        try:
            async with asyncio.timeout(self._embedder_wait_s):
                return await asyncio.shield(self._meaning), False
        except MissingPartError:
            return None, False
        except TimeoutError:
            return None, True

    def _missing(self) -> str | None:
        """Return why there is no embedder, None when there is or may be one."""
        if not self._meaning.done() or self._meaning.exception() is None:
            return None
        return str(getattr(self._meaning.exception(), "detail", ""))

    async def _bounded(self, answer: Callable[[_M], Awaitable[_R]], message: _M) -> _R:
        if self._searches >= SEARCHES_MAX:
            raise OverloadedError(f"{SEARCHES_MAX} searches wait already", retry_s=1)
        self._searches += 1
        try:
            return await answer(message)
        finally:
            self._searches -= 1

    async def _on(
        self,
        threads: ThreadPoolExecutor,
        step: Callable[_P, _R],
        *args: _P.args,
        **options: _P.kwargs,
    ) -> _R:
        """Run a blocking step in one of the thread pools."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(threads, lambda: step(*args, **options))
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            self._table.condemn()
            fault: Exception = error
        except KeywordsDamagedError as error:
            self._keywords.condemn()
            fault = error
        # Started again, the worker makes what is broken anew; the caller asks once more.
        self.failure = fault
        self._on_failure()
        raise WorkerUnreachableError("the index is damaged and is made anew") from fault


async def main() -> None:
    """Serve until SIGTERM."""
    boot_message = boot(LibraryBoot)
    sys.setswitchinterval(SWITCH_S)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's to handle
    worker = LibraryWorker(Path(boot_message.index), on_failure=stop.set)
    server = await serve(boot_message.socket, LibraryMessage, worker.handle)
    say_ready(pid=os.getpid())
    await stop.wait()
    server.close()
    await worker.close()
    if worker.failure is not None:
        traceback.print_exception(worker.failure)
    sys.stderr.flush()
    # At once: a model that is still being built in a thread must not hold the exit.
    os._exit(0 if worker.failure is None else 1)


if __name__ == "__main__":
    asyncio.run(main())
