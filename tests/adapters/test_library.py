"""The client of the library worker: what it says, and what it tries again."""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager

import pytest

from murmurate.adapters.library import (
    EXTRACT_S,
    Drop,
    Embed,
    Extract,
    Find,
    Fingerprint,
    Held,
    LibraryClient,
    List,
    Put,
    State,
)
from murmurate.adapters.wire import serve
from murmurate.core.clock import SystemClock
from murmurate.core.errors import DocumentUnreadableError, MissingPartError, WorkerUnreachableError
from murmurate.core.ports import Embeddings
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
from murmurate.knowledge.rules import Rules

Messages = List | Fingerprint | Extract | Held | Put | Drop | State | Find | Embed
DOCUMENT = Document("d", "a.md", "A", "s", "text")
REPLIES: dict[type, object] = {
    List: Listing((FileSeen("a.md", 1, 2**62),), (Problem("b", "why"),)),
    Fingerprint: "abc",
    Extract: Extracted("text", "A", "s", 1, 2),
    Held: {"d": "s"},
    Put: None,
    Drop: None,
    State: LibraryState(3, 1, None, "minilm", 384, 99),
    Find: Found(
        (Hit("d", "c", "a.md", "A", "A > B", "text", 0, 4, 1, 1, None, 1.5),), (Term("w", 2.0),)
    ),
    Embed: Embeddings(((0.5, 0.5),), 3),
}


class Library:
    """Answers from the script above, or with an error."""

    def __init__(self, *, error: Exception | None = None) -> None:
        self.seen: list[object] = []
        self.error = error

    async def handle(self, message: Messages) -> object:
        self.seen.append(message)
        if self.error is not None:
            raise self.error
        return REPLIES[type(message)]


@asynccontextmanager
async def connected(
    library: Library, *, extract_s: float = EXTRACT_S
) -> AsyncGenerator[LibraryClient]:
    with tempfile.TemporaryDirectory() as folder:
        server = await serve(f"{folder}/s", Messages, library.handle)
        client = LibraryClient(f"{folder}/s", clock=SystemClock(), extract_s=extract_s)
        try:
            yield client
        finally:
            await client.close()
            server.close()


def story(tell: Callable[[], Coroutine[object, object, None]]) -> Callable[[], None]:
    def test() -> None:
        asyncio.run(tell())

    test.__name__ = tell.__name__
    return test


@story
async def test_every_message_and_reply_survives_the_wire() -> None:
    library = Library()
    async with connected(library) as client:
        assert await client.listing("/f", Rules()) == REPLIES[List]
        assert await client.fingerprint("/f", Rules()) == REPLIES[Fingerprint]
        assert await client.extract("/f", "a.md", bytes_max=9) == REPLIES[Extract]
        assert await client.held("t", "c") == REPLIES[Held]
        await client.put("t", "c", [DOCUMENT])
        await client.drop("t", "c", ["d"])
        assert await client.state("t", "c", wait_s=0.5) == REPLIES[State]
        assert await client.find("t", ["c"], "问题?", limit=5) == REPLIES[Find]
        assert await client.embed(["one"]) == REPLIES[Embed]
    assert library.seen == [
        List("/f", Rules()),
        Fingerprint("/f", Rules()),
        Extract("/f", "a.md", 9),
        Held("t", "c"),
        Put("t", "c", (DOCUMENT,)),
        Drop("t", "c", ("d",)),
        State("t", "c", 0.5),
        Find("t", ("c",), "问题?", 5),
        Embed(("one",)),
    ]


@story
async def test_an_error_of_the_worker_arrives_as_what_it_is() -> None:
    async with connected(Library(error=MissingPartError("pip install it"))) as client:
        with pytest.raises(MissingPartError, match="pip install it"):
            await client.embed(["one"])
    async with connected(Library(error=DocumentUnreadableError("a.md: binary"))) as client:
        with pytest.raises(DocumentUnreadableError):
            await client.extract("/f", "a.md", bytes_max=9)


@story
async def test_a_file_that_waits_too_long_is_told_from_one_that_ends_the_worker() -> None:
    class Slow(Library):
        async def handle(self, message: Messages) -> object:
            return await asyncio.Event().wait()

    async with connected(Slow(), extract_s=0.01) as client:
        with pytest.raises(DocumentUnreadableError, match="not read within") as error:
            await client.extract("/f", "a.md", bytes_max=9)
        assert error.value.retry_s is not None


class Caller:
    """Fails the first `breaks` calls as a worker that is being restarted does."""

    def __init__(self, breaks: int) -> None:
        self.breaks = breaks
        self.calls = 0

    async def call(self, message: object, *, timeout_s: float) -> object:
        assert timeout_s > 0
        self.calls += 1
        if self.calls <= self.breaks:
            raise WorkerUnreachableError("the worker went away")
        return REPLIES[type(message)]


def client_of(caller: Caller) -> LibraryClient:
    client = LibraryClient("/nowhere", clock=SystemClock())
    client._caller = caller  # pyright: ignore[reportAttributeAccessIssue]
    return client


@story
async def test_a_call_that_broke_off_is_made_once_more() -> None:
    caller = Caller(breaks=1)
    assert await client_of(caller).find("t", ["c"], "q", limit=1) == REPLIES[Find]
    assert caller.calls == 2
    caller = Caller(breaks=2)
    with pytest.raises(WorkerUnreachableError):
        await client_of(caller).held("t", "c")
    assert caller.calls == 2


@story
async def test_a_file_that_may_have_killed_the_worker_is_not_read_again() -> None:
    caller = Caller(breaks=1)
    with pytest.raises(WorkerUnreachableError):
        await client_of(caller).extract("/f", "a.md", bytes_max=9)
    assert caller.calls == 1
