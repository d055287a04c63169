"""One pass over a collection: the log follows the folder, and the index follows the log.

What a pass has committed stays: the next one goes on from there, wherever this one was stopped.
"""

# Over 400 lines: one pass over a collection is one story, told from top to bottom.

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice

import msgspec

from murmurate.core.errors import (
    DocumentUnreadableError,
    LogCorruptError,
    MurmurateError,
    WorkerUnreachableError,
)
from murmurate.core.ports import Entry, Log, Span
from murmurate.core.types import Frozen
from murmurate.knowledge.changes import Known, changes, document_id, index_changes, renamed
from murmurate.knowledge.indexing import BATCH_CHARS, BATCH_DOCUMENTS, Batch, Indexing
from murmurate.knowledge.ports import Document, Extracted, FileSeen, Library, LibraryState, Problem
from murmurate.knowledge.rules import Rules

PROBLEMS_MAX = 1_000
READ_AHEAD = 8
"""Files that are read while others are committed and indexed."""
STATE_WAIT_S = 1.0
UNINDEXED_S = 3600.0
"""When the index gets a document again that it could not take, though it has not changed."""
LOOK_S = 2.0
"""How often the index is asked how far it is while files are read."""

PUT = "doc.put"
DROP = "doc.drop"


class DocumentBody(msgspec.Struct, frozen=True):
    """The body of a `doc.put` entry, as msgpack."""

    path: str
    sha256: str
    size: int
    mtime_ns: int
    title: str
    text: str


class _Facts(msgspec.Struct, frozen=True):
    """A `doc.put` body without its text, which is skipped and not copied."""

    path: str
    sha256: str
    size: int
    mtime_ns: int


class DropBody(msgspec.Struct, frozen=True):
    """The body of a `doc.drop` entry, as msgpack."""

    path: str


class Step(StrEnum):
    """What a sync is doing."""

    INDEX = "index"
    READ = "read"
    EMBED = "embed"
    DONE = "done"


class Progress(Frozen, frozen=True):
    """How far a sync is: `done` of `total` in this step; `path` and `problem` of the last file.

    In the steps `index` and `read` files are counted, in `embed` chunks, in `done` documents.
    `unchanged` files were not read, `failed` ones could not be; `bytes` were read of `bytes_total`.
    `chunks` and `embedded` are those of the whole collection, as last heard. `left_s` estimates
    the rest of this step, None while there is nothing to go by.
    """

    collection: str
    step: Step
    done: int
    total: int
    path: str | None = None
    problem: str | None = None
    unchanged: int = 0
    failed: int = 0
    bytes: int = 0
    bytes_total: int = 0
    chunks: int = 0
    embedded: int = 0
    left_s: float | None = None


@dataclass(frozen=True, slots=True)
class Unindexed:
    """A document that the index could not take as it is, and until when it is left out."""

    sha256: str
    problem: Problem
    until_s: float


