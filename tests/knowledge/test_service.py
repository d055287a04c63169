"""Collections follow their folders: what is read, kept, reported, and found after failures."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from hashlib import sha256

import msgspec
import pytest

from murmurate.adapters.memory import MemoryLog
from murmurate.core.errors import (
    DocumentUnreadableError,
    FolderMissingError,
    LogCorruptError,
    MurmurateError,
    NotFoundError,
    WorkerUnreachableError,
)
from murmurate.core.ports import Log, Stored
from murmurate.knowledge.changes import document_id
from murmurate.knowledge.ingest import DROP, PUT, UNINDEXED_S, DocumentBody, Progress, Step
from murmurate.knowledge.ports import (
    Document,
    Extracted,
    FileSeen,
    Found,
    Hit,
    LibraryState,
    Listing,
    Problem,
    Term,
)
from murmurate.knowledge.rules import FILE_BYTES_MAX, Rules
from murmurate.knowledge.service import Collections, Source
from tests.fakes import FakeClock, RecordingTracer

T = "default"


@dataclass
class FakeLibrary:
    """A folder in memory, and an index that finds documents by the words of the question."""

    files: dict[str, str] = field(default_factory=dict[str, str])
    sizes: dict[str, int] = field(default_factory=dict[str, int])
    broken: dict[str, Exception] = field(default_factory=dict[str, Exception])
    problems: tuple[Problem, ...] = ()
    folder_is_there: bool = True
    times_ns: dict[str, int] = field(default_factory=dict[str, int])
    index: dict[str, Document] = field(default_factory=dict[str, Document])
    extracted: list[str] = field(default_factory=list[str])
    batches: list[int] = field(default_factory=list[int])
    pending: list[int] = field(default_factory=list[int])
    vectors_missing: str | None = None
    listed: Listing | None = None
    is_partial: bool = False
    down: int = 0
    """How many calls of the index fail before the worker is back."""
    events: list[str] = field(default_factory=list[str])
    takes_s: float = 0.0
    clock: FakeClock = field(default_factory=FakeClock)
    poison: dict[str, Exception] = field(default_factory=dict[str, Exception])
    """What the index raises at documents of these paths."""

    async def listing(self, folder: str, rules: Rules) -> Listing:
        if not self.folder_is_there:
            raise FolderMissingError(f"{folder}: the folder is not there")
        if self.listed is not None:
            return self.listed
        files = [
            FileSeen(path, self.sizes.get(path, len(text)), self.times_ns.get(path, 1))
            for path, text in sorted(self.files.items())
        ]
        return Listing(tuple(files[: rules.files_max]), self.problems)

    async def fingerprint(self, folder: str, rules: Rules) -> str:
        return str(await self.listing(folder, rules))

    async def extract(self, folder: str, path: str, *, bytes_max: int) -> Extracted:
        self.extracted.append(path)
        self.clock.time_s += self.takes_s
        if path in self.broken:
            raise self.broken[path]
        text = self.files[path]
        digest = sha256(text.encode()).hexdigest()
        return Extracted(text, path, digest, len(text), self.times_ns.get(path, 1))

    async def held(self, tenant: str, collection: str) -> dict[str, str]:
        self._reach()
        return {id_: document.sha256 for id_, document in self.index.items()}

    async def put(self, tenant: str, collection: str, documents: Sequence[Document]) -> None:
        self._reach()
        for document in documents:
            if document.path in self.poison:
                raise self.poison[document.path]
        self.batches.append(len(documents))
        self.events += [f"put {document.path}" for document in documents]
        self.index.update({document.id: document for document in documents})

    async def drop(self, tenant: str, collection: str, ids: Sequence[str]) -> None:
        self._reach()
        self.events.append("drop")
        for id_ in ids:
            self.index.pop(id_, None)

    async def state(self, tenant: str, collection: str, *, wait_s: float) -> LibraryState:
        self._reach()
        pending = self.pending.pop(0) if self.pending else 0
        return LibraryState(len(self.index), pending, self.vectors_missing)

    async def find(
        self, tenant: str, collections: Sequence[str], question: str, *, limit: int
    ) -> Found:
        words = question.split()
        hits = tuple(
            hit(document.id, document.text, bm25=2.0)
            for document in self.index.values()
            if any(word in document.text for word in words)
        )
        terms = tuple(Term(word, 1.0) for word in words)
        return Found(hits[:limit], terms, self.is_partial)

    def _reach(self) -> None:
        if self.down:
            self.down -= 1
            raise WorkerUnreachableError("no worker answers")


def hit(document: str, text: str, *, cosine: float | None = None, bm25: float | None = None) -> Hit:
    return Hit(document, "docs", "a.md", "", "", text, 0, len(text), 1, 1, cosine, bm25)


def story(tell: Callable[[], Coroutine[object, object, None]]) -> Callable[[], None]:
    """Run an async test."""

    def test() -> None:
        asyncio.run(tell())

    test.__name__ = tell.__name__
    return test


def collections_of(
    library: FakeLibrary, log: Log | None = None, *, clock: FakeClock | None = None
) -> Collections:
    clock = clock or FakeClock()
    return Collections(
        library,
        log=log or MemoryLog(clock=clock),
        clock=clock,
        tracer=RecordingTracer(),
        sources={"docs": Source("/docs")},
    )


async def synced(collections: Collections) -> list[Progress]:
    async with aclosing(collections.sync(T, "docs")) as steps:
        return [step async for step in steps]


async def log_of(log: Log, path: str) -> list[str]:
    async with aclosing(log.read(T, f"doc/docs/{document_id('docs', path)}")) as entries:
        return [entry.kind async for entry in entries]


@story
async def test_a_new_file_is_kept_in_the_log_and_found() -> None:
    library = FakeLibrary({"a.md": "cats purr"})
    log = MemoryLog(clock=FakeClock())
    collections = collections_of(library, log)
    steps = await synced(collections)
    assert [step.step for step in steps] == [Step.READ, Step.DONE]
    stream = f"doc/docs/{document_id('docs', 'a.md')}"
    async with aclosing(log.read(T, stream)) as entries:
        [entry] = [entry async for entry in entries]
    assert entry.kind == PUT
    body = msgspec.msgpack.decode(entry.body, type=DocumentBody)
    assert (body.path, body.text, body.title) == ("a.md", "cats purr", "a.md")
    [passage] = await collections.search(T, ["docs"], "cats", limit=5)
    assert passage.text == "cats purr"


@story
async def test_only_what_changed_is_read_again() -> None:
    library = FakeLibrary({"a.md": "one", "b.md": "two"})
    log = MemoryLog(clock=FakeClock())
    collections = collections_of(library, log)
    await synced(collections)
    library.files["b.md"] = "two and more"
    await synced(collections)
    assert library.extracted == ["a.md", "b.md", "b.md"]
    assert await log_of(log, "b.md") == [PUT]  # the older text is gone


@story
async def test_a_file_that_was_only_touched_changes_nothing() -> None:
    library = FakeLibrary({"a.md": "one"})
    collections = collections_of(library)
    await synced(collections)
    before = collections.version(T, ["docs"])
    library.times_ns["a.md"] = 2
    await synced(collections)
    await synced(collections)
    assert library.extracted == ["a.md", "a.md"]
    assert collections.version(T, ["docs"]) == before


@story
async def test_a_vanished_file_is_dropped_from_log_and_index() -> None:
    library = FakeLibrary({"a.md": "one", "b.md": "two"})
    log = MemoryLog(clock=FakeClock())
    collections = collections_of(library, log)
    await synced(collections)
    del library.files["a.md"]
    await synced(collections)
    assert await log_of(log, "a.md") == [DROP]
    assert [document.path for document in library.index.values()] == ["b.md"]
    [status] = await collections.status(T)
    assert status.documents == 1


@story
async def test_a_folder_that_cannot_be_read_for_a_while_keeps_its_documents() -> None:
    library = FakeLibrary({"a.md": "one", "deep/b.md": "two", "z.md": "three"})
    collections = collections_of(library)
    await synced(collections)
    library.listed = Listing((), (Problem("deep", "Permission denied"),), ("deep",), "z.md")
    await synced(collections)
    assert [document.path for document in library.index.values()] == ["deep/b.md", "z.md"]


@story
async def test_a_broken_file_is_reported_and_the_others_go_on() -> None:
    library = FakeLibrary({"a.md": "one", "b.md": "two", "c.md": "three"})
    library.broken["b.md"] = DocumentUnreadableError("b.md: binary, not text")
    library.problems = (Problem("d.bin", "files of type .bin are not supported"),)
    collections = collections_of(library)
    steps = await synced(collections)
    assert [(s.path, s.problem) for s in steps if s.problem] == [("b.md", "binary, not text")]
    [status] = await collections.status(T)
    assert status.documents == 2
    assert [problem.path for problem in status.problems] == ["d.bin", "b.md"]
    assert status.fault is None


@story
async def test_a_broken_file_is_tried_again_when_it_has_changed_and_not_before() -> None:
    library = FakeLibrary({"a.md": "one", "b.md": "two"})
    library.broken["b.md"] = DocumentUnreadableError("b.md: binary, not text")
    collections = collections_of(library)
    await synced(collections)
    await synced(collections)
    [status] = await collections.status(T)
    assert [problem.path for problem in status.problems] == ["b.md"]
    assert library.extracted == ["a.md", "b.md"]
    library.times_ns["b.md"] = 2
    del library.broken["b.md"]
    await synced(collections)
    [status] = await collections.status(T)
    assert (status.documents, status.problems) == (2, ())


@story
async def test_a_file_that_cannot_be_read_just_now_is_tried_again_unchanged() -> None:
    library = FakeLibrary({"a.md": "one"})
    library.broken["a.md"] = DocumentUnreadableError("a.md: Input/output error", retry_s=1)
    collections = collections_of(library)
    await synced(collections)
    [status] = await collections.status(T)
    assert [problem.reason for problem in status.problems] == ["Input/output error"]
    library.broken.clear()
    await synced(collections)
    [status] = await collections.status(T)
    assert (status.documents, status.problems) == (1, ())


@story
async def test_a_renamed_file_is_dropped_only_after_its_new_name_is_read() -> None:
    library = FakeLibrary({"a.md": "one", "z.md": "stays"}, times_ns={"a.md": 7})
    collections = collections_of(library)
    await synced(collections)
    library.times_ns["b.md"] = 7
    library.files = {"b.md": "one", "z.md": "stays"}
    before = len(library.events)
    await synced(collections)
    assert library.events[before:] == ["put b.md", "drop"]
    assert sorted(document.path for document in library.index.values()) == ["b.md", "z.md"]


@story
async def test_a_deleted_file_is_gone_before_others_are_read() -> None:
    library = FakeLibrary({"a.md": "one"})
    collections = collections_of(library)
    await synced(collections)
    library.files = {"b.md": "a new file"}
    before = len(library.events)
    await synced(collections)
    assert library.events[before:] == ["drop", "put b.md"]


@story
async def test_a_collection_that_is_configured_no_more_is_forgotten() -> None:
    library = FakeLibrary({"a.md": "one", "b.md": "two"})
    log = MemoryLog(clock=FakeClock())
    await synced(collections_of(library, log))
    without = Collections(library, log=log, clock=FakeClock(), tracer=RecordingTracer(), sources={})
    assert await without.forget_removed(T) == ["docs"]
    assert library.index == {}
    assert await log_of(log, "a.md") == []
    assert await without.forget_removed(T) == []
    assert await collections_of(library, log).forget_removed(T) == []


@story
async def test_progress_tells_bytes_failures_and_how_long_it_will_take() -> None:
    clock = FakeClock()
    library = FakeLibrary({f"{n}.md": "x" * 10 for n in range(4)}, pending=[3, 2, 0])
    library.broken["0.md"] = DocumentUnreadableError("0.md: binary, not text")
    library.takes_s, library.clock = 1.0, clock
    collections = collections_of(library, clock=clock)
    steps = await synced(collections)
    reads = [step for step in steps if step.step is Step.READ]
    assert [step.bytes for step in reads] == [10, 20, 30, 40]
    assert {step.bytes_total for step in reads} == {40}
    assert [step.failed for step in reads] == [1, 1, 1, 1]
    assert reads[0].left_s is not None
    assert reads[-1].left_s == 0.0
    assert steps[-1].embedded == steps[-1].chunks == 3
    assert [s.synced_ms for s in await collections.status(T)] == [clock.unix_ms()]
    steps = await synced(collections)
    assert [(step.step, step.unchanged, step.failed) for step in steps] == [(Step.DONE, 3, 1)]


@story
async def test_no_state_is_asked_for_of_what_is_not_the_tenants() -> None:
    collections = collections_of(FakeLibrary({}))
    assert [it.collection for it in await collections.status(T)] == ["docs"]
    assert await collections.status("acme") == []


@story
async def test_the_rules_of_a_collection_bound_what_is_read() -> None:
    library = FakeLibrary({"a.md": "one", "b.md": "longer"})
    rules = Rules(files_max=2, file_bytes_max=3)
    collections = Collections(
        library,
        log=MemoryLog(clock=FakeClock()),
        clock=FakeClock(),
        tracer=RecordingTracer(),
        sources={"docs": Source("/docs", rules, watch=True)},
    )
    await synced(collections)
    assert library.extracted == ["a.md"]
    [status] = await collections.status(T)
    assert status.watched
    assert [problem.path for problem in status.problems] == ["b.md"]
    assert collections.watch(T, "docs") is not None
    assert collections_of(library).watch(T, "docs") is None


@story
async def test_a_file_that_breaks_once_read_keeps_its_last_text() -> None:
    library = FakeLibrary({"a.md": "one"})
    collections = collections_of(library)
    await synced(collections)
    library.files["a.md"] = "longer"
    library.broken["a.md"] = DocumentUnreadableError("a.md: binary, not text")
    await synced(collections)
    assert [document.text for document in library.index.values()] == ["one"]


@story
async def test_a_file_that_kills_the_reader_is_reported_by_name() -> None:
    library = FakeLibrary({"a.md": "one", "b.md": "two"})
    library.broken["a.md"] = WorkerUnreachableError("the worker went away")
    collections = collections_of(library)
    await synced(collections)
    [status] = await collections.status(T)
    assert [problem.path for problem in status.problems] == ["a.md"]
    assert status.documents == 1


@story
async def test_a_file_over_the_limit_is_reported_and_not_read() -> None:
    library = FakeLibrary({"a.md": "one"}, sizes={"a.md": FILE_BYTES_MAX + 1})
    collections = collections_of(library)
    await synced(collections)
    [status] = await collections.status(T)
    assert library.extracted == []
    assert [problem.path for problem in status.problems] == ["a.md"]


@story
async def test_when_the_folder_vanishes_what_was_read_stays_searchable() -> None:
    library = FakeLibrary({"a.md": "cats"})
    collections = collections_of(library)
    await synced(collections)
    library.folder_is_there = False
    with pytest.raises(FolderMissingError):
        await synced(collections)
    assert len(await collections.search(T, ["docs"], "cats", limit=5)) == 1
    [status] = await collections.status(T)
    assert status.state == "faulty"
    assert status.fault == "[knowledge.folder_missing] /docs: the folder is not there"
    library.folder_is_there = True
    await synced(collections)
    assert [s.state for s in await collections.status(T)] == ["ready"]


@story
async def test_a_lost_index_is_rebuilt_from_the_log_without_the_files() -> None:
    library = FakeLibrary({"a.md": "cats", "b.md": "dogs"})
    log = MemoryLog(clock=FakeClock())
    await synced(collections_of(library, log))
    emptied = FakeLibrary(folder_is_there=False)
    collections = collections_of(emptied, log)
    with pytest.raises(FolderMissingError):
        await synced(collections)
    assert sorted(document.text for document in emptied.index.values()) == ["cats", "dogs"]
    assert emptied.extracted == []


class DamagedLog(MemoryLog):
    """A log in which the first entry of every stream has been damaged."""

    async def read(self, tenant: str, stream: str, *, after: int = 0) -> AsyncGenerator[Stored]:
        async with aclosing(super().read(tenant, stream, after=after)) as entries:
            async for stored in entries:
                if stored.seq == 1:
                    raise LogCorruptError(f"entry 1 of stream {stream} is damaged")
                yield stored


@story
async def test_a_document_that_is_damaged_in_the_log_is_read_from_its_file_again() -> None:
    log = DamagedLog(clock=FakeClock())
    await synced(collections_of(FakeLibrary({"a.md": "cats", "gone.md": "dogs"}), log))
    library = FakeLibrary({"a.md": "cats"})
    await synced(collections_of(library, log))
    assert library.extracted == ["a.md"]
    assert [document.text for document in library.index.values()] == ["cats"]
    stream = f"doc/docs/{document_id('docs', 'a.md')}"
    async with aclosing(log.read(T, stream)) as entries:
        assert [entry.seq async for entry in entries] == [2]


@story
async def test_a_restarted_server_reads_nothing_again() -> None:
    library = FakeLibrary({"a.md": "cats"})
    log = MemoryLog(clock=FakeClock())
    first = collections_of(library, log)
    await synced(first)
    again = collections_of(library, log)
    await synced(again)
    assert library.extracted == ["a.md"]
    assert again.version(T, ["docs"]) == first.version(T, ["docs"])


@story
async def test_what_the_index_holds_beyond_the_log_is_dropped() -> None:
    library = FakeLibrary({"a.md": "cats"})
    library.index["stray"] = Document("stray", "x.md", "", "s", "a stray cat")
    await synced(collections_of(library))
    assert [document.text for document in library.index.values()] == ["cats"]


@story
async def test_a_sync_that_broke_off_is_finished_by_the_next() -> None:
    library = FakeLibrary({"a.md": "cats", "b.md": "dogs"})
    collections = collections_of(library)
    async with aclosing(collections.sync(T, "docs")) as steps:
        assert (await anext(steps)).path == "a.md"  # in the log, and not in the index yet
    assert library.index == {}
    await synced(collections)
    assert sorted(document.text for document in library.index.values()) == ["cats", "dogs"]
    assert library.extracted == ["a.md", "b.md"]


@story
async def test_a_library_that_is_away_is_a_fault_until_it_is_back() -> None:
    library = FakeLibrary({"a.md": "cats"}, down=2)
    collections = collections_of(library)
    with pytest.raises(WorkerUnreachableError):
        await synced(collections)
    [status] = await collections.status(T)
    assert status.state == "faulty"
    assert status.search == "unknown: the library process does not answer"
    await synced(collections)
    assert [s.state for s in await collections.status(T)] == ["ready"]


@pytest.mark.parametrize(
    "error",
    [
        WorkerUnreachableError("Put took longer than 300 s"),
        MurmurateError("RecursionError in Put"),
        DocumentUnreadableError("b.md: too many passages"),
    ],
)
def test_a_document_that_cannot_be_indexed_is_reported_and_stops_no_other(
    error: MurmurateError,
) -> None:
    asyncio.run(indexed_past(error))


async def indexed_past(error: MurmurateError) -> None:
    library = FakeLibrary({"a.md": "cats", "b.md": "poison", "c.md": "dogs"})
    library.poison["b.md"] = error
    clock = FakeClock()
    collections = collections_of(library, clock=clock)
    for _ in range(2):
        await synced(collections)
        assert sorted(d.path for d in library.index.values()) == ["a.md", "c.md"]
        [status] = await collections.status(T)
        assert [problem.path for problem in status.problems] == ["b.md"]
        assert (status.state, status.fault) == ("ready", None)
    library.files["d.md"] = "new"
    await synced(collections)
    library.poison.clear()
    library.batches.clear()
    await synced(collections)
    assert library.batches == []  # left out for a while, though nothing else has changed
    clock.time_s += UNINDEXED_S
    await synced(collections)
    assert sorted(d.path for d in library.index.values()) == ["a.md", "b.md", "c.md", "d.md"]
    assert [s.problems for s in await collections.status(T)] == [()]


@story
async def test_a_document_that_cannot_be_indexed_goes_with_its_file() -> None:
    library = FakeLibrary({"a.md": "cats", "b.md": "poison"})
    library.poison["b.md"] = WorkerUnreachableError("Put took longer than 300 s")
    log = MemoryLog(clock=FakeClock())
    await synced(collections_of(library, log))
    del library.files["b.md"]
    collections = collections_of(library, log)  # a restarted server tries it once more
    await synced(collections)
    assert await log_of(log, "b.md") == [DROP]
    [status] = await collections.status(T)
    assert (status.documents, status.problems, status.fault) == (1, (), None)


@story
async def test_documents_are_indexed_in_batches() -> None:
    library = FakeLibrary({f"{number:03}.md": str(number) for number in range(70)})
    await synced(collections_of(library))
    assert library.batches == [32, 32, 6]


@story
async def test_the_version_changes_while_vectors_come_and_then_rests() -> None:
    library = FakeLibrary({"a.md": "cats"}, pending=[2, 1])
    collections = collections_of(library)
    unread = collections.version(T, ["docs"])
    versions: list[str] = []
    async with aclosing(collections.sync(T, "docs")) as steps:
        async for _ in steps:
            versions.append(collections.version(T, ["docs"]))
    assert len({unread, *versions}) == len(versions) + 1
    rested = collections.version(T, ["docs"])
    assert rested == versions[-1] == "docs@1"
    await synced(collections)
    assert collections.version(T, ["docs"]) == rested


@story
async def test_while_a_collection_is_not_settled_no_version_comes_twice() -> None:
    collections = collections_of(FakeLibrary({"a.md": "cats"}))
    assert len({collections.version(T, ["docs"]) for _ in range(5)}) == 5


@story
async def test_a_search_that_could_not_see_the_whole_index_ends_its_version_for_good() -> None:
    library = FakeLibrary({"a.md": "cats"})
    collections = collections_of(library)
    await synced(collections)
    before = collections.version(T, ["docs"])
    library.is_partial = True
    await collections.search(T, ["docs"], "cats", limit=5)
    assert collections.version(T, ["docs"]) != before
    library.is_partial = False
    after = collections.version(T, ["docs"])
    await collections.search(T, ["docs"], "cats", limit=5)
    await synced(collections)
    assert before != collections.version(T, ["docs"]) == after


@story
async def test_an_index_that_was_lost_and_rebuilt_has_another_version() -> None:
    library = FakeLibrary({"a.md": "cats"})
    collections = collections_of(library)
    await synced(collections)
    before = collections.version(T, ["docs"])
    library.index.clear()
    await synced(collections)
    after = collections.version(T, ["docs"])
    assert before != after == collections.version(T, ["docs"])


@story
async def test_each_committed_change_gives_another_version() -> None:
    library = FakeLibrary({"a.md": "cats"})
    collections = collections_of(library)
    versions: set[str] = set()
    for text in ("cats", "dogs", "cats"):
        library.files["a.md"] = text
        library.times_ns["a.md"] = len(versions)
        await synced(collections)
        versions.add(collections.version(T, ["docs"]))
    assert len(versions) == 3


@story
async def test_two_syncs_of_a_collection_run_one_after_the_other() -> None:
    library = FakeLibrary({"a.md": "cats", "b.md": "dogs"})
    collections = collections_of(library)
    await asyncio.gather(synced(collections), synced(collections))
    assert library.extracted == ["a.md", "b.md"]


@story
async def test_status_says_what_a_collection_can_do() -> None:
    library = FakeLibrary({"a.md": "cats"}, vectors_missing="needs numpy: pip install …")
    collections = collections_of(library)
    [status] = await collections.status(T)
    assert (status.state, status.documents) == ("not read yet", 0)
    await synced(collections)
    async with aclosing(collections.sync(T, "docs")) as steps:
        await anext(steps)
        [status] = await collections.status(T)
        assert status.state == "reading"
    [status] = await collections.status(T)
    assert status.search == "words only: needs numpy: pip install …"


@story
async def test_a_sync_of_an_unknown_collection_is_refused() -> None:
    collections = collections_of(FakeLibrary())
    with pytest.raises(NotFoundError):
        async with aclosing(collections.sync(T, "nope")) as steps:
            await anext(steps)


@story
async def test_nothing_is_searched_for_without_a_question() -> None:
    collections = collections_of(FakeLibrary({"a.md": "cats"}))
    assert await collections.search(T, ["docs"], "  ", limit=5) == []
    assert await collections.search(T, [], "cats", limit=5) == []
    assert await collections.search(T, ["docs"], "cats", limit=0) == []
