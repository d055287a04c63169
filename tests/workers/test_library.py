"""The library worker as a real process: it indexes, searches, dies and comes back."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from murmurate.adapters.library import Embed, Find, Held, LibraryClient
from murmurate.adapters.minilm import DIMENSIONS, MiniLM
from murmurate.core.clock import SystemClock
from murmurate.core.errors import (
    DocumentUnreadableError,
    FolderMissingError,
    WorkerUnreachableError,
)
from murmurate.knowledge.ports import Document, Found, LibraryState
from murmurate.knowledge.rules import Rules
from murmurate.workers.boot import LibraryBoot
from murmurate.workers.library import LibraryWorker
from murmurate.workers.lifeline import EXIT_ORPHANED

pytestmark = pytest.mark.e2e

T = "default"
DOCS = ["docs"]
CATS = Document("cats", "cats.md", "Cats", "1", "# Cats\n\nA cat purrs when it is content.\n")
BREAD = Document("bread", "bread.md", "Bread", "1", "# Bread\n\nKnead the dough, then bake it.\n")
CHINESE = Document("zh", "zh.md", "安装", "1", "# 安装\n\n用 apt 可以安装软件包。\n")


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedder's graph, built once: it takes seconds."""
    folder = tmp_path_factory.mktemp("graph")
    MiniLM(folder)
    [path] = folder.iterdir()
    return path


@pytest.fixture
def folder(tmp_path: Path, graph: Path) -> Path:
    """A state folder whose index has the graph already."""
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / graph.name).hardlink_to(graph)
    return tmp_path


class Worker:
    """The process, which can be killed and started again, and a client that stays."""

    def __init__(self, folder: Path, **embedder: Any) -> None:
        self.boot = LibraryBoot(str(folder / "library.sock"), str(folder / "index"), **embedder)
        self.client = LibraryClient(self.boot.socket, clock=SystemClock())
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "murmurate.workers.library"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(msgspec.json.encode(self.boot) + b"\n")
        self.process.stdin.flush()
        assert b'"ready":true' in self.process.stdout.readline()

    def kill(self) -> None:
        self.process.kill()
        self.forget()

    def forget(self) -> int:
        code = self.process.wait(20)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        return code


@contextmanager
def running(folder: Path, **embedder: Any) -> Generator[Worker]:
    worker = Worker(folder, **embedder)
    try:
        yield worker
    finally:
        if worker.process.poll() is None:
            worker.kill()


def told(folder: Path, tell: Callable[[Worker], Awaitable[None]], **embedder: Any) -> None:
    async def story(worker: Worker) -> None:
        try:
            await tell(worker)
        finally:
            await worker.client.close()

    with running(folder, **embedder) as worker:
        asyncio.run(story(worker))


async def settled(client: LibraryClient) -> LibraryState:
    while (state := await client.state(T, "docs", wait_s=5)).chunks_pending:
        pass
    return state


def documents(found: Found) -> list[str]:
    return [hit.document for hit in found.hits]


def test_documents_are_found_by_words_at_once_and_by_meaning_soon(folder: Path) -> None:
    async def story(worker: Worker) -> None:
        await worker.client.put(T, "docs", [CATS, BREAD, CHINESE])
        assert await worker.client.held(T, "docs") == {"cats": "1", "bread": "1", "zh": "1"}
        chinese = await worker.client.find(T, DOCS, "怎么安装软件包", limit=5)
        assert documents(chinese) == ["zh"]
        assert chinese.hits[0].cosine is None
        assert {"安装", "软件包"} <= {term.word for term in chinese.terms}
        state = await settled(worker.client)
        assert (state.chunks, state.vectors_missing) == (3, None)
        found = await worker.client.find(T, DOCS, "happy felines", limit=5)
        best = max(found.hits, key=lambda hit: hit.cosine or 0.0)
        assert best.document == "cats"
        assert best.bm25 is None
        assert CATS.text[best.start : best.end] == best.text

    told(folder, story)


def test_a_document_put_again_replaces_itself_and_a_dropped_one_is_gone(folder: Path) -> None:
    async def story(worker: Worker) -> None:
        await worker.client.put(T, "docs", [CATS, BREAD])
        await settled(worker.client)
        newer = msgspec.structs.replace(CATS, sha256="2", text="A cat sleeps.")
        await worker.client.put(T, "docs", [newer])
        await worker.client.drop(T, "docs", ["bread", "never there"])
        await settled(worker.client)
        found = await worker.client.find(T, DOCS, "What does a cat do with bread?", limit=5)
        assert [hit.text for hit in found.hits] == ["A cat sleeps."]
        assert await worker.client.held(T, "docs") == {"cats": "2"}

    told(folder, story)


