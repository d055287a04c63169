"""What the index cannot take is left out; what no document is to blame for stops the sync."""

import asyncio
from collections.abc import Sequence

import pytest

from murmurate.core.errors import IndexUnwritableError, MurmurateError, WorkerUnreachableError
from murmurate.knowledge.indexing import GUILTY_MAX, Indexing
from murmurate.knowledge.ports import Document
from tests.knowledge.test_service import FakeLibrary, T


class Away(FakeLibrary):
    """A library whose index answers nothing."""

    async def put(self, tenant: str, collection: str, documents: Sequence[Document]) -> None:
        raise WorkerUnreachableError("no worker answers")


def indexed(library: FakeLibrary, *paths: str) -> list[str]:
    """Index documents of these paths; return those that were refused."""
    refused: list[str] = []

    def note(document: Document, error: MurmurateError) -> None:
        refused.append(document.path)

    async def run() -> None:
        indexing = Indexing(library, tenant=T, name="docs", on_refused=note)
        await indexing.put([Document(path, path, "", "1", "cats") for path in paths])
        await indexing.done()

    asyncio.run(run())
    return refused


def test_the_guilty_document_is_found_and_the_others_are_indexed() -> None:
    library = FakeLibrary(poison={"b": WorkerUnreachableError("the worker went away")})
    assert indexed(library, "a", "b", "c") == ["b"]
    assert sorted(library.index) == ["a", "c"]


def test_a_batch_that_broke_off_once_is_nobodys_fault() -> None:
    library = FakeLibrary(down=1)
    assert indexed(library, "a", "b") == []
    assert sorted(library.index) == ["a", "b"]


def test_a_library_that_is_away_is_no_fault_of_the_documents() -> None:
    with pytest.raises(WorkerUnreachableError, match="no worker answers"):
        indexed(Away(), "a", "b")


def test_a_full_disk_is_no_fault_of_the_document_that_met_it() -> None:
    library = FakeLibrary(poison={"big": IndexUnwritableError("the index cannot be written: full")})
    with pytest.raises(IndexUnwritableError):
        indexed(library, "big")


def test_when_too_many_documents_fail_it_is_not_they() -> None:
    paths = [str(number) for number in range(GUILTY_MAX + 1)]
    gone = WorkerUnreachableError("the worker went away")
    assert len(indexed(FakeLibrary(poison=dict.fromkeys(paths, gone)), *paths[1:])) == GUILTY_MAX
    with pytest.raises(WorkerUnreachableError):
        indexed(FakeLibrary(poison=dict.fromkeys(paths, gone)), *paths)