@dataclass(slots=True)
class Collection:
    """What the server knows of one tenant's collection; `known` is by path, None until read."""

    known: dict[str, Known] | None = None
    changes: int = 0
    settled: bool = False
    doubts: int = 0
    """How often searches may have missed something while `changes` stood still."""
    running: bool = False
    synced_ms: int | None = None
    """When the last sync that went through ended."""
    fault: str | None = None
    problems: list[Problem] = field(default_factory=list[Problem])
    touched_ns: dict[str, int] = field(default_factory=dict[str, int])
    """Times of change of files that were rewritten with the same content."""
    broken: dict[str, tuple[FileSeen, Problem]] = field(
        default_factory=dict[str, tuple[FileSeen, Problem]]
    )
    """Files that could not be read as they are; they are tried again when they have changed."""
    unindexed: dict[str, "Unindexed"] = field(default_factory=dict[str, "Unindexed"])
    """By path: documents of the log that the index could not take."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def report(self, problem: Problem) -> None:
        """Note what is wrong with a file; beyond `PROBLEMS_MAX` the first ones say enough."""
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(problem)


class Ingest:
    """One pass over one collection."""

    def __init__(
        self,
        library: Library,
        log: Log,
        *,
        tenant: str,
        name: str,
        state: Collection,
        rules: Rules,
        now_s: Callable[[], float],
    ) -> None:
        self._library = library
        self._log = log
        self._tenant = tenant
        self._name = name
        self._state = state
        self._rules = rules
        self._now_s = now_s
        self._tally = _Tally(now_s())
        self._passing: set[str] = set()
        """Files that could not be read for a reason that may be gone at the next sync."""
        self._indexing = Indexing(library, tenant=tenant, name=name, on_refused=self._left_out)

    async def steps(self, folder: str, span: Span) -> AsyncGenerator[Progress]:
        """Make index, log and folder equal, in this order of trust."""
        try:
            async with aclosing(self._steps(folder, span)) as steps:
                async for step in steps:
                    yield step
        finally:
            await self._indexing.close()

    async def _steps(self, folder: str, span: Span) -> AsyncGenerator[Progress]:
        known = self._state.known
        if known is None:
            known = self._state.known = await self._read_log()
        async with aclosing(self._index_the_log(known)) as steps:
            async for step in steps:
                yield step
        listing = await self._library.listing(folder, self._rules)
        self._state.problems = list(listing.problems)[:PROBLEMS_MAX]
        files = self._untouched(self._unbroken(listing.files), known)
        plan = changes(
            msgspec.structs.replace(listing, files=files),
            known,
            kept=self._state.broken,
            file_bytes_max=self._rules.file_bytes_max,
        )
        listed = {file.path for file in listing.files}
        unindexed = [it.problem for path, it in self._state.unindexed.items() if path in listed]
        for problem in (*plan.problems, *unindexed):
            self._state.report(problem)
        self._tally.unchanged = plan.unchanged
        self._tally.failed = len(self._state.problems)
        # A file that has only been renamed lends its vectors to its new name before it goes.
        moved, gone = renamed(plan)
        await self._drop(gone)
        async with aclosing(self._read(folder, plan.read)) as steps:
            async for step in steps:
                yield step
        await self._drop(moved)
        async with aclosing(self._embedded()) as steps:
            async for step in steps:
                yield step
        span.note(read=len(plan.read), dropped=len(plan.drop), problems=len(self._state.problems))
        yield self._progress(Step.DONE, len(known), len(known))

    async def _read_log(self) -> dict[str, Known]:
        """Return the documents that the log holds now, by path."""
        known: dict[str, Known] = {}
        changes_seen = 0
        prefix = f"doc/{self._name}/"
        async with aclosing(self._log.streams(self._tenant, prefix)) as streams:
            infos = [info async for info in streams]
        for info in infos:
            changes_seen += info.head
            # One that is damaged is unknown: its file is read again, and takes its place.
            with suppress(LogCorruptError):
                async with aclosing(
                    self._log.read(self._tenant, info.stream, after=info.head - 1)
                ) as entries:
                    async for entry in entries:
                        if entry.kind == PUT:
                            body = msgspec.msgpack.decode(entry.body, type=_Facts)
                            id_ = info.stream.removeprefix(prefix)
                            known[body.path] = Known(
                                id_, body.path, body.sha256, body.size, body.mtime_ns, entry.seq
                            )
        self._state.changes = changes_seen
        return known

    async def _index_the_log(self, known: Mapping[str, Known]) -> AsyncGenerator[Progress]:
        """Give the index what it lacks of the log, and take what it holds beyond."""
        held = await self._library.held(self._tenant, self._name)
        self._state.unindexed = {
            path: it
            for path, it in self._state.unindexed.items()
            if path in known and it.sha256 == known[path].sha256 and self._now_s() < it.until_s
        }
        plan = index_changes(known.values(), held, left_out=self._state.unindexed)
        if plan.put or plan.drop:
            self._state.settled = False
            self._state.doubts += 1
        if plan.drop:
            await self._library.drop(self._tenant, self._name, plan.drop)
        batch = Batch()
        for done, document in enumerate(plan.put, start=1):
            stream = self._stream(document.id)
            async with aclosing(
                self._log.read(self._tenant, stream, after=document.seq - 1)
            ) as entries:
                async for entry in entries:
                    if entry.kind == PUT:
                        body = msgspec.msgpack.decode(entry.body, type=DocumentBody)
                        batch.add(
                            Document(document.id, body.path, body.title, body.sha256, body.text)
                        )
            if batch.is_full:
                await self._indexing.put(batch.taken())
            yield self._progress(Step.INDEX, done, len(plan.put), path=document.path)
        await self._indexing.put(batch.taken())
        await self._indexing.done()

    def _unbroken(self, files: Sequence[FileSeen]) -> list[FileSeen]:
        """Leave out the files that were found to be broken and are still the same; report them."""
        now = {file.path: file for file in files}
        self._state.broken = {
            path: (file, problem)
            for path, (file, problem) in self._state.broken.items()
            if now.get(path) == file
        }
        for _, problem in self._state.broken.values():
            self._state.report(problem)
        return [file for file in files if file.path not in self._state.broken]

    def _untouched(
        self, files: Sequence[FileSeen], known: Mapping[str, Known]
    ) -> tuple[FileSeen, ...]:
        """Return the files, with the known time for those whose new time brought nothing new."""
        return tuple(
            msgspec.structs.replace(file, mtime_ns=known[file.path].mtime_ns)
            if file.path in known and self._state.touched_ns.get(file.path) == file.mtime_ns
            else file
            for file in files
        )

    async def _drop(self, documents: Sequence[Known]) -> None:
        """Forget documents whose files are gone: in the log first, then in the index."""
        for first in range(0, len(documents), BATCH_DOCUMENTS):
            batch = documents[first : first + BATCH_DOCUMENTS]
            entries = [
                self._entry(document.id, DROP, msgspec.msgpack.encode(DropBody(document.path)))
                for document in batch
            ]
            seqs = await self._log.append(entries)
            for document, seq in zip(batch, seqs, strict=True):
                self._committed(document.path, None)
                await self._log.forget(self._tenant, self._stream(document.id), before=seq)
            ids = [document.id for document in batch]
            await self._library.drop(self._tenant, self._name, ids)

    async def _read(self, folder: str, files: Sequence[FileSeen]) -> AsyncGenerator[Progress]:
        """Read changed files, some ahead; a broken one is reported and the others go on."""
        self._tally.begin(sum(file.size for file in files), self._now_s())
        ahead: deque[tuple[FileSeen, asyncio.Task[Extracted | Problem]]] = deque()
        upcoming = iter(files)
        batch: list[tuple[FileSeen, Extracted]] = []
        chars = done = 0
        try:
            while True:
                for file in islice(upcoming, READ_AHEAD - len(ahead)):
                    reading = asyncio.create_task(self._extracted(folder, file.path))
                    ahead.append((file, reading))
                if batch and (not ahead or len(batch) >= BATCH_DOCUMENTS or chars >= BATCH_CHARS):
                    documents = await self._commit(batch)
                    for file, _ in batch:
                        done += 1
                        yield self._after(file, done, len(files))
                    await self._indexing.put(documents)
                    await self._look()
                    batch, chars = [], 0
                if not ahead:
                    break
                file, reading = ahead.popleft()
                found = await reading
                if isinstance(found, Problem):
                    self._state.report(found)
                    is_passing = file.path in self._passing
                    if not is_passing and len(self._state.broken) < PROBLEMS_MAX:
                        self._state.broken[file.path] = (file, found)
                    self._tally.failed += 1
                    done += 1
                    yield self._after(file, done, len(files), problem=found.reason)
                else:
                    batch.append((file, found))
                    chars += len(found.text)
        finally:
            left = [reading for _, reading in ahead]
            for reading in left:
                reading.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        await self._indexing.done()

    async def _extracted(self, folder: str, path: str) -> Extracted | Problem:
        """Read one file, or say what is wrong with it."""
        bytes_max = self._rules.file_bytes_max
        for attempt in (1, 2):
            try:
                return await self._library.extract(folder, path, bytes_max=bytes_max)
            except DocumentUnreadableError as error:
                if error.retry_s is not None:
                    self._passing.add(path)
                return Problem(path, error.detail.removeprefix(f"{path}: "))
            except WorkerUnreachableError:
                # Raises when it is gone for good, rather than after every further file. Files that
                # were read side by side break off together: only the guilty one does so twice.
                await self._library.state(self._tenant, self._name, wait_s=0.0)
                if attempt == 1:
                    continue
        return Problem(path, "the library process broke off while reading it")

    async def _commit(self, batch: Sequence[tuple[FileSeen, Extracted]]) -> list[Document]:
        """Write what is new to the log, in one go; return what the index must get."""
        assert self._state.known is not None
        fresh: list[tuple[str, Extracted]] = []
        for file, found in batch:
            before = self._state.known.get(file.path)
            if before is not None and before.sha256 == found.sha256:
                self._state.touched_ns[file.path] = found.mtime_ns
            else:
                fresh.append((file.path, found))
        entries = [
            self._entry(document_id(self._name, path), PUT, _body(path, found))
            for path, found in fresh
        ]
        seqs = await self._log.append(entries) if entries else []
        documents: list[Document] = []
        for (path, found), seq in zip(fresh, seqs, strict=True):
            id_ = document_id(self._name, path)
            known = Known(id_, path, found.sha256, found.size, found.mtime_ns, seq)
            self._committed(path, known)
            # The log keeps what stands in the folder now, not every state that it ever had.
            if seq > 1:
                await self._log.forget(self._tenant, self._stream(id_), before=seq)
            documents.append(Document(id_, path, found.title, found.sha256, found.text))
        return documents

    def _left_out(self, document: Document, error: MurmurateError) -> None:
        """Note a document that the index cannot take: the others go on without it."""
        detail = error.detail.removeprefix(f"{document.path}: ")
        problem = Problem(document.path, f"can't be indexed: {detail}")
        until_s = self._now_s() + UNINDEXED_S
        self._state.unindexed[document.path] = Unindexed(document.sha256, problem, until_s)
        self._state.report(problem)
        self._tally.failed += 1

    async def _embedded(self) -> AsyncGenerator[Progress]:
        """Wait for the vectors: searches find more with each."""
        self._tally.begin(0, self._now_s())
        at_first: int | None = None
        while True:
            state = await self._library.state(self._tenant, self._name, wait_s=STATE_WAIT_S)
            self._tally.hear(state)
            if not state.chunks_pending:
                self._state.settled = True
                return
            done = state.chunks - state.chunks_pending
            at_first = done if at_first is None else at_first
            left_s = self._tally.left_s(
                done - at_first, state.chunks - at_first, now_s=self._now_s()
            )
            yield self._progress(Step.EMBED, done, state.chunks, left_s=left_s)

    async def _look(self) -> None:
        """Ask now and then how far the index is, to tell."""
        if self._now_s() - self._tally.heard_s >= LOOK_S:
            self._tally.heard_s = self._now_s()
            self._tally.hear(await self._library.state(self._tenant, self._name, wait_s=0.0))

    def _after(
        self, file: FileSeen, done: int, total: int, *, problem: str | None = None
    ) -> Progress:
        """Return how far the reading is after this file."""
        tally = self._tally
        tally.bytes += file.size
        left_s = tally.left_s(tally.bytes, tally.bytes_total, now_s=self._now_s())
        return self._progress(
            Step.READ, done, total, path=file.path, problem=problem, left_s=left_s
        )

    def _committed(self, path: str, known: Known | None) -> None:
        """Note a change that the log has acknowledged."""
        assert self._state.known is not None
        self._state.known.pop(path, None)
        self._state.touched_ns.pop(path, None)
        self._state.unindexed.pop(path, None)
        if known is not None:
            self._state.known[path] = known
        self._state.changes += 1
        self._state.settled = False

    def _stream(self, id_: str) -> str:
        return f"doc/{self._name}/{id_}"

    def _entry(self, id_: str, kind: str, body: bytes) -> Entry:
        return Entry(self._tenant, self._stream(id_), kind, body)

    def _progress(
        self,
        step: Step,
        done: int,
        total: int,
        *,
        path: str | None = None,
        problem: str | None = None,
        left_s: float | None = None,
    ) -> Progress:
        tally = self._tally
        return Progress(
            self._name,
            step,
            done,
            total,
            path=path,
            problem=problem,
            unchanged=tally.unchanged,
            failed=tally.failed,
            bytes=tally.bytes,
            bytes_total=tally.bytes_total,
            chunks=tally.chunks,
            embedded=tally.embedded,
            left_s=None if left_s is None else round(left_s, 1),
        )


@dataclass(slots=True)
class _Tally:
    """What a sync has seen so far, and since when; `heard_s` is when the index was last asked."""

    heard_s: float
    began_s: float = 0.0
    unchanged: int = 0
    failed: int = 0
    bytes: int = 0
    bytes_total: int = 0
    chunks: int = 0
    embedded: int = 0

    def begin(self, bytes_total: int, now_s: float) -> None:
        """Start the estimate of a step."""
        self.began_s = now_s
        self.bytes_total = bytes_total or self.bytes_total

    def hear(self, state: LibraryState) -> None:
        """Note how far the index is."""
        self.chunks, self.embedded = state.chunks, state.chunks - state.chunks_pending

    def left_s(self, done: float, total: float, *, now_s: float) -> float | None:
        """Return how long the rest takes at the pace so far."""
        passed_s = now_s - self.began_s
        return passed_s * (total - done) / done if done > 0 and passed_s > 0 else None


def _body(path: str, found: Extracted) -> bytes:
    return msgspec.msgpack.encode(
        DocumentBody(path, found.sha256, found.size, found.mtime_ns, found.title, found.text)
    )
