"""What an engine is beside a `Model`: it lives, may be ill, and is closed at the end."""

from typing import Protocol

from murmurate.core.ports import Model


class Engine(Model, Protocol):
    """A model with a life of its own: a process, a connection or a script."""

    async def health(self) -> bool:
        """Say within a second whether a request sent now would be taken."""
        ...

    async def close(self) -> None:
        """Release what the engine holds; requests still running fail."""
        ...
