"""Files: kept whole in the log, listed, read, removed; bounded for each file and each tenant."""

import hashlib
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress

from murmurate.core.clock import Clock
from murmurate.core.errors import (
    BadRequestError,
    FilesFullError,
    FileTooLargeError,
    LogConflictError,
    LogCorruptError,
    LogUnavailableError,
    MurmurateError,
    NotFoundError,
    OverloadedError,
)
from murmurate.core.ids import Ids
from murmurate.core.ports import Claim, Entry, Log
from murmurate.core.types import Frozen
from murmurate.files.entries import (
    INDEX,
    PIECE_BYTES,
    PREFIX,
    FileInfo,
    Index,
    Kind,
    added,
    folded,
    id_made_ms,
    id_of,
    new_id,
    removed,
    snapshot_of,
    stream_of,
)
from murmurate.files.writing import Writing

UPLOADS_MAX = 32
"""Uploads that one server takes at a time: each holds about two pieces in memory."""
TRIES_MAX = 16
"""So often in a row another server may add a file of the tenant before us; then it is too busy."""
UNFOLDED_MAX = 256
"""After so many entries a snapshot stands for a tenant's list."""
LATE_MS = 3_600_000
"""How much longer than any upload takes a content without a file is left alone."""


class FileLimits(Frozen, frozen=True):
    """What a file and a tenant may take, and how long a file is kept that doesn't say."""

    file_bytes_max: int
    tenant_bytes_max: int
    files_max: int
    upload_s: float
    kept_s: float


