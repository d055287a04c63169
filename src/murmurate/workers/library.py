"""The library worker: parsers, embedder and index, in a process that may crash and come back.

What it keeps under `index/` can be made again from the log. All changes of the index go through
one thread, in order; searches run beside it.
"""

import asyncio
import os
import signal
import sqlite3
import sys
import traceback
from collections.abc import Awaitable, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from subprocess import SubprocessError
from typing import TYPE_CHECKING, ParamSpec, TypeVar, assert_never

import msgspec

from murmurate.adapters import parse
from murmurate.adapters.chunks import ChunkTable
from murmurate.adapters.keywords import KeywordIndex, Words
from murmurate.adapters.library import Drop, Embed, Extract, Find, Held, List, Put, State
from murmurate.adapters.minilm import BATCH, DIMENSIONS, GRAPH_VERSION, MiniLM
from murmurate.adapters.wire import serve
from murmurate.core.errors import MissingPartError, OverloadedError
from murmurate.core.ports import Embeddings
from murmurate.knowledge.ports import Document, Found, Hit, LibraryState, Term
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
PENDING_BATCH = 8

LibraryMessage = List | Extract | Held | Put | Drop | State | Find | Embed

_P = ParamSpec("_P")
_R = TypeVar("_R")
_M = TypeVar("_M")


class Meaning:
    """The loaded embedder and the vectors: there only where its packages are installed."""

    def __init__(self, folder: Path, table: ChunkTable) -> None:
        """Load both; blocks for a moment, or for seconds when the model's graph must be built."""
        self.model = MiniLM(folder)
        from murmurate.adapters import vectors  # noqa: PLC0415 - needs numpy, an extra

        self._vectors = vectors
        self._table = table
        self.kept: VectorTable = vectors.VectorTable(DIMENSIONS)

    def load(self) -> None:
        """Read the stored vectors. Runs in the indexing thread, so that no change is missed."""
        self._table.use_embedder(EMBEDDER)
        for row, tenant, collection, vectors in self._table.vectors():
            if vectors:  # none: not a language that the model knows
                made = self._vectors.from_bytes(vectors, DIMENSIONS)
                self.kept.put(tenant, collection, row, made)

    def embed_pending(self) -> int:
        """Make the vectors of some chunks that have none; return how many."""
        pending = self._table.pending(limit=PENDING_BATCH)
        if not pending:
            return 0
        # The model knows English only: what is mostly something else is found by its words.
        known = [chunk for chunk in pending if is_mostly_latin(" ".join(chunk.texts))]
        made, _ = self.model.embed([text for chunk in known for text in chunk.texts])
        blobs = dict.fromkeys((chunk.row for chunk in pending), b"")
        first = 0
        for chunk in known:
            vectors = made[first : first + len(chunk.texts)]
            first += len(chunk.texts)
            blobs[chunk.row] = vectors.tobytes()
            self.kept.put(chunk.tenant, chunk.collection, chunk.row, vectors)
        self._table.set_vectors(list(blobs.items()))
        return len(pending)

    def nearest(self, message: Find, also: Collection[int]) -> dict[int, float]:
        """Return the cosines of the nearest rows, and of the rows in `also`."""
        [question], _ = self.model.embed([message.question])
        return self.kept.nearest(
            message.tenant, message.collections, question, limit=message.limit, also=also
        )


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
            case List():
                return await self._on(
                    self._reading, parse.listing, message.folder, files_max=message.files_max
                )
            case Extract():
                return await self._on(
                    self._reading,
                    parse.extract,
                    message.folder,
                    message.path,
                    bytes_max=message.bytes_max,
                )
            case Held():
                return await self._on(
                    self._indexing, self._table.held, message.tenant, message.collection
                )
            case Put():
                await self._change(
                    message.tenant,
                    message.collection,
                    [document.id for document in message.documents],
                    message.documents,
                )
                return None
            case Drop():
                await self._change(message.tenant, message.collection, message.ids, ())
                return None
            case State():
                return await self._state(message)
            case Find():
                return await self._bounded(self._find, message)
            case Embed():
                return await self._bounded(self._embed, message)
            case _:
                assert_never(message)

    async def close(self) -> None:
        """Stop after the batch that is under way, and close the files."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for threads in (self._reading, self._searching, self._indexing):
            await asyncio.to_thread(threads.shutdown, wait=True, cancel_futures=True)
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
            while await self._on(self._indexing, meaning.embed_pending):
                pass  # batch by batch, so that changes of the index get their turn
            if not self._work.is_set():
                self._settled.set()
                await self._work.wait()

    def _load(self, meaning: Meaning) -> None:
        meaning.load()
        self._indexed_by = meaning

    async def _change(
        self, tenant: str, collection: str, ids: Sequence[str], documents: Sequence[Document]
    ) -> None:
        """Put documents in place of those ids; none: drop them."""
        await self._on(self._indexing, self._replace, tenant, collection, ids, documents)
        if documents and not self._missing():
            self._settled.clear()
            self._work.set()

    def _replace(
        self, tenant: str, collection: str, ids: Sequence[str], documents: Sequence[Document]
    ) -> None:
        rows = self._table.drop(tenant, collection, ids)
        lines = self._table.put(tenant, collection, documents)
        if self._indexed_by is not None:
            self._indexed_by.kept.remove(tenant, collection, rows)
        self._keywords.remove(rows)
        self._keywords.add(lines)
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
        chunks, pending = await self._on(
            self._searching, self._table.count, message.tenant, message.collection
        )
        missing = self._missing()
        return LibraryState(chunks, 0 if missing else pending, missing)

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
        cosines = {} if meaning is None else meaning.nearest(message, scores.keys())
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
                cosine=cosines.get(row.row),
                bm25=scores.get(row.row),
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
        return await loop.run_in_executor(threads, lambda: step(*args, **options))


async def main() -> None:
    """Serve until SIGTERM."""
    boot_message = boot(LibraryBoot)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's to handle
    try:
        worker = LibraryWorker(Path(boot_message.index), on_failure=stop.set)
    except (OSError, sqlite3.Error) as cause:  # such as a full disk: the supervisor tries again
        sys.stderr.write(f"murmurate: {boot_message.index} can't be opened: {cause}\n")
        sys.exit(1)
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
