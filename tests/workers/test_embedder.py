"""The library worker as a real process, with its embedder behind a URL that misbehaves."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from murmurate.adapters.library import Embed, Find
from murmurate.config import EmbeddingsConfig, EmbeddingsEngine, Remote
from murmurate.core.errors import EngineUnreachableError, MissingPartError
from murmurate.knowledge.ports import Document, Found, LibraryState
from murmurate.workers.boot import LibraryBoot
from murmurate.workers.library import REST_S, LibraryWorker
from tests.adapters.remote_server import EmbeddingServer, Handler, in_turn, refusing, server
from tests.fakes import FakeClock
from tests.workers.test_library import BREAD, CATS, CHINESE, DOCS, Worker, documents, running

pytestmark = pytest.mark.e2e

T = "default"
KEY = "sk-secret-1"


def boot(url: str, **settings: Any) -> dict[str, Any]:
    """Return what the supervisor tells the library of an embedder at that URL."""
    config = EmbeddingsConfig(
        engine=EmbeddingsEngine.OPENAI, url=url, model="embed-3", timeout_s=5.0, **settings
    )
    return {"embeddings": config, "remote": Remote(url, KEY)}


def told(
    folder: Path, handler: Handler, tell: Callable[[Worker], Awaitable[None]], **settings: Any
) -> None:
    async def run() -> None:
        async with server(handler) as url:
            with running(folder, **boot(url, **settings)) as worker:
                try:
                    await tell(worker)
                finally:
                    await worker.client.close()

    asyncio.run(run())


async def settled(worker: Worker) -> LibraryState:
    while (state := await worker.client.state(T, "docs", wait_s=5)).chunks_pending:
        pass
    return state


async def counted(worker: Worker) -> tuple[int, str | None]:
    """Return how many chunks there are when all have vectors, and what is wrong."""
    state = await settled(worker)
    return state.chunks, state.vectors_missing


def test_documents_and_questions_of_any_language_get_vectors_of_the_server(tmp_path: Path) -> None:
    upstream = EmbeddingServer()

    async def tell(worker: Worker) -> None:
        await worker.client.put(T, "docs", [CATS, BREAD, CHINESE])
        assert await counted(worker) == (3, None)
        for question in ("happy felines", "怎么安装"):
            found = await worker.client.find(T, DOCS, question, limit=5)
            assert len(documents(found)) == 3
            assert all(hit.cosine is not None for hit in found.hits)
            assert not found.is_partial
        embeddings = await worker.client.embed(["a", "bb"])
        assert worker.client.dimensions == 3
        assert [round(vector[0] / vector[1]) for vector in embeddings.vectors] == [1, 2]

    told(tmp_path, upstream, tell, question_prefix="query: ", passage_prefix="passage: ")
    asked = [text for body in upstream.bodies for text in body["input"]]
    assert "query: happy felines" in asked
    assert sum(text.startswith("passage: ") for text in asked) == 3


def test_a_server_that_fails_leaves_search_by_words_and_says_so(tmp_path: Path) -> None:
    async def tell(worker: Worker) -> None:
        await worker.client.put(T, "docs", [CATS, BREAD])
        state = await settled(worker)
        assert state.chunks_pending == 0  # nobody waits for what may not come
        found = await worker.client.find(T, DOCS, "A cat purrs", limit=5)
        assert documents(found) == ["cats"]
        assert found.hits[0].cosine is None
        assert found.is_partial
        while (state := await worker.client.state(T, "docs", wait_s=0)).vectors_missing is None:
            await asyncio.sleep(0.01)
        assert state.vectors_missing == "embed-3 refuses its key (401): embeddings.key"
        with pytest.raises(EngineUnreachableError, match="refuses its key"):
            await worker.client.embed(["a"])

    told(tmp_path, refusing(401, f"no: {KEY}"), tell)


@pytest.mark.parametrize(
    ("status", "words"), [(401, "refuses its key"), (400, "every text is refused: embed-3: no")]
)
def test_a_server_that_comes_back_gives_all_chunks_their_vectors(
    tmp_path: Path, status: int, words: str
) -> None:
    away = asyncio.Event()
    upstream = EmbeddingServer()

    async def handler(request: web.Request) -> web.StreamResponse:
        if away.is_set():
            return web.Response(status=status, text="no")
        return await upstream(request)

    async def tell(worker: Worker) -> None:
        await worker.client.embed(["loaded"])
        away.set()
        await worker.client.put(T, "docs", [CATS])
        while (state := await worker.client.state(T, "docs", wait_s=0)).vectors_missing is None:
            await asyncio.sleep(0.01)
        assert words in state.vectors_missing
        assert (await worker.client.find(T, DOCS, "cat", limit=5)).is_partial
        away.clear()
        while (await worker.client.state(T, "docs", wait_s=0)).vectors_missing is not None:
            await asyncio.sleep(0.05)
        while not (await worker.client.find(T, DOCS, "cat", limit=5)).hits[0].cosine:
            await asyncio.sleep(0.05)
        found = await worker.client.find(T, DOCS, "cat", limit=5)
        assert found.hits[0].cosine is not None
        assert not found.is_partial

    told(tmp_path, handler, tell)


def test_after_a_failure_searches_do_not_wait_for_the_embedder_for_a_while(tmp_path: Path) -> None:
    async def run() -> None:
        clock, upstream = FakeClock(), EmbeddingServer()
        away, questions = asyncio.Event(), 0

        async def handler(request: web.Request) -> web.StreamResponse:
            nonlocal questions
            questions += 1
            return web.Response(status=401) if away.is_set() else await upstream(request)

        async with server(handler) as url:
            told = LibraryBoot("", str(tmp_path), **boot(url))
            worker = LibraryWorker(told, on_failure=lambda: None, clock=clock)
            try:
                await worker.handle(Embed(("loaded",)))
                away.set()
                partial: list[bool] = []
                for passes_s in (0, 1, REST_S):
                    clock.time_s += passes_s
                    found = await worker.handle(Find(T, ("docs",), "cat", 5))
                    assert isinstance(found, Found)
                    partial.append(found.is_partial)
                assert partial == [True, True, True]
                assert questions == 4  # the probe, one to load, and two of the three searches
            finally:
                await worker.close()

    asyncio.run(run())


def test_a_question_that_fails_says_nothing_of_the_chunks_that_wait(tmp_path: Path) -> None:
    held, upstream = asyncio.Event(), EmbeddingServer()

    async def handler(request: web.Request) -> web.StreamResponse:
        texts = (await request.json())["input"]
        if any("which" in text for text in texts):
            return web.Response(status=401)
        if any("purrs" in text for text in texts):
            await held.wait()
        return await upstream(request)

    async def tell(worker: Worker) -> None:
        await worker.client.embed(["loaded"])
        await worker.client.put(T, "docs", [CATS])
        assert (await worker.client.find(T, DOCS, "which cat", limit=5)).is_partial
        state = await worker.client.state(T, "docs", wait_s=0)
        assert (state.chunks_pending, state.vectors_missing) == (1, None)
        held.set()
        assert await counted(worker) == (1, None)

    told(tmp_path, handler, tell)


def test_after_trouble_whoever_waits_for_vectors_waits_again(tmp_path: Path) -> None:
    away, held = asyncio.Event(), asyncio.Event()
    upstream = EmbeddingServer()
    passages = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal passages
        if away.is_set():
            return web.Response(status=401)
        passages += sum("part" in text for text in (await request.json())["input"])
        if passages > 64:  # the second round of chunks, after the first has gone well
            await held.wait()
        return await upstream(request)

    text = "".join(f"# Title {n}\n\n" + f"This is part {n} of it. " * 9 + "\n\n" for n in range(70))

    async def tell(worker: Worker) -> None:
        await worker.client.embed(["loaded"])
        away.set()
        await worker.client.put(T, "docs", [Document("big", "big.md", "Big", "1", text)])
        while (await worker.client.state(T, "docs", wait_s=0)).vectors_missing is None:
            await asyncio.sleep(0.01)
        away.clear()
        while (state := await worker.client.state(T, "docs", wait_s=0)).vectors_missing is not None:
            await asyncio.sleep(0.01)
        assert 0 < state.chunks_pending < 70
        waiting = asyncio.create_task(worker.client.state(T, "docs", wait_s=60))
        done, _ = await asyncio.wait({waiting}, timeout=0.3)
        assert not done
        held.set()
        assert (await waiting).chunks_pending == 0

    told(tmp_path, handler, tell, batch_texts=2048)


def test_a_passage_that_the_server_refuses_stops_no_other(tmp_path: Path) -> None:
    upstream = EmbeddingServer()

    async def handler(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if any("dough" in text for text in body["input"]):
            return web.Response(status=400, text="too long")
        return await upstream(request)

    async def tell(worker: Worker) -> None:
        await worker.client.put(T, "docs", [CATS, BREAD])
        assert await counted(worker) == (2, None)
        found = await worker.client.find(T, DOCS, "cats and bread", limit=5)
        cosines = {hit.document: hit.cosine for hit in found.hits}
        assert cosines["cats"] is not None
        assert cosines["bread"] is None

    told(tmp_path, handler, tell)


def test_another_model_or_size_makes_all_vectors_anew(tmp_path: Path) -> None:
    async def put(worker: Worker) -> None:
        await worker.client.put(T, "docs", [CATS, BREAD])
        await settled(worker)

    async def wait(worker: Worker) -> None:
        assert await counted(worker) == (2, None)
        found = await worker.client.find(T, DOCS, "cat", limit=5)
        assert not found.is_partial
        assert {hit.document for hit in found.hits if hit.cosine is not None} == {"cats", "bread"}

    first, again, other = EmbeddingServer(), EmbeddingServer(), EmbeddingServer()

    async def run() -> None:
        handlers = {"now": first}

        async def handler(request: web.Request) -> web.StreamResponse:
            return await handlers["now"](request)

        async with server(handler) as url:
            for upstream, settings, tell in (
                (first, {}, put),
                (again, {}, wait),
                (other, {"dimensions": 5}, wait),
            ):
                handlers["now"] = upstream
                with running(tmp_path, **boot(url, **settings)) as worker:
                    await tell(worker)
                    await worker.client.close()

    asyncio.run(run())

    def passages(upstream: EmbeddingServer) -> int:
        return sum("\n" in text for body in upstream.bodies for text in body["input"])

    assert [passages(upstream) for upstream in (first, again, other)] == [2, 0, 2]


def test_without_an_embedder_search_goes_by_words(tmp_path: Path) -> None:
    async def run() -> None:
        config = EmbeddingsConfig(engine=EmbeddingsEngine.NONE)
        with running(tmp_path, embeddings=config) as worker:
            await worker.client.put(T, "docs", [CATS])
            state = await settled(worker)
            assert state.vectors_missing == "embeddings.engine is none"
            found = await worker.client.find(T, DOCS, "cat", limit=5)
            assert documents(found) == ["cats"]
            assert not found.is_partial
            with pytest.raises(MissingPartError):
                await worker.client.embed(["a"])
            await worker.client.close()

    asyncio.run(run())


def test_changes_are_taken_while_the_embedder_is_slow(tmp_path: Path) -> None:
    async def run() -> None:
        held = asyncio.Event()
        upstream = EmbeddingServer()

        async def slow(request: web.Request) -> web.StreamResponse:
            await held.wait()
            return await upstream(request)

        async with server(in_turn(upstream, slow)) as url:
            with running(tmp_path, **boot(url)) as worker:
                await worker.client.put(T, "docs", [CATS])
                await worker.client.put(T, "docs", [BREAD])
                await worker.client.drop(T, "docs", ["cats"])
                assert set(await worker.client.held(T, "docs")) == {"bread"}
                held.set()
                assert await counted(worker) == (1, None)
                found = await worker.client.find(T, DOCS, "anything", limit=5)
                assert documents(found) == ["bread"]
                await worker.client.put(T, "docs", [Document("z", "z.md", "Z", "1", "Zed.")])
                await worker.client.close()

    asyncio.run(run())
