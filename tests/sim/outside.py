"""The outside of the platform, as fakes: disk, library, sandbox, embedder, and where traces go.

They outlive a server: what one generation of the service has put there, the next one finds.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from murmurate.adapters.memory import MemoryLog
from murmurate.core.errors import LogUnavailableError, MurmurateError, WorkerUnreachableError
from murmurate.core.ports import (
    Claim,
    Embeddings,
    Entry,
    Renewal,
    Stored,
    StreamInfo,
    Work,
    WorkInfo,
)
from murmurate.knowledge.ports import (
    Document,
    Extracted,
    FileSeen,
    Found,
    Hit,
    LibraryState,
    Listing,
    Term,
)
from murmurate.knowledge.rules import Rules
from murmurate.knowledge.words import stem
from murmurate.observe.spans import SpanRecord
from tests.sim.faults import Outages
from tests.sim.loop import VirtualClock, VirtualLoop

THINGS = ("amber", "basalt", "cobalt", "dolomite", "emerald", "feldspar")
COMMIT_S_MAX = 0.02
Saw = Callable[..., None]
_T = TypeVar("_T")


class Disk:
    """The log as one server sees it: appends reach the disk in order, a little later.

    A commit goes on when the one who waits for it is cancelled, as it does in a writer of its own.
    When the server dies, what has not been committed yet is lost, and nobody hears of the rest.
    """

    def __init__(
        self,
        kept: MemoryLog,
        *,
        loop: VirtualLoop,
        chance: random.Random,
        outages: Outages,
        saw: Saw,
    ) -> None:
        self._kept = kept
        self._loop = loop
        self._chance = chance
        self._outages = outages
        self._saw = saw
        self._dead = False
        self._last_s = 0.0
        self.waiting: set[asyncio.Future[Any]] = set()

    async def append(
        self,
        entries: Sequence[Entry],
        *,
        expected: Mapping[tuple[str, str], int] | None = None,
        fence: Claim | None = None,
        work: Sequence[Work] = (),
    ) -> list[int]:
        """Return when the entries are kept; see `Log`."""
        said = list(entries)

        def commit() -> list[int]:
            seqs = at_once(self._kept.append(said, expected=expected, fence=fence, work=work))
            for entry, seq in zip(said, seqs, strict=True):
                self._saw("log", entry.tenant, entry.stream, seq, entry.body)
            return seqs

        return await self._written(commit)

    async def claim(self, queue: str, runner: str, *, limit: int) -> list[Claim]:
        """Take work; see `Log`."""
        return await self._written(lambda: at_once(self._kept.claim(queue, runner, limit=limit)))

    async def renew(self, runner: str) -> Renewal:
        """Say that a runner lives; see `Log`."""
        return await self._written(lambda: at_once(self._kept.renew(runner)))

    async def revoke(self, runner: str, *, beat: int | None = None) -> bool:
        """Take everything from a runner; see `Log`."""
        return await self._written(lambda: at_once(self._kept.revoke(runner, beat=beat)))

    async def beats(self) -> dict[str, int]:
        """Return every runner's beats; see `Log`."""
        return await self._kept.beats()

    async def held(self, runner: str) -> list[Claim]:
        """Return what a runner holds; see `Log`."""
        return await self._kept.held(runner)

    def work(self, tenant: str, queue: str, *, after: str = "") -> AsyncGenerator[WorkInfo]:
        """Yield the tenant's work; see `Log`."""
        return self._kept.work(tenant, queue, after=after)

    def die(self) -> None:
        """Lose what is not committed; answer nobody any more: whoever waits is gone, too."""
        self._dead = True
        for done in self.waiting:
            done.cancel()

    def read(self, tenant: str, stream: str, *, after: int = 0) -> AsyncGenerator[Stored]:
        """Yield the entries of a stream; see `Log`."""
        return self._kept.read(tenant, stream, after=after)

    def tail(self, prefix: str, *, after: int) -> AsyncGenerator[Stored]:
        """Follow streams; see `Log`."""
        return self._kept.tail(prefix, after=after)

    def streams(self, tenant: str, prefix: str, *, after: str = "") -> AsyncGenerator[StreamInfo]:
        """Yield the tenant's streams; see `Log`."""
        return self._kept.streams(tenant, prefix, after=after)

    async def snapshot(self, tenant: str, stream: str, seq: int, body: bytes) -> None:
        """Let `body` stand for older entries; see `Log`."""
        await self._kept.snapshot(tenant, stream, seq, body)

    async def forget(self, tenant: str, stream: str, *, before: int | None = None) -> None:
        """Delete entries; see `Log`."""
        if not self._dead:
            await self._kept.forget(tenant, stream, before=before)

    async def close(self) -> None:
        """Do nothing: the kept log goes on to the next server."""

    async def _written(self, commit: Callable[[], _T]) -> _T:
        """Return when a commit has reached the disk and its acknowledgement has come back."""
        if self._dead or self._outages.is_down():
            raise LogUnavailableError("the disk is full")
        done: asyncio.Future[_T] = self._loop.create_future()
        self.waiting.add(done)
        commit_s = max(self._loop.time() + self._chance.uniform(0.0, COMMIT_S_MAX), self._last_s)
        # Timers of the same moment have no order of their own; a disk has one.
        self._last_s = commit_s + 2e-6
        self._loop.call_at(commit_s, self._commit, commit, done)
        try:
            return await done
        finally:
            self.waiting.discard(done)

    def _commit(self, commit: Callable[[], _T], done: asyncio.Future[_T]) -> None:
        if self._dead:
            return
        try:
            value = commit()
        except MurmurateError as error:
            if not done.done():
                done.set_exception(error)
            return
        # The acknowledgement takes a while too: a server may die between the two.
        self._loop.call_later(1e-6 + COMMIT_S_MAX / 10, self._acknowledge, done, value)

    def _acknowledge(self, done: asyncio.Future[_T], value: _T) -> None:
        if not self._dead and not done.done():
            done.set_result(value)