def test_tenants_and_collections_do_not_see_each_other(folder: Path) -> None:
    async def story(worker: Worker) -> None:
        await worker.client.put(T, "docs", [CATS])
        await worker.client.put("other", "docs", [BREAD])
        await worker.client.put(T, "more", [CHINESE])
        await settled(worker.client)
        for tenant, names, expected in [
            (T, DOCS, {"cats"}),
            ("other", DOCS, {"bread"}),
            (T, ["docs", "more", "unknown"], {"cats"}),
            (T, ["unknown"], set[str]()),
            ("nobody", DOCS, set[str]()),
        ]:
            found = await worker.client.find(tenant, names, "cat dough bake", limit=5)
            assert set(documents(found)) == expected

    told(folder, story)


def test_a_killed_worker_comes_back_with_its_index_and_the_same_client(folder: Path) -> None:
    async def story(worker: Worker) -> None:
        await worker.client.put(T, "docs", [CATS, BREAD])
        worker.kill()  # perhaps between the commits of its tables, perhaps before any vector
        worker.start()
        assert len(await worker.client.held(T, "docs")) == 2
        await settled(worker.client)
        found = await worker.client.find(T, DOCS, "How do I bake?", limit=5)
        assert "bread" in documents(found)
        assert all(hit.cosine is not None for hit in found.hits)

    told(folder, story)


def test_kills_in_the_middle_of_changes_lose_no_acknowledged_document(folder: Path) -> None:
    async def story(worker: Worker) -> None:
        acknowledged: set[str] = set()

        async def put_all(first: int) -> None:
            for number in range(first, first + 200):
                text = f"Document number{number} is about topic{number}.\n" * 20
                document = Document(f"d{number}", f"{number}.md", "", "1", text)
                await worker.client.put(T, "docs", [document])
                acknowledged.add(document.id)

        for round_ in range(3):
            putting = asyncio.create_task(put_all(round_ * 1000))
            while len(acknowledged) < (round_ + 1) * 5:
                await asyncio.sleep(0)
            worker.process.kill()
            putting.cancel()
            await asyncio.gather(putting, return_exceptions=True)
            worker.forget()
            worker.start()
        assert acknowledged <= set(await worker.client.held(T, "docs"))
        for id_ in acknowledged:
            found = await worker.client.find(T, DOCS, f"topic{id_[1:]}", limit=5)
            assert id_ in documents(found)

    told(folder, story)


def test_the_keyword_index_is_rebuilt_when_it_is_lost(folder: Path) -> None:
    async def story(worker: Worker) -> None:
        await worker.client.put(T, "docs", [CATS])
        worker.kill()
        [keywords] = (folder / "index").glob("keywords-*")
        for file in keywords.iterdir():
            file.unlink()
        worker.start()
        await worker.client.held(T, "docs")  # answered behind the rebuilding
        found = await worker.client.find(T, DOCS, "the cat", limit=5)
        assert documents(found) == ["cats"]

    told(folder, story)


def test_a_damaged_index_file_is_started_anew_for_the_server_to_fill(folder: Path) -> None:
    async def story(worker: Worker) -> None:
        await worker.client.put(T, "docs", [CATS])
        worker.kill()
        for name in ("index.db-wal", "index.db-shm"):
            (folder / "index" / name).unlink(missing_ok=True)
        (folder / "index" / "index.db").write_bytes(b"not a database" * 1000)
        worker.start()
        assert await worker.client.held(T, "docs") == {}
        assert documents(await worker.client.find(T, DOCS, "cat", limit=5)) == []

    told(folder, story)


@pytest.mark.parametrize("part", ["*.store", "*.term", "meta.json"])
def test_a_damaged_keyword_index_is_made_anew(folder: Path, part: str) -> None:
    async def story(worker: Worker) -> None:
        await worker.client.put(T, "docs", [CATS])
        worker.kill()
        for file in (folder / "index").glob(f"keywords-*/{part}"):
            content = file.read_bytes()
            first, last = len(content) // 3, len(content) // 2 + 1
            file.write_bytes(content[:first] + b"\xa5" * (last - first) + content[last:])
        worker.start()
        try:
            found = await worker.client.find(T, DOCS, "the cat", limit=5)
        except WorkerUnreachableError:  # its supervisor would start it again
            assert worker.forget() == 1
            worker.start()
            found = await worker.client.find(T, DOCS, "the cat", limit=5)
        assert documents(found) == ["cats"]

    told(folder, story)


def test_a_table_that_breaks_under_the_worker_is_made_anew(folder: Path) -> None:
    async def story(worker: Worker) -> None:
        await worker.client.put(T, "docs", [CATS])
        before = await worker.client.fingerprint(str(folder), Rules())
        worker.kill()
        path = folder / "index" / "index.db"
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            [page] = connection.execute(
                "SELECT rootpage FROM sqlite_master WHERE name = 'documents'"
            ).fetchone()
        with path.open("r+b") as file:
            file.seek((page - 1) * 4096)
            file.write(b"\xa5" * 4096)
        worker.start()
        with suppress(WorkerUnreachableError):
            await worker.client.held(T, "docs")
        assert worker.forget() == 1
        worker.start()
        assert await worker.client.held(T, "docs") == {}
        # A watching server sees by this that there is something to do.
        assert await worker.client.fingerprint(str(folder), Rules()) != before

    told(folder, story)


