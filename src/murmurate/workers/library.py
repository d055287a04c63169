"""The library worker: parsers, embedder and index, in a process that may crash and come back.

What it keeps under `index/` can be made again from the log. All changes of the index go through
one thread, in order; searches and the embedder run beside it.
"""

# Over 400 lines: what the index is and what it does while a part of it is away belong together.
import asyncio
import os
import signal
import sqlite3
import sys
import traceback
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from subprocess import SubprocessError
from typing import ParamSpec, TypeVar, assert_never

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
from murmurate.adapters.parse import extract
from murmurate.adapters.parser import Parser
from murmurate.adapters.wire import serve
from murmurate.core.clock import Clock, SystemClock
from murmurate.core.errors import (
    BadRequestError,
    ConfigError,
    EngineFailedError,
    EngineUnreachableError,
    MissingPartError,
    MurmurateError,
    OverloadedError,
    WorkerUnreachableError,
)
from murmurate.core.ports import Embeddings
from murmurate.knowledge.ports import Found, Hit, LibraryState, Term
from murmurate.workers.boot import LibraryBoot
from murmurate.workers.embedder import PROBE, Question, knows, open_embedder
from murmurate.workers.lifeline import beating, boot, say_ready
from murmurate.workers.meaning import Made, Meaning

SEARCH_THREADS = 2
SEARCHES_MAX = 64
"""Searches and embeddings at once, waiting ones included; more are refused."""
TEXTS_MAX = 2048
EMBEDDER_WAIT_S = 3.0
"""How long a search waits for an embedder that is still loading, before it goes on without."""
PAUSE_S = 1.0
"""Between two attempts to reach an embedder that does not work; twice as long each time."""

PAUSE_S_MAX = 60.0
REST_S = 5.0
"""How long searches go by words at once, after the embedder failed one."""
SWITCH_S = 0.0005
"""How long the embedder's thread may wait for another one that computes (5 ms by default): it asks
for the interpreter about forty times a second."""

LibraryMessage = List | Fingerprint | Extract | Held | Put | Drop | State | Find | Embed

_P = ParamSpec("_P")
_R = TypeVar("_R")
_M = TypeVar("_M")


