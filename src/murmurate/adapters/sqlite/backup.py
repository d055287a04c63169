"""One file with all that must survive: written beside a running service, checked before it is used.

A tar file of three or four members, in this order: `manifest.json`, `manifest.sha256`, `truth.db`
and, when asked for, `key`. Nothing of it is ever extracted by the name that it gives itself.
"""

import fcntl
import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec

from murmurate import __version__
from murmurate.adapters.sqlite.copies import (
    Told,
    check_room,
    copy,
    finish,
    is_interrupted,
    put_in_place,
    sync,
)
from murmurate.adapters.sqlite.survey import survey
from murmurate.core.errors import (
    BackupInvalidError,
    BackupTargetError,
    LogNewerError,
    LogUnavailableError,
    StateInUseError,
    StateNotEmptyError,
)
from murmurate.core.types import Frozen

LOG = "truth.db"
KEY = "key"
OLD = "before-restore"
VERSION = 1
MANIFEST_BYTES_MAX = 64 * 1024
KEY_BYTES_MAX = 4096
COPIES_MAX = 3
"""A key that is rotated while the log is copied may not open the copy: then another is made."""
_CHUNK_BYTES = 1024 * 1024


_Content = tuple[str, Path | bytes]
"""A file's name in the backup, and where or what it is."""


class Part(Frozen, frozen=True):
    """A file in a backup."""

    name: str
    size_bytes: int
    sha256: str


class Manifest(Frozen, frozen=True, kw_only=True):
    """What a backup says of itself. `config_sha256` tells whether two configurations are equal."""

    murmurate_backup: int
    program: str
    made_unix_ms: int
    log_format: int
    entries: int
    streams: int
    damaged: int
    config_sha256: str | None
    files: tuple[Part, ...]


class Options(Frozen, frozen=True, kw_only=True):
    """How to make a backup: its time, the configuration's fingerprint, and whether with the key."""

    made_unix_ms: int
    config_sha256: str | None
    with_key: bool = False


def back_up(state: Path, target: Path, options: Options, *, told: Told) -> Manifest:
    """Write what the state folder's log holds at this moment to `target`, whole or not at all.

    A running service goes on writing meanwhile. Damage is copied as it is, and counted.

    Raises:
        BackupTargetError: The target is something else than a backup, or in the state folder.
        LogUnavailableError: There is no log, no key, no room, or the key changes all the time.
        LogCorruptError: A page of the log cannot be read.
    """
    log = state / LOG
    if not log.is_file():
        raise LogUnavailableError(f"{log}: there is no log to back up; name its folder by --state")
    _check_target(target, state)
    check_room(target.parent, 2 * log.stat().st_size, what=f"the backup of {log.name}")
    copied = target.with_name(f"{target.name}.{LOG}")
    fresh = target.with_name(f"{target.name}.new")
    try:
        parts: list[_Content] = [(LOG, copied)]
        if options.with_key:
            parts.append((KEY, _copy_with_key(state, copied, told=told)))
        else:
            copy(log, copied, told=told)
        manifest = _manifest(copied, parts, options)
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            _write(file, manifest, parts)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(target)
        sync(target.parent)
    except OSError as cause:
        name = cause.filename or target
        raise LogUnavailableError(f"{name}: {cause.strerror}; no backup was made") from cause
    finally:
        for leftover in (copied, fresh):
            leftover.unlink(missing_ok=True)
    return manifest


def _copy_with_key(state: Path, copied: Path, *, told: Told) -> bytes:
    """Copy the log, and return the key that was its key all the while."""
    key = _key_of(state)
    for _ in range(COPIES_MAX):
        copy(state / LOG, copied, told=told)
        before, key = key, _key_of(state)
        if key == before:
            return key
    raise LogUnavailableError(
        f"{state / KEY} was changed during each of {COPIES_MAX} copies; no backup was made: try"
        " again later"
    )


def _key_of(state: Path) -> bytes:
    with (state / KEY).open("rb") as file:
        key = file.read(KEY_BYTES_MAX + 1)
    if len(key) > KEY_BYTES_MAX:
        raise LogUnavailableError(f"{state / KEY} is over {KEY_BYTES_MAX} bytes, and no key")
    return key