def test_a_damaged_graph_costs_a_moment_and_no_vectors(folder: Path, graph: Path) -> None:
    damaged = folder / "index" / graph.name
    damaged.unlink()
    damaged.write_bytes(b"no graph")

    async def story(worker: Worker) -> None:
        await worker.client.put(T, "docs", [CATS])
        await worker.client.embed(["loaded"])
        state = await settled(worker.client)
        assert (state.chunks_pending, state.vectors_missing) == (0, None)
        found = await worker.client.find(T, DOCS, "happy felines", limit=5)
        assert not found.is_partial
        assert found.hits[0].cosine is not None
        assert found.hits[0].late is not None
        assert 0 < found.hits[0].late < 1

    told(folder, story)


def test_a_search_that_did_not_wait_for_the_embedder_says_so(folder: Path) -> None:
    async def story() -> None:
        boot = LibraryBoot("", str(folder / "index"))
        worker = LibraryWorker(boot, on_failure=lambda: None, embedder_wait_s=0.0)
        try:
            english = Find(T, ("docs",), "happy felines", 5)
            chinese = Find(T, ("docs",), "怎么安装软件包", 5)
            early = await worker.handle(english)
            await worker.handle(Embed(("loaded",)))
            await worker.handle(Held(T, "docs"))
            late = [await worker.handle(english), await worker.handle(chinese)]
        finally:
            await worker.close()
        assert isinstance(early, Found)
        assert early.is_partial
        assert late == [Found((), found.terms) for found in late if isinstance(found, Found)]

    asyncio.run(story())


def test_a_worker_without_memory_fails_the_request_and_ends_for_a_fresh_start(folder: Path) -> None:
    class Short(LibraryWorker):
        async def _handle(self, message: object) -> object:
            raise MemoryError

    async def story() -> None:
        ending = asyncio.Event()
        boot = LibraryBoot("", str(folder / "index"))
        worker = Short(boot, on_failure=ending.set, embedder_wait_s=0.0)
        try:
            with pytest.raises(MemoryError):
                await worker.handle(Held(T, "docs"))
            assert ending.is_set()
            assert isinstance(worker.failure, MemoryError)
        finally:
            await worker.close()

    asyncio.run(story())


def test_texts_are_embedded_in_order_with_their_tokens_counted(folder: Path) -> None:
    async def story(worker: Worker) -> None:
        embeddings = await worker.client.embed(["a cat", "a much longer text about bread"] * 10)
        assert len(embeddings.vectors) == 20
        assert len(embeddings.vectors[0]) == DIMENSIONS
        assert sum(x * y for x, y in zip(*embeddings.vectors[:2], strict=True)) < 0.9
        assert embeddings.tokens == 10 * (4 + 8)

    told(folder, story)


def test_files_are_listed_and_read_by_the_worker(folder: Path) -> None:
    documents = folder / "documents"
    documents.mkdir()
    (documents / "a.md").write_text("# Title\n")
    (documents / "b.md").write_bytes(b"\x00")

    async def story(worker: Worker) -> None:
        listing = await worker.client.listing(str(documents), Rules())
        assert [file.path for file in listing.files] == ["a.md", "b.md"]
        found = await worker.client.extract(str(documents), "a.md", bytes_max=1000)
        assert (found.text, found.title) == ("# Title\n", "Title")
        with pytest.raises(DocumentUnreadableError):
            await worker.client.extract(str(documents), "b.md", bytes_max=1000)
        with pytest.raises(FolderMissingError):
            await worker.client.listing(str(folder / "nope"), Rules())

    told(folder, story)


def test_searches_are_answered_while_documents_are_embedded(folder: Path) -> None:
    async def story(worker: Worker) -> None:
        await worker.client.embed(["loaded"])
        text = "\n\n".join(f"Paragraph {n} tells about subject {n % 7}. " * 12 for n in range(60))
        await worker.client.put(T, "docs", [Document("big", "big.md", "", "1", text)])
        times_s: list[float] = []
        while (await worker.client.state(T, "docs", wait_s=0)).chunks_pending:
            began_s = time.perf_counter()
            await worker.client.find(T, DOCS, "Which paragraph tells about subject 3?", limit=5)
            times_s.append(time.perf_counter() - began_s)
        assert len(times_s) > 3
        assert sorted(times_s)[len(times_s) // 2] < 0.5  # 0.1 on a machine with nothing else to do

    told(folder, story)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_it_ends_when_told_to_and_ignores_ctrl_c(
    folder: Path, number: signal.Signals, code: int
) -> None:
    with running(folder) as worker:
        worker.process.send_signal(signal.SIGINT)
        worker.process.send_signal(number)
        assert worker.forget() == code
        asyncio.run(worker.client.close())


def test_it_dies_with_its_supervisor(folder: Path) -> None:
    with running(folder) as worker:
        assert worker.process.stdin is not None
        worker.process.stdin.close()
        assert worker.forget() == EXIT_ORPHANED
        asyncio.run(worker.client.close())
