"""The collections of documents: read from their folders, kept in the log, searched in the library.

The log holds each document's text; the library's index follows it and can always be made again.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from hashlib import blake2b
from itertools import count

from murmurate.core.clock import Clock
from murmurate.core.errors import MurmurateError, NotFoundError, WorkerUnreachableError
from murmurate.core.ports import Log, Tracer
from murmurate.core.types import Frozen, Passage, TraceRef
from murmurate.knowledge.ingest import Collection, Ingest, Progress, Step
from murmurate.knowledge.ports import Library, Problem
from murmurate.knowledge.rank import CANDIDATES, ranked
from murmurate.knowledge.rules import Rules
from murmurate.knowledge.watch import Watch


class CollectionStatus(Frozen, frozen=True):
    """The state of a collection. `fault` stopped its last sync; `problems` are single files.

    `synced_ms` is when the last sync that went through ended (Unix time), None before the first.
    `embedder` and `dimensions` are None while it loads, or where there is none. `index_bytes` is
    the size of the whole index on disk, which all collections of all tenants share; None for who
    may not know that.
    """

    collection: str
    state: str
    documents: int
    chunks: int
    chunks_pending: int
    search: str
    fault: str | None
    problems: tuple[Problem, ...]
    watched: bool = False
    synced_ms: int | None = None
    embedder: str | None = None
    dimensions: int | None = None
    index_bytes: int | None = 0


class Source(Frozen, frozen=True):
    """Where a collection's documents come from, which of them, and who may see them."""

    folder: str
    rules: Rules = Rules()
    watch: bool = False
    tenants: tuple[str, ...] = ("default",)


class Collections:
    """The `Knowledge` of a server, and the syncs that fill it from folders."""

    def __init__(
        self,
        library: Library,
        *,
        log: Log,
        clock: Clock,
        tracer: Tracer,
        sources: Mapping[str, Source],
    ) -> None:
        self._library = library
        self._log = log
        self._clock = clock
        self._tracer = tracer
        self._sources = dict(sources)
        self._began_ms = clock.unix_ms()
        self._collections: dict[tuple[str, str], Collection] = {}
        self._unsettled_versions = count()

    async def search(
        self, tenant: str, collections: Sequence[str], question: str, *, limit: int
    ) -> list[Passage]:
        """Return at most `limit` passages by words and vectors, best first; see `Knowledge`."""
        if not question.strip() or not collections or limit < 1:
            return []
        found = await self._library.find(tenant, collections, question, limit=CANDIDATES)
        if found.is_partial:
            for name in collections:
                self._collections.setdefault((tenant, name), Collection()).doubts += 1
        return ranked(found, limit=limit)

    def version(self, tenant: str, collections: Sequence[str]) -> str:
        """Return a text that changes with every committed change; see `Knowledge`.

        While the index still follows, each call returns another one. A search that could not see
        the whole index ends the version that stood before it, for good.
        """
        parts: list[str] = []
        for name in sorted(set(collections)):
            collection = self._collections.get((tenant, name)) or Collection()
            part = f"{name}@{collection.changes}"
            if not collection.settled:
                part += f"~{self._began_ms}.{next(self._unsettled_versions)}"
            elif collection.doubts:
                part += f"~{self._began_ms}+{collection.doubts}"
            parts.append(part)
        return " ".join(parts)

    async def status(self, tenant: str) -> list[CollectionStatus]:
        """Return the state of every collection of the tenant."""
        return [
            await self._status(tenant, name)
            for name, source in self._sources.items()
            if tenant in source.tenants
        ]

    async def sync(self, tenant: str, collection: str) -> AsyncGenerator[Progress]:
        """Read what changed in the folder, and bring log and index up to it.

        First the index is made equal to the log, for which no file is needed. Stopped at any
        point, the next sync goes on from there. Two syncs of a collection run one after the other.
        `FolderMissingError`: what was read before stays searchable.
        """
        if collection not in self._sources:
            raise NotFoundError(f"there is no collection {collection!r}")
        state = self._collections.setdefault((tenant, collection), Collection())
        async with state.lock:
            source = self._sources[collection]
            run = Ingest(
                self._library,
                self._log,
                tenant=tenant,
                name=collection,
                state=state,
                rules=source.rules,
                now_s=self._clock.now_s,
            )
            state.running, state.fault = True, None
            name = f"{tenant}/{collection}/{self._clock.unix_ms()}"
            trace = TraceRef(blake2b(name.encode(), digest_size=16).hexdigest())
            try:
                with self._tracer.span(
                    trace, "ingest", tenant=tenant, collection=collection
                ) as span:
                    async with aclosing(run.steps(source.folder, span)) as steps:
                        async for step in steps:
                            if step.step is Step.DONE:
                                state.synced_ms = self._clock.unix_ms()
                            yield step
            except MurmurateError as error:
                state.fault = str(error)
                raise
            finally:
                state.running = False

    async def forget_removed(self, tenant: str) -> list[str]:
        """Forget the documents of collections that are not the tenant's; return their names.

        From the index first: what the log still holds is found again when this breaks off.
        """
        removed: dict[str, list[str]] = {}
        async with aclosing(self._log.streams(tenant, "doc/")) as streams:
            async for info in streams:
                name, _, id_ = info.stream.removeprefix("doc/").partition("/")
                source = self._sources.get(name)
                if source is None or tenant not in source.tenants:
                    removed.setdefault(name, []).append(id_)
        for name, ids in removed.items():
            await self._library.drop(tenant, name, list(await self._library.held(tenant, name)))
            for id_ in ids:
                await self._log.forget(tenant, f"doc/{name}/{id_}")
        return list(removed)

    def watch(self, tenant: str, name: str) -> Watch | None:
        """Return what follows the collection's folder, None where nothing shall."""
        source = self._sources[name]
        if not source.watch:
            return None

        async def sync() -> None:
            async with aclosing(self.sync(tenant, name)) as steps:
                async for _ in steps:
                    pass

        return Watch(
            self._library, self._clock, folder=source.folder, rules=source.rules, sync=sync
        )

    async def _status(self, tenant: str, name: str) -> CollectionStatus:
        collection = self._collections.get((tenant, name)) or Collection()
        fault = collection.fault
        chunks = pending = 0
        search = "unknown: the library process does not answer"
        index = None
        try:
            index = await self._library.state(tenant, name, wait_s=0.0)
            chunks, pending = index.chunks, index.chunks_pending
            missing = index.vectors_missing
            search = f"words only: {missing}" if missing else "words and vectors"
        except WorkerUnreachableError as error:
            fault = fault or str(error)
        if collection.running:
            shown = "reading"
        elif fault:
            shown = "faulty"
        else:
            shown = "ready" if collection.settled else "not read yet"
        return CollectionStatus(
            collection=name,
            state=shown,
            documents=len(collection.known or ()),
            chunks=chunks,
            chunks_pending=pending,
            search=search,
            fault=fault,
            problems=tuple(collection.problems),
            watched=self._sources[name].watch,
            synced_ms=collection.synced_ms,
            embedder=index and index.embedder,
            dimensions=index and index.dimensions,
            index_bytes=index.index_bytes if index else 0,
        )
