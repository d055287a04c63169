"""One pass over a collection: the log follows the folder, and the index follows the log.

What a pass has committed stays: the next one goes on from there, wherever this one was stopped.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from murmurate.core.errors import (
    DocumentUnreadableError,
    LogCorruptError,
    WorkerUnreachableError,
)
from murmurate.core.ports import Entry, Log, Span
from murmurate.core.types import Frozen
from murmurate.knowledge.changes import (
    FILE_BYTES_MAX,
    Known,
    changes,
    document_id,
    index_changes,
)
from murmurate.knowledge.ports import Document, FileSeen, Library, Problem

FILES_MAX = 10_000
PROBLEMS_MAX = 1_000
BATCH_DOCUMENTS = 32
BATCH_CHARS = 1_000_000
STATE_WAIT_S = 1.0

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
    """How far a sync is: `done` of `total` in this step; `path` and `problem` of the last file."""

    collection: str
    step: Step
    done: int
    total: int
    path: str | None = None
    problem: str | None = None


@dataclass(slots=True)
class Collection:
    """What the server knows of one tenant's collection; `known` is by path, None until read."""

    known: dict[str, Known] | None = None
    changes: int = 0
    settled: bool = False
    doubts: int = 0
    """How often searches may have missed something while `changes` stood still."""
    running: bool = False
    fault: str | None = None
    problems: list[Problem] = field(default_factory=list[Problem])
    touched_ns: dict[str, int] = field(default_factory=dict[str, int])
    """Times of change of files that were rewritten with the same content."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def report(self, problem: Problem) -> None:
        """Note what is wrong with a file; beyond `PROBLEMS_MAX` the first ones say enough."""
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(problem)


class Ingest:
    """One pass over one collection."""

    def __init__(
        self, library: Library, log: Log, *, tenant: str, name: str, state: Collection
    ) -> None:
        self._library = library
        self._log = log
        self._tenant = tenant
        self._name = name
        self._state = state
        self._waiting: list[Document] = []
        self._waiting_chars = 0

    async def steps(self, folder: str, span: Span) -> AsyncGenerator[Progress]:
        """Make index, log and folder equal, in this order of trust."""
        known = self._state.known
        if known is None:
            known = self._state.known = await self._read_log()
        async with aclosing(self._index_the_log(known)) as steps:
            async for step in steps:
                yield step
        listing = await self._library.listing(folder, files_max=FILES_MAX)
        self._state.problems = list(listing.problems)[:PROBLEMS_MAX]
        files = self._untouched(listing.files, known)
        plan = changes(msgspec.structs.replace(listing, files=files), known)
        for problem in plan.problems:
            self._state.report(problem)
        await self._drop(plan.drop)
        async with aclosing(self._read(folder, plan.read)) as steps:
            async for step in steps:
                yield step
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
        plan = index_changes(known.values(), held)
        if plan.put or plan.drop:
            self._state.settled = False
            self._state.doubts += 1
        if plan.drop:
            await self._library.drop(self._tenant, self._name, plan.drop)
        for done, document in enumerate(plan.put, start=1):
            stream = self._stream(document.id)
            async with aclosing(
                self._log.read(self._tenant, stream, after=document.seq - 1)
            ) as entries:
                async for entry in entries:
                    if entry.kind == PUT:
                        body = msgspec.msgpack.decode(entry.body, type=DocumentBody)
                        await self._index(
                            Document(document.id, body.path, body.title, body.sha256, body.text)
                        )
            yield self._progress(Step.INDEX, done, len(plan.put), path=document.path)
        await self._flush()

    def _untouched(
        self, files: Sequence[FileSeen], known: Mapping[str, Known]
    ) -> tuple[FileSeen, ...]:
        """Return the files, with the known time for those whose new time brought nothing new."""
        return tuple(
            FileSeen(file.path, file.size, known[file.path].mtime_ns)
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
        """Read changed files one at a time; a broken one is reported and the others go on."""
        for done, file in enumerate(files, start=1):
            problem = None
            try:
                await self._read_one(folder, file.path)
            except DocumentUnreadableError as error:
                problem = error.detail.removeprefix(f"{file.path}: ")
            except WorkerUnreachableError:
                problem = "the library process broke off while reading it"
                # Raises when it is gone for good, rather than after every further file.
                await self._library.state(self._tenant, self._name, wait_s=0.0)
            if problem is not None:
                self._state.report(Problem(file.path, problem))
            yield self._progress(Step.READ, done, len(files), path=file.path, problem=problem)
        await self._flush()

    async def _read_one(self, folder: str, path: str) -> None:
        found = await self._library.extract(folder, path, bytes_max=FILE_BYTES_MAX)
        assert self._state.known is not None
        before = self._state.known.get(path)
        if before is not None and before.sha256 == found.sha256:
            self._state.touched_ns[path] = found.mtime_ns
            return
        id_ = document_id(self._name, path)
        body = DocumentBody(path, found.sha256, found.size, found.mtime_ns, found.title, found.text)
        [seq] = await self._log.append([self._entry(id_, PUT, msgspec.msgpack.encode(body))])
        known = Known(id_, path, found.sha256, found.size, found.mtime_ns, seq)
        self._committed(path, known)
        # The log keeps what stands in the folder now, not every state that it ever had.
        await self._log.forget(self._tenant, self._stream(id_), before=seq)
        await self._index(Document(id_, path, found.title, found.sha256, found.text))

    async def _index(self, document: Document) -> None:
        self._waiting.append(document)
        self._waiting_chars += len(document.text)
        if len(self._waiting) >= BATCH_DOCUMENTS or self._waiting_chars >= BATCH_CHARS:
            await self._flush()

    async def _flush(self) -> None:
        if self._waiting:
            await self._library.put(self._tenant, self._name, self._waiting)
            self._waiting, self._waiting_chars = [], 0

    async def _embedded(self) -> AsyncGenerator[Progress]:
        """Wait for the vectors: searches find more with each."""
        while True:
            state = await self._library.state(self._tenant, self._name, wait_s=STATE_WAIT_S)
            if not state.chunks_pending:
                self._state.settled = True
                return
            done = state.chunks - state.chunks_pending
            yield self._progress(Step.EMBED, done, state.chunks)

    def _committed(self, path: str, known: Known | None) -> None:
        """Note a change that the log has acknowledged."""
        assert self._state.known is not None
        self._state.known.pop(path, None)
        self._state.touched_ns.pop(path, None)
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
    ) -> Progress:
        return Progress(self._name, step, done, total, path, problem)