def at_once(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Return what a coroutine that never waits comes to."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("the log in memory waited")


class SimLibrary:
    """A folder of one-line documents and their index; a search finds what is named in it.

    Each document says its edition, which grows when the folder is edited, and each hit says whose
    it is, so that an answer shows how old it is and from which tenant's index it came.
    """

    def __init__(self, *, chance: random.Random, clock: VirtualClock, outages: Outages) -> None:
        self._chance = chance
        self._clock = clock
        self._outages = outages
        self._index: dict[tuple[str, str], dict[str, Document]] = defaultdict(dict)
        self.editions: dict[str, int] = dict.fromkeys(THINGS, 1)

    def edit(self, thing: str) -> None:
        """Change a file of the folder."""
        self.editions[thing] += 1

    async def listing(self, folder: str, rules: Rules) -> Listing:
        """Return the files; see `Library`."""
        del folder, rules
        await self._reach()
        return Listing(tuple(FileSeen(f"{t}.md", 10, n) for t, n in self.editions.items()), ())

    async def fingerprint(self, folder: str, rules: Rules) -> str:
        """Say what the folder looks like; see `Library`."""
        return str(await self.listing(folder, rules))

    async def extract(self, folder: str, path: str, *, bytes_max: int) -> Extracted:
        """Read one file; see `Library`."""
        del folder, bytes_max
        await self._reach()
        thing = path.removesuffix(".md")
        edition = self.editions[thing]
        text = f"The secret of {thing} stands in edition {edition}."
        return Extracted(text, thing, f"{thing}-{edition}", 10, edition)

    async def held(self, tenant: str, collection: str) -> dict[str, str]:
        """Return what is indexed; see `Library`."""
        await self._reach()
        return {id_: document.sha256 for id_, document in self._index[tenant, collection].items()}

    async def put(self, tenant: str, collection: str, documents: Sequence[Document]) -> None:
        """Index documents, sometimes slowly; see `Library`."""
        await self._reach()
        await self._clock.sleep(self._chance.choice((0.0, 0.0, 0.3)))
        self._index[tenant, collection].update({d.id: d for d in documents})

    async def drop(self, tenant: str, collection: str, ids: Sequence[str]) -> None:
        """Forget documents; see `Library`."""
        await self._reach()
        for id_ in ids:
            self._index[tenant, collection].pop(id_, None)

    async def state(self, tenant: str, collection: str, *, wait_s: float) -> LibraryState:
        """Say how far the index is; see `Library`."""
        del wait_s
        await self._reach()
        return LibraryState(len(self._index[tenant, collection]), 0, "none here")

    async def find(
        self, tenant: str, collections: Sequence[str], question: str, *, limit: int
    ) -> Found:
        """Find the documents whose name stands in the question; see `Library`."""
        await self._reach()
        hits: list[Hit] = []
        for collection in collections:
            for document in self._index[tenant, collection].values():
                if document.title in question:
                    text = f"{document.text[:-1]} for {tenant}."
                    place = (text, 0, len(text), 1, 1, None, 10.0)
                    facts = (document.path, document.title, "")
                    hits.append(Hit(document.id, collection, *facts, *place))
        terms = tuple(Term(stem(hit.title), 2.0) for hit in hits)
        return Found(tuple(hits[:limit]), terms)

    async def _reach(self) -> None:
        await self._clock.sleep(self._chance.uniform(0.0, 0.01))
        if self._outages.is_down():
            raise WorkerUnreachableError("the library is being restarted", retry_s=1)


class Outcome(msgspec.Struct, frozen=True):
    """What a snippet came to."""

    value: str | None
    error: str | None


class SimSandbox:
    """Adds: `1+2`. Anything else is an error of the snippet."""

    def __init__(self, *, clock: VirtualClock, outages: Outages) -> None:
        self._clock = clock
        self._outages = outages

    async def run(self, code: str) -> Outcome:
        """Return the sum; see `Sandbox`."""
        await self._clock.sleep(0.001)
        if self._outages.is_down():
            raise WorkerUnreachableError("the sandbox is being restarted", retry_s=1)
        numbers = code.split("+")
        if not all(number.isdigit() for number in numbers):
            return Outcome(None, "not a sum")
        return Outcome(str(sum(map(int, numbers))), None)


class SimEmbedder:
    """Turns a text into its length."""

    def __init__(self, *, clock: VirtualClock, outages: Outages) -> None:
        self._clock = clock
        self._outages = outages

    name = "minilm"
    dimensions = 1

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        """Return a vector a text; see `Embedder`."""
        await self._clock.sleep(0.002)
        if self._outages.is_down():
            raise WorkerUnreachableError("the library is being restarted", retry_s=1)
        return Embeddings(tuple((float(len(text)),) for text in texts), len(texts))


class SimTraces:
    """Keeps all finished spans by trace."""

    def __init__(self) -> None:
        self.kept: dict[str, list[SpanRecord]] = defaultdict(list)

    def keep(self, span: SpanRecord) -> None:
        """Take a finished span: the `sink` of a recorder."""
        self.kept[span.trace_id].append(span)

    async def spans(self, tenant: str, trace_id: str) -> Sequence[Any]:
        """Return the tenant's spans of a trace; see `Traces`."""
        return [span for span in self.kept.get(trace_id, ()) if span.tenant == tenant]


class SimEvents:
    """Keeps the events that must never happen, and passes the others by."""

    def __init__(self) -> None:
        self.faults: list[str] = []

    def event(self, name: str, **facts: str | float | bool | None) -> None:
        """Note a fault of ours; see `EventLog`."""
        if name == "request.fault":
            self.faults.append(f"{facts.get('type')}: {facts.get('detail')}")