def restore(source: Path, state: Path, *, replace: bool, told: Told) -> Manifest:
    """Put a backup's log into a state folder, after all of it was checked.

    With `replace`, what stood there is kept as `NAME.before-restore`. The index is removed: it is
    made again from the log at the next start.

    Raises:
        BackupInvalidError: It is no backup, or not as it was written. Nothing was changed.
        LogNewerError: A newer version wrote it. Nothing was changed.
        StateInUseError: A service runs on the folder.
        StateNotEmptyError: There is a log already, and it is not to be replaced.
        LogUnavailableError: There is no room.
    """
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(state), source.open("rb") as file:
            return _restore(file, state, replace=replace, told=told)
    except OSError as cause:
        name = cause.filename or state
        raise LogUnavailableError(f"{name}: {cause.strerror}; nothing was restored") from cause


def _check_target(target: Path, state: Path) -> None:
    """Refuse to replace what is not ours to replace.

    Raises:
        BackupTargetError: It is not.
    """
    if target.parent.resolve().is_relative_to(state.resolve()):
        raise BackupTargetError(f"{target} is in the state folder: name a file outside of {state}")
    if target.exists() and not _is_ours(target):
        raise BackupTargetError(f"{target} is there, and no backup: remove it, or name another")


def _is_ours(path: Path) -> bool:
    """Say whether a file is a backup, also of a newer version, or has nothing in it yet."""
    if not path.is_file() or path.stat().st_size == 0:
        return path.is_file()
    try:
        with tarfile.open(path, mode="r:") as archive:
            read_manifest(archive)
    except LogNewerError:
        return True
    except (tarfile.TarError, EOFError, OSError, BackupInvalidError):
        return False
    return True


def read_manifest(archive: tarfile.TarFile) -> Manifest:
    """Return what the first two members say, once they fit each other.

    Raises:
        BackupInvalidError: They do not.
        LogNewerError: A newer version wrote them.
    """
    content = _small(archive, "manifest.json", MANIFEST_BYTES_MAX)
    digest = _small(archive, "manifest.sha256", 128)
    if digest != _digest_line(content):
        raise BackupInvalidError("manifest.json is not as it was written")
    try:
        version = msgspec.json.decode(content, type=dict[str, object]).get("murmurate_backup")
        if isinstance(version, int) and version > VERSION:
            raise LogNewerError(
                f"the backup has version {version}, but this murmurate knows {VERSION}: restore it"
                " with the version that wrote it"
            )
        return msgspec.json.decode(content, type=Manifest)
    except msgspec.DecodeError as cause:
        raise BackupInvalidError(f"manifest.json: {cause}") from cause


def _restore(file: IO[bytes], state: Path, *, replace: bool, told: Told) -> Manifest:
    log = state / LOG
    finish(log, except_old=OLD)  # else the next start would put it in the place of what we restore
    is_used = log.exists() and log.stat().st_size > 0
    if is_used and not replace:
        raise StateNotEmptyError(
            f"{log} exists: give --force to replace it (it is kept as {LOG}.{OLD}), or another"
            " --state FOLDER"
        )
    fresh = {name: state / f"{name}.restored" for name in (LOG, KEY)}
    try:
        manifest = _extract(file, fresh, told=told)
        found = survey(fresh[LOG])
        if found.fault is not None and not manifest.damaged:
            raise BackupInvalidError(f"{LOG} in it is damaged: {found.fault}")
        if not is_interrupted(log, old=OLD):  # else it holds the only whole copy of the old log
            for ending in ("", "-wal"):
                (state / f"{LOG}.{OLD}{ending}").unlink(missing_ok=True)
        for journal in (f"{LOG}-wal", f"{LOG}-shm"):
            if not is_used:
                (state / journal).unlink(missing_ok=True)
        put_in_place(log, fresh[LOG], old=OLD)
        if fresh[KEY].exists():
            if (state / KEY).exists():
                (state / KEY).replace(state / f"{KEY}.{OLD}")
            fresh[KEY].replace(state / KEY)
        shutil.rmtree(state / "index", ignore_errors=True)
    finally:
        for leftover in list(state.glob("*.restored*")):
            leftover.unlink(missing_ok=True)
    return manifest