class LibraryWorker:
    """Answers the messages of `adapters.library`."""

    def __init__(
        self,
        boot: LibraryBoot,
        *,
        on_failure: Callable[[], None],
        embedder_wait_s: float = EMBEDDER_WAIT_S,
        clock: Clock | None = None,
    ) -> None:
        folder = Path(boot.index)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._boot = boot
        self._clock = clock or SystemClock()
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
        self._trouble: str | None = None
        """Why chunks get no vectors just now, though they may later. A question that fails is not
        meant: it may be one that took too long, while all chunks still get theirs."""
        self._resting_until_s = 0.0
        """Until then no search waits for an embedder that has failed."""
        self._behind = False
        """Whether chunks went without vectors because of trouble, and still do."""
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
        """Answer one message. Out of memory, the worker ends: a fresh one has all of it again."""
        try:
            return await self._handle(message)
        except MemoryError as error:
            self.failure = error
            self._on_failure()
            raise

    async def _handle(self, message: LibraryMessage) -> object:
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
        """Let the embedder know of new chunks."""
        self._work.set()
        if not self._missing():
            self._settled.clear()

    async def close(self) -> None:
        """Stop after the batch that is under way, and close the files."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        pools = (self._reading, self._searching, self._embedding, self._indexing)
        for threads in pools:
            await asyncio.to_thread(threads.shutdown, wait=True, cancel_futures=True)
        self._parser.close()
        if self._indexed_by is not None:
            await self._indexed_by.embedder.close()
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
            meaning = await self._opened()
        except (MissingPartError, ConfigError, ImportError, OSError, SubprocessError) as cause:
            detail = cause.detail if isinstance(cause, MurmurateError) else str(cause)
            missing = MissingPartError(detail)
            self._meaning.set_exception(missing)
            self._meaning.exception()  # seen: whoever asks gets it again
            self._trouble = None
            self._settled.set()
            sys.stderr.write(f"library: {missing}\n")
            return
        self._meaning.set_result(meaning)
        while True:
            self._work.clear()
            await self._embed_all(meaning)
            if not self._work.is_set():
                self._settled.set()
                await self._work.wait()

    async def _opened(self) -> Meaning:
        """Return embedder and vectors, as soon as the embedder answers."""
        pause_s = PAUSE_S
        while True:
            try:
                embedder = await open_embedder(self._boot, self._clock)
            except (MissingPartError, ConfigError):
                raise
            except MurmurateError as error:
                self._stumbled(error)
                await self._clock.sleep(pause_s)
                pause_s = min(pause_s * 2, PAUSE_S_MAX)
            else:
                meaning = Meaning(embedder, self._table)
                await self._on(self._indexing, self._load, meaning)
                self._trouble = None
                return meaning

    def _load(self, meaning: Meaning) -> None:
        meaning.load()
        self._indexed_by = meaning

    async def _embed_all(self, meaning: Meaning) -> None:
        """Give vectors to all chunks that have none, however long the embedder is away.

        While one batch is written down the next is embedded.
        """
        pause_s = PAUSE_S
        after = 0
        writing: asyncio.Future[None] | None = None
        while pending := await self._on(self._embedding, meaning.pending, after=after):
            chunks = [c for c in pending if knows(self._boot.embeddings, " ".join(c.texts))]
            try:
                made = await self._vectors_of(meaning, chunks)
            except MurmurateError as error:
                self._stumbled(error)
                await self._clock.sleep(pause_s)
                pause_s = min(pause_s * 2, PAUSE_S_MAX)
                continue
            if self._trouble is not None:
                self._settled.clear()  # trouble had set it: there is something to wait for again
            pause_s, self._trouble = PAUSE_S, None
            after = pending[-1].row
            if writing is not None:
                await writing
            writing = asyncio.ensure_future(self._on(self._indexing, meaning.keep, pending, made))
        if writing is not None:
            await writing
        self._behind, self._trouble = False, None

    async def _vectors_of(self, meaning: Meaning, chunks: Sequence[Pending]) -> dict[int, Made]:
        """Return vectors by row; a chunk that the embedder refuses has none, and stops no other."""
        try:
            made = await meaning.made(chunks, self._embedding) if chunks else []
            return {chunk.row: one for chunk, one in zip(chunks, made, strict=True)}
        except BadRequestError as error:
            if len(chunks) == 1:
                await self._refuses_not_all(meaning)
                sys.stderr.write(f"library: a passage goes without a vector: {error}\n")
                return {}
        found: dict[int, Made] = {}
        for chunk in chunks:
            found.update(await self._vectors_of(meaning, [chunk]))
        return found

    async def _refuses_not_all(self, meaning: Meaning) -> None:
        """Raise when it is not the text: a server that refuses everything must not mark it all."""
        try:
            await meaning.embedder.embed([PROBE], self._embedding)
        except BadRequestError as error:
            raise EngineFailedError(f"every text is refused: {error.detail}") from error

    def _stumbled(self, error: MurmurateError) -> None:
        """Note that the embedder does not work: until it does, search goes by words alone."""
        if self._trouble is None:
            sys.stderr.write(f"library: search goes by words alone: {error}\n")
        self._trouble = error.detail
        self._behind = True
        self._settled.set()  # whoever waits for vectors would wait for as long as that lasts

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
        # Until they are loaded nobody knows whose vectors these are: asked before they are counted.
        used = self._indexed_by
        counts = await self._on(
            self._searching, self._table.count, message.tenant, message.collection
        )
        missing = self._missing()
        pending = counts.chunks if used is None else counts.pending
        return LibraryState(
            counts.chunks,
            0 if missing else pending,
            missing,
            embedder=None if used is None else used.embedder.identity,
            dimensions=None if used is None else used.embedder.dimensions,
            index_bytes=await self._on(self._searching, self._size_bytes),
        )

    def _size_bytes(self) -> int:
        return self._table.size_bytes() + self._keywords.size_bytes()

    async def _find(self, message: Find) -> Found:
        # Whether what follows may miss something is judged before it begins.
        is_partial = not self._caught_up or self._behind
        meaning: Meaning | None = None
        question: Question | None = None
        if knows(self._boot.embeddings, message.question):
            meaning, is_late = await self._meaning_in_time()
            if meaning is not None:
                question, is_late = await self._vector_of(message.question, meaning)
            is_partial = is_partial or is_late
        asked = None if meaning is None or question is None else (meaning, question)
        found = await self._on(self._searching, self._find_now, message, asked)
        return msgspec.structs.replace(found, is_partial=is_partial)

    async def _vector_of(self, question: str, meaning: Meaning) -> tuple[Question | None, bool]:
        """Return the question's vector, None where there is none; and whether there may be later.

        A search is answered by words alone rather than not at all.
        """
        if self._clock.now_s() < self._resting_until_s:
            return None, True
        try:
            vector = await meaning.embedder.question(question, self._searching)
        except BadRequestError:  # such as one that is too long: asked again, it will be again
            return None, False
        except MurmurateError:
            self._resting_until_s = self._clock.now_s() + REST_S
            return None, True
        return vector, False

    def _find_now(self, message: Find, asked_by: tuple[Meaning, Question] | None) -> Found:
        asked = self._keywords.find(
            message.tenant, message.collections, message.question, limit=message.limit
        )
        scores = dict(asked.rows)
        cosines: dict[int, float] = {}
        closer: dict[int, float] = {}
        if asked_by is not None:
            meaning, question = asked_by
            cosines, closer = meaning.find(message, question, list(scores), dict(asked.terms))
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
        if self._trouble is not None and not self._meaning.done():
            raise EngineUnreachableError(self._trouble, retry_s=PAUSE_S)
        meaning = await asyncio.shield(self._meaning)
        made, tokens = await meaning.embedder.embed(message.texts, self._searching)
        return Embeddings(tuple(tuple(vector) for vector in made.tolist()), tokens)

    async def _meaning_in_time(self) -> tuple[Meaning | None, bool]:
        """Return embedder and vectors where there are any, and whether they are still to come."""
        if self._trouble is not None and not self._meaning.done():
            return None, True
        try:
            async with asyncio.timeout(self._embedder_wait_s):
                return await asyncio.shield(self._meaning), False
        except MissingPartError:
            return None, False
        except TimeoutError:
            return None, True

    def _missing(self) -> str | None:
        """Return why there are no new vectors, None when there are or may be some."""
        if not self._meaning.done() or self._meaning.exception() is None:
            return self._trouble
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
    try:
        worker = LibraryWorker(boot_message, on_failure=stop.set)
    except (OSError, sqlite3.Error) as cause:  # such as a full disk: the supervisor tries again
        sys.stderr.write(f"murmurate: {boot_message.index} can't be opened: {cause}\n")
        sys.exit(1)
    server = await serve(boot_message.socket, LibraryMessage, worker.handle)
    say_ready(pid=os.getpid())
    heart = asyncio.create_task(beating())
    await stop.wait()
    heart.cancel()
    server.close()
    await worker.close()
    if worker.failure is not None:
        traceback.print_exception(worker.failure)
    sys.stderr.flush()
    # At once: a model that is still being built in a thread must not hold the exit.
    os._exit(0 if worker.failure is None else 1)


if __name__ == "__main__":
    asyncio.run(main())
