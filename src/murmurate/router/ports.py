"""What the router needs of an upstream beside its answers."""

from typing import Protocol

from murmurate.core.ports import Model


class Upstream(Model, Protocol):
    """One of the servers that stand for a model."""

    async def health(self) -> bool:
        """Say within a second whether a request sent now would be taken."""
        ...

    async def close(self) -> None:
        """Release its connections; requests still running fail."""
        ...