def _extract(file: IO[bytes], fresh: dict[str, Path], *, told: Told) -> Manifest:
    """Write the archive's files to where we want them, comparing each with the manifest."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            manifest = read_manifest(archive)
            names = [part.name for part in manifest.files]
            if names not in ([LOG], [LOG, KEY]):
                raise BackupInvalidError(f"unexpected files in it: {', '.join(names)[:200]}")
            size_bytes = sum(part.size_bytes for part in manifest.files)
            check_room(fresh[LOG].parent, size_bytes, what="what is restored")
            for part in manifest.files:
                _extract_part(archive, part, fresh[part.name], told=told)
            if archive.next() is not None:
                raise BackupInvalidError("there is more in it than its manifest names")
            return manifest
    except (tarfile.TarError, EOFError) as cause:
        raise BackupInvalidError(f"it is not a whole backup: {cause}") from cause


def _extract_part(archive: tarfile.TarFile, part: Part, target: Path, *, told: Told) -> None:
    content = _member(archive, part.name, part.size_bytes)
    digest, left = hashlib.sha256(), part.size_bytes
    target.unlink(missing_ok=True)
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        while left and (chunk := content.read(min(_CHUNK_BYTES, left))):
            digest.update(chunk)
            out.write(chunk)
            left -= len(chunk)
            told(part.size_bytes - left, part.size_bytes)
        out.flush()
        os.fsync(out.fileno())
    if left or digest.hexdigest() != part.sha256:
        raise BackupInvalidError(f"{part.name} in it is not as it was written")


def _member(archive: tarfile.TarFile, name: str, size_bytes: int | None = None) -> IO[bytes]:
    """Return the content of the next member, which must be a plain file of that name and size."""
    member = archive.next()
    if member is None or member.name != name or not member.isreg():
        found = "its end" if member is None else repr(member.name[:100])
        raise BackupInvalidError(f"expected {name} in it, found {found}")
    if size_bytes is not None and member.size != size_bytes:
        raise BackupInvalidError(f"{name} in it has {member.size} bytes, not {size_bytes}")
    content = archive.extractfile(member)
    assert content is not None
    return content


def _small(archive: tarfile.TarFile, name: str, bytes_max: int) -> bytes:
    content = _member(archive, name).read(bytes_max + 1)
    if len(content) > bytes_max:
        raise BackupInvalidError(f"{name} in it is over {bytes_max} bytes")
    return content


def _manifest(copied: Path, parts: list[_Content], options: Options) -> Manifest:
    found = survey(copied)
    return Manifest(
        murmurate_backup=VERSION,
        program=__version__,
        made_unix_ms=options.made_unix_ms,
        log_format=found.format,
        entries=found.entries,
        streams=found.streams,
        damaged=len(found.damage) + (found.fault is not None),
        config_sha256=options.config_sha256,
        files=tuple(_part(name, content) for name, content in parts),
    )


def _write(file: IO[bytes], manifest: Manifest, parts: list[_Content]) -> None:
    listed = msgspec.json.format(msgspec.json.encode(manifest))
    digest = _digest_line(listed)
    made_s = manifest.made_unix_ms // 1000
    with tarfile.open(fileobj=file, mode="w:", format=tarfile.PAX_FORMAT) as archive:
        for name, text in (("manifest.json", listed), ("manifest.sha256", digest)):
            archive.addfile(_header(name, len(text), made_s), io.BytesIO(text))
        for part, (name, content) in zip(manifest.files, parts, strict=True):
            with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as it:
                archive.addfile(_header(name, part.size_bytes, made_s), it)


def _digest_line(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode() + b"\n"


def _header(name: str, size_bytes: int, made_s: int) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.size, header.mtime, header.mode = size_bytes, made_s, 0o600
    return header


def _part(name: str, content: Path | bytes) -> Part:
    if isinstance(content, bytes):
        return Part(name, len(content), hashlib.sha256(content).hexdigest())
    with content.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Part(name, content.stat().st_size, digest)


@contextmanager
def _locked(state: Path) -> Generator[None]:
    """Keep every supervisor out of the folder."""
    with (state / "lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as cause:
            raise StateInUseError(
                f"a murmurate runs on {state}: stop it first, or choose another --state FOLDER"
            ) from cause
        yield
