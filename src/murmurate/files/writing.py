"""Writes the content of a file, piece by piece: never more than one piece of it is in memory."""

import hashlib

from murmurate.core.clock import Clock
from murmurate.core.ports import Claim, Entry, Log
from murmurate.files.entries import PIECE_BYTES, FileInfo, Kind, added, id_of, stream_of


class Writing:
    """A content on its way into the log. Nobody sees it before an entry says that it is a file."""

    def __init__(
        self,
        log: Log,
        tenant: str,
        file_id: str,
        *,
        clock: Clock,
        kept_s: float,
        fence: Claim | None = None,
    ) -> None:
        """It is kept for `kept_s`, unless it says how long.

        Under a `fence`, whoever lost that work can write no more.
        """
        self._clock = clock
        self._kept_s = kept_s
        self._log = log
        self._tenant = tenant
        self._stream = stream_of(file_id)
        self._fence = fence
        self._held = bytearray()
        self._sha256 = hashlib.sha256()
        self._pieces = 0
        self.size_bytes = 0

    @property
    def place(self) -> tuple[str, str]:
        """Whose it is, and the stream that has it."""
        return self._tenant, self._stream

    @property
    def pieces(self) -> int:
        """How many pieces are in the log: its stream ends there, unless it was swept away."""
        return self._pieces

    async def write(self, chunk: bytes) -> None:
        """Take some more bytes; whole pieces are on disk when this returns."""
        self._held += chunk
        self._sha256.update(chunk)
        self.size_bytes += len(chunk)
        while len(self._held) >= PIECE_BYTES:
            piece = bytes(self._held[:PIECE_BYTES])
            del self._held[:PIECE_BYTES]
            await self._append(piece)

    async def close(self) -> None:
        """Write what is left; all of it is on disk then."""
        if self._held:
            piece = bytes(self._held)
            self._held.clear()
            await self._append(piece)

    def info(self, filename: str, purpose: str, *, expires_s: float | None) -> FileInfo:
        """Return the file that it has become."""
        now_ms = self._clock.unix_ms()
        kept_s = self._kept_s if expires_s is None else expires_s
        return FileInfo(
            id_of(self._stream),
            filename,
            purpose,
            self.size_bytes,
            self._sha256.hexdigest(),
            now_ms,
            now_ms + int(kept_s * 1000),
        )

    def added(
        self, filename: str, purpose: str, *, expires_s: float | None
    ) -> tuple[FileInfo, Entry]:
        """Return the file, and the entry that makes it one, to be appended with whatever else.

        It counts among what the tenant has, but is never refused: the work is done already.
        """
        info = self.info(filename, purpose, expires_s=expires_s)
        return info, added(self._tenant, info)

    async def abandon(self) -> None:
        """Delete what was written."""
        if self._pieces:
            await self._log.forget(self._tenant, self._stream)

    async def _append(self, piece: bytes) -> None:
        entry = Entry(self._tenant, self._stream, Kind.PIECE.value, piece)
        await self._log.append([entry], expected={self.place: self._pieces}, fence=self._fence)
        self._pieces += 1