class Files:
    """The files of all tenants. What is another tenant's is `NotFoundError`."""

    def __init__(self, limits: FileLimits, *, log: Log, clock: Clock, ids: Ids) -> None:
        self.limits = limits
        self._log = log
        self._clock = clock
        self._ids = ids
        self._uploads = 0
        self._arriving: Counter[str] = Counter()
        """Bytes of each tenant that are in the log and not in its list yet."""

    @asynccontextmanager
    async def upload(self, tenant: str) -> AsyncGenerator["Upload"]:
        """Take a file in; unless it is kept before the block ends, nothing of it stays.

        Raises:
            OverloadedError: As many arrive as this server takes at a time.
            FilesFullError: The tenant has as many as it may.
        """
        if self._uploads >= UPLOADS_MAX:
            raise OverloadedError(
                f"{UPLOADS_MAX} files are being uploaded: the most this server takes", retry_s=1
            )
        self._uploads += 1
        try:
            index = await self._index(tenant)
            alive = index.alive(self._clock.unix_ms())
            self.check_room(tenant, alive, more_bytes=self._arriving[tenant])
            kept_bytes = sum(info.size_bytes for info in alive)
            upload = Upload(self, self.writing(tenant), tenant, kept_bytes=kept_bytes)
            try:
                yield upload
            finally:
                await upload.close()
        finally:
            self._uploads -= 1

    def writing(self, tenant: str, *, fence: Claim | None = None) -> Writing:
        """Begin a content of our own, such as what a batch comes to; see `Writing.added`."""
        return Writing(
            self._log,
            tenant,
            new_id(self._ids),
            clock=self._clock,
            kept_s=self.limits.kept_s,
            fence=fence,
        )

    async def listing(
        self, tenant: str, *, purpose: str | None = None, newest_first: bool = True
    ) -> Sequence[FileInfo]:
        """Return the files of a tenant, in the order of time."""
        alive = (await self._index(tenant)).alive(self._clock.unix_ms())
        found = [info for info in alive if purpose in (None, info.purpose)]
        return found[::-1] if newest_first else found

    async def show(self, tenant: str, file_id: str) -> FileInfo:
        """Return what is known of a file, or `NotFoundError`."""
        info = (await self._index(tenant)).files.get(file_id)
        if info is None or not info.is_alive(self._clock.unix_ms()):
            raise NotFoundError(f"there is no file {file_id[:64]!r}")
        return info

    async def content(self, tenant: str, file_id: str, *, start: int = 0) -> AsyncGenerator[bytes]:
        """Yield what a file holds from the byte `start` on.

        Raises:
            NotFoundError: There is none, or it was removed before its end.
            LogCorruptError: It is not as it was written; told behind its last byte.
        """
        info = await self.show(tenant, file_id)
        sha256, size_bytes = hashlib.sha256(), start // PIECE_BYTES * PIECE_BYTES
        skip = start % PIECE_BYTES
        pieces = self._log.read(tenant, stream_of(file_id), after=start // PIECE_BYTES)
        async with aclosing(pieces) as read:
            async for stored in read:
                if stored.kind != Kind.PIECE:
                    break
                sha256.update(stored.body)
                size_bytes += len(stored.body)
                yield stored.body[skip:] if skip else stored.body
                skip = 0
        if size_bytes == info.size_bytes and (start or sha256.hexdigest() == info.sha256):
            return
        await self.show(tenant, file_id)
        raise LogCorruptError(
            f"the file {file_id} has {size_bytes} of {info.size_bytes} bytes, or others than were"
            " uploaded: upload it again"
        )

    async def remove(self, tenant: str, file_id: str) -> None:
        """Delete a file, or `NotFoundError`."""
        await self.show(tenant, file_id)
        await self._log.append([removed(tenant, file_id)])
        await self._log.forget(tenant, stream_of(file_id))
        await self._fold(tenant)

    async def sweep(self, tenant: str) -> int:
        """Delete what has expired, and what uploads that broke off have left; return how many."""
        index, now_ms = await self._index(tenant), self._clock.unix_ms()
        gone = [info.id for info in index.files.values() if not info.is_alive(now_ms)]
        if gone:
            await self._log.append([removed(tenant, file_id) for file_id in gone])
        for file_id in gone:
            await self._log.forget(tenant, stream_of(file_id))
        late_ms = now_ms - int(self.limits.upload_s * 1000) - LATE_MS
        async with aclosing(self._log.streams(tenant, PREFIX)) as streams:
            found = [(it.stream, it.head) async for it in streams]
        left = [
            (stream, head)
            for stream, head in found
            if id_of(stream) not in index.files and id_made_ms(id_of(stream)) < late_ms
        ]
        for stream, head in left:
            # Whoever still writes it, after so long, finds this entry there and must stop.
            last = Entry(tenant, stream, Kind.ABANDONED.value, b"")
            seen = {(tenant, stream): head, (tenant, INDEX): index.head + len(gone)}
            with suppress(LogConflictError):  # it was added meanwhile, or another file was
                await self._log.append([last], expected=seen)
                await self._log.forget(tenant, stream)
        await self._fold(tenant)
        return len(gone) + len(left)

    # What an upload needs

    def check_room(self, tenant: str, alive: Sequence[FileInfo], *, more_bytes: int) -> None:
        """Refuse what the tenant has no room for: `FilesFullError`."""
        limits, size_bytes = self.limits, sum(info.size_bytes for info in alive)
        if len(alive) >= limits.files_max:
            raise FilesFullError(
                f"the tenant {tenant!r} has {len(alive)} of {limits.files_max} files:"
                " delete some, or wait until they expire"
            )
        if size_bytes + more_bytes > limits.tenant_bytes_max:
            raise FilesFullError(
                f"the files of the tenant {tenant!r} have {size_bytes} of"
                f" {limits.tenant_bytes_max} bytes, and this one is more than what is left:"
                " delete some, or wait until they expire"
            )

    def arriving(self, tenant: str) -> int:
        """Return how many bytes of a tenant are on their way."""
        return self._arriving[tenant]

    def arrives(self, tenant: str, size_bytes: int) -> None:
        """Count bytes that are on their way, or, below 0, have arrived or will not."""
        self._arriving[tenant] += size_bytes
        if not self._arriving[tenant]:
            del self._arriving[tenant]

    async def keep(self, writing: Writing, info: FileInfo) -> None:
        """Make a content a file of its tenant, within the tenant's bounds."""
        tenant = writing.place[0]
        for _ in range(TRIES_MAX):
            index = await self._index(tenant)
            alive = index.alive(self._clock.unix_ms())
            self.check_room(tenant, alive, more_bytes=info.size_bytes)
            seen = {(tenant, INDEX): index.head, writing.place: writing.pieces}
            with suppress(LogConflictError):  # of two files at once, the second one counts again
                await self._log.append([added(tenant, info)], expected=seen)
                if index.unfolded + 1 >= UNFOLDED_MAX:
                    await self._fold(tenant)
                return
        raise OverloadedError(
            f"{TRIES_MAX} other files of the tenant {tenant!r} came first: upload it again",
            retry_s=1,
        )

    async def _index(self, tenant: str) -> Index:
        async with aclosing(self._log.read(tenant, INDEX)) as entries:
            return folded([stored async for stored in entries])

    async def _fold(self, tenant: str) -> None:
        """Let a snapshot stand for a list that has grown long."""
        index = await self._index(tenant)
        if index.unfolded < UNFOLDED_MAX:
            return
        await self._log.snapshot(tenant, INDEX, index.head, snapshot_of(index))
        await self._log.forget(tenant, INDEX, before=index.head)


class Upload:
    """A file that arrives."""

    def __init__(self, files: Files, writing: Writing, tenant: str, *, kept_bytes: int) -> None:
        self._files = files
        self._writing = writing
        self._tenant = tenant
        self._kept_bytes = kept_bytes
        self._may_be_kept = False
        """Whether it is a file, or the log may have made it one without saying so."""

    async def write(self, chunk: bytes) -> None:
        """Take some more bytes.

        Raises:
            FileTooLargeError: It is over the bound of a file.
            FilesFullError: It is more than the tenant has room for.
        """
        limits = self._files.limits
        if self._writing.size_bytes + len(chunk) > limits.file_bytes_max:
            raise FileTooLargeError(
                f"the file is over the limit of {limits.file_bytes_max} bytes: split it"
            )
        if self._kept_bytes + self._files.arriving(self._tenant) + len(chunk) > (
            limits.tenant_bytes_max
        ):
            raise FilesFullError(
                f"the files of the tenant {self._tenant!r} may have {limits.tenant_bytes_max}"
                " bytes, and this one is more than what is left: delete some"
            )
        self._files.arrives(self._tenant, len(chunk))
        await self._writing.write(chunk)

    async def keep(self, filename: str, purpose: str, *, expires_s: float | None) -> FileInfo:
        """Make it a file; it is durable when this returns."""
        if not self._writing.size_bytes:
            raise BadRequestError("file: it is empty", param="file")
        await self._writing.close()
        info = self._writing.info(filename, purpose, expires_s=expires_s)
        self._may_be_kept = True
        try:
            await self._files.keep(self._writing, info)
        except LogUnavailableError:
            raise
        except MurmurateError:
            self._may_be_kept = False
            raise
        return info

    async def close(self) -> None:
        """Forget what was not kept; where the log can't now, the sweep does it later."""
        self._files.arrives(self._tenant, -self._writing.size_bytes)
        if not self._may_be_kept:
            with suppress(MurmurateError):
                await self._writing.abandon()
