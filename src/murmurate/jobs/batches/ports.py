"""What batches need of the rest."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Protocol

from murmurate.core.errors import MurmurateError
from murmurate.core.ports import Claim, Entry
from murmurate.core.types import Caller, Delta, Request, TraceRef


class Asking(Protocol):
    """An endpoint whose lines become runs: what they do is journaled, and done once."""

    async def request(
        self, caller: Caller, body: bytes, *, run_id: str, trace: TraceRef
    ) -> Request:
        """Return what a line asks for. `MurmurateError`: it can't be asked for, now or ever."""
        ...

    def begun(self, request: Request) -> None:
        """Hear that a line has begun, once it is certain."""
        ...

    def written(self, deltas: Sequence[Delta], *, run_id: str, model: str, at_ms: int) -> bytes:
        """Return an answer as the body of a response."""
        ...


class Computing(Protocol):
    """An endpoint whose lines have no effects: they are computed in groups, again after a crash."""

    async def computed(
        self, caller: Caller, bodies: Sequence[bytes]
    ) -> Sequence[bytes | MurmurateError]:
        """Return the body of each response, or why there is none; in order."""
        ...


class Terms(Protocol):
    """How long a batch may take, and what else its client says of it."""

    @property
    def window(self) -> str:
        """The time it has, as the client wrote it."""
        ...

    @property
    def window_ms(self) -> int:
        """The same in milliseconds."""
        ...

    @property
    def metadata(self) -> Mapping[str, str] | None:
        """What the client wants to find there again."""
        ...

    @property
    def output_expires_s(self) -> float | None:
        """How long its results are kept; None: as long as files are."""
        ...


class FileInfo(Protocol):
    """A file that is there."""

    @property
    def id(self) -> str:
        """Its id."""
        ...

    @property
    def purpose(self) -> str:
        """What it is for."""
        ...


class Writing(Protocol):
    """A content on its way into the log."""

    @property
    def size_bytes(self) -> int:
        """How much was written."""
        ...

    async def write(self, chunk: bytes) -> None:
        """Take some more bytes."""
        ...

    async def close(self) -> None:
        """Put all of it on disk."""
        ...

    async def abandon(self) -> None:
        """Delete what was written."""
        ...

    def added(
        self, filename: str, purpose: str, *, expires_s: float | None
    ) -> tuple[FileInfo, Entry]:
        """Return the file that it becomes, and the entry that makes it one."""
        ...


class Files(Protocol):
    """Where lines come from and results go. What is another tenant's is `NotFoundError`."""

    async def show(self, tenant: str, file_id: str) -> FileInfo:
        """Return what is known of a file."""
        ...

    def content(self, tenant: str, file_id: str, *, start: int = 0) -> AsyncGenerator[bytes]:
        """Yield what it holds from the byte `start` on. `LogCorruptError`: it is damaged."""
        ...

    def writing(self, tenant: str, *, fence: Claim | None = None) -> Writing:
        """Begin a content that nobody sees before the entry of its `added` is appended."""
        ...
