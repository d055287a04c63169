"""The stage of a contract: a log for each test, and words to tell its story with."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TypeVar

from murmurate.core.errors import MurmurateError
from murmurate.core.ports import Entry, Log, Stored, StreamInfo

_T = TypeVar("_T")

STORY_S = 60.0
"""A test that takes longer hangs."""

T = "default"
S = "session/1"


class Stories:
    """Each test is a story of a log of its own."""

    async def make_log(self) -> Log:
        """Return a new, empty log."""
        raise NotImplementedError

    def play(self, story: Callable[[Log], Awaitable[None]]) -> None:
        """Run the story of one test on a log of its own."""

        async def whole() -> None:
            log = await self.make_log()
            try:
                async with asyncio.timeout(STORY_S):
                    await story(log)
            finally:
                await log.close()

        asyncio.run(whole())


def entry(body: str, *, tenant: str = T, stream: str = S) -> Entry:
    """Return an entry for a test."""
    return Entry(tenant, stream, "note", body.encode())


async def all_of(generator: AsyncGenerator[_T]) -> list[_T]:
    """Return all that the generator yields."""
    async with aclosing(generator):
        return [item async for item in generator]


async def refused(work: Awaitable[object], error: type[MurmurateError]) -> None:
    """Await the work and expect that error of it."""
    try:
        await work
    except error:
        return
    raise AssertionError(f"{error.__name__} was expected")


def bodies_of(entries: Sequence[Stored]) -> list[str]:
    """Return the bodies as text."""
    return [stored.body.decode() for stored in entries]


def seqs_of(entries: Sequence[Stored]) -> list[int]:
    """Return the seqs."""
    return [stored.seq for stored in entries]


def positions_of(entries: Sequence[Stored]) -> list[int]:
    """Return the positions."""
    return [stored.position for stored in entries]


def names_of(streams: Sequence[StreamInfo]) -> list[str]:
    """Return the names of the streams."""
    return [info.stream for info in streams]
