"""What the router needs of an upstream beside its answers."""

from collections.abc import AsyncGenerator
from typing import Protocol

from murmurate.core.types import Delta, Request


class Upstream(Protocol):
    """One of the servers that stand for a model."""

    def answer(self, request: Request, *, within_s: float) -> AsyncGenerator[Delta]:
        """Yield deltas as a `Model` does; `EngineFailedError` when it takes longer than this."""
        ...

    async def health(self) -> bool:
        """Say within a second whether a request sent now would be taken."""
        ...

    async def close(self) -> None:
        """Release its connections; requests still running fail."""
        ...
