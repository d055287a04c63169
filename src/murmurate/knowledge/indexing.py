"""Documents into the index, batch after batch, past those that it cannot take."""

import asyncio
from collections.abc import Callable, Sequence

from murmurate.core.errors import DocumentUnreadableError, IndexUnwritableError, MurmurateError
from murmurate.knowledge.ports import Document, Library

BATCH_DOCUMENTS = 32
"""Documents per commit of the log, and per change of the index."""
BATCH_CHARS = 1_000_000
GUILTY_MAX = 20
"""Documents that one sync finds to fail or to end the library: with more it is not they."""


class Batch:
    """Documents that go into the index together."""

    def __init__(self) -> None:
        self._documents: list[Document] = []
        self._chars = 0

    @property
    def is_full(self) -> bool:
        """Say whether it is time to take them."""
        return len(self._documents) >= BATCH_DOCUMENTS or self._chars >= BATCH_CHARS

    def add(self, document: Document) -> None:
        """Put one more to the others."""
        self._documents.append(document)
        self._chars += len(document.text)

    def taken(self) -> list[Document]:
        """Return the documents, and begin again without any."""
        documents, self._documents, self._chars = self._documents, [], 0
        return documents


class Indexing:
    """Puts documents of one collection into the index, one batch behind the caller's back.

    `on_refused` hears of a document that fails by itself while the library takes others. An error
    of the library, which no document is to blame for, is raised by the next `put` or `done`.
    """

    def __init__(
        self,
        library: Library,
        *,
        tenant: str,
        name: str,
        on_refused: Callable[[Document, MurmurateError], None],
    ) -> None:
        self._library = library
        self._tenant = tenant
        self._name = name
        self._on_refused = on_refused
        self._putting: asyncio.Task[None] | None = None
        self._guilty = 0

    async def put(self, documents: Sequence[Document]) -> None:
        """Index documents; wait for those before them, so that one batch waits."""
        await self.done()
        if documents:
            self._putting = asyncio.create_task(self._put(documents))

    async def done(self) -> None:
        """Wait for the batch that is under way."""
        putting, self._putting = self._putting, None
        if putting is not None:
            await putting

    async def close(self) -> None:
        """Leave off."""
        if self._putting is not None:
            self._putting.cancel()
            await asyncio.gather(self._putting, return_exceptions=True)

    async def _put(self, documents: Sequence[Document]) -> None:
        try:
            await self._library.put(self._tenant, self._name, documents)
        except IndexUnwritableError:
            raise
        except DocumentUnreadableError:
            pass
        except MurmurateError:
            await self._is_well()
        else:
            return
        for document in documents:
            await self._put_alone(document)

    async def _put_alone(self, document: Document) -> None:
        try:
            await self._library.put(self._tenant, self._name, [document])
        except IndexUnwritableError:
            raise
        except DocumentUnreadableError as error:
            self._on_refused(document, error)
        except MurmurateError as error:
            await self._is_well()
            self._guilty += 1
            if self._guilty > GUILTY_MAX:
                raise
            self._on_refused(document, error)

    async def _is_well(self) -> None:
        """Raise when the library is away, or cannot even write that nothing is new."""
        await self._library.put(self._tenant, self._name, [])
