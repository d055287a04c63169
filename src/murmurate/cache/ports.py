"""What the cache needs of the outside."""

from typing import Protocol


class Shared(Protocol):
    """Answers that several servers share. Nothing it does fails: what it can't do is a miss."""

    async def get(self, key: bytes) -> tuple[bytes, float] | None:
        """Return a value and for how many seconds it is good; None within parts of a second."""
        ...

    def put(self, key: bytes, value: bytes, *, ttl_s: float) -> None:
        """Keep a value for so long; nobody waits for it."""
        ...
