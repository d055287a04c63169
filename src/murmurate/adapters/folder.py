"""What stands in a folder of documents: which files are listed, and how their bytes are read.

Nothing outside the folder is ever read, whatever its links say or become meanwhile.
"""

import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from murmurate.core.errors import DocumentUnreadableError, FolderMissingError
from murmurate.knowledge.formats import format_of
from murmurate.knowledge.ports import FileSeen, Listing, Problem
from murmurate.knowledge.rules import Patterns, Rules

PROBLEMS_MAX = 1000
RETRY_S = 1.0
PASSING = frozenset(
    {
        errno.EAGAIN,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ESTALE,
        errno.ETIMEDOUT,
    }
)
"""What the machine lacks at the moment, not the file."""
_CONTROL = re.compile("[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of a file, and when they were written."""

    bytes: bytes
    size: int
    mtime_ns: int


def listing(folder: str, rules: Rules) -> Listing:
    """Return the readable files below a folder, in order of path, and what is wrong with others.

    Hidden and excluded files are no documents and pass in silence; a link that leads out is never
    followed.
    """
    real_root = _root(folder)
    patterns = Patterns(rules)
    files: list[FileSeen] = []
    problems: list[Problem] = []
    unseen: list[str] = []
    ends_before: str | None = None
    paths = sorted(_walk(real_root, patterns, problems, unseen))
    unseen = unseen if len(unseen) <= rules.files_max else ["."]
    places = rules.files_max
    for path in paths:
        relative = path.relative_to(real_root).as_posix()
        if (reason := _unspeakable(relative)) is not None:
            problems.append(Problem(_shown(relative), reason))
            continue
        if not patterns.includes(relative):
            continue
        if not places:
            reason = f"over {rules.files_max} files: this and all behind it"
            problems.append(Problem(relative, reason))
            ends_before = relative
            break
        if format_of(relative) is None:
            problems.append(Problem(relative, _unsupported(path)))
            continue
        places -= 1
        found = _seen(path, real_root)
        if isinstance(found, str):
            problems.append(Problem(relative, found))
            unseen.append(relative)
        else:
            times = (found.st_mtime_ns, found.st_ctime_ns)
            files.append(FileSeen(relative, found.st_size, *times))
    return Listing(tuple(files), tuple(problems[:PROBLEMS_MAX]), tuple(unseen), ends_before)


def fingerprint(folder: str, rules: Rules) -> str:
    """Return a text that changes when a sync of the folder may find something to do."""
    digest = hashlib.blake2b(digest_size=16)
    found = listing(folder, rules)
    for file in found.files:
        digest.update(f"{file.path}\0{file.size}\0{file.mtime_ns}\0{file.ctime_ns}\0".encode())
    for problem in found.problems:
        digest.update(f"{problem.path}\0{problem.reason}\0".encode())
    return digest.hexdigest()


def content(folder: str, path: str, *, bytes_max: int) -> Content:
    """Read one file below the folder, whole and as it stood at one moment."""
    real_root = Path(folder).resolve()
    real = Path(os.path.realpath(real_root / path))
    if not real.is_relative_to(real_root):
        raise DocumentUnreadableError("leads out of the folder")
    try:
        descriptor = _opened(real_root, real.relative_to(real_root))
        with os.fdopen(descriptor, "rb") as file:
            before = os.fstat(descriptor)
            if not stat.S_ISREG(before.st_mode):
                raise DocumentUnreadableError("not a regular file")
            return whole(file, before, bytes_max=bytes_max)
    except OSError as cause:
        raise unreadable(cause) from cause


def unreadable(cause: OSError) -> DocumentUnreadableError:
    """Return the error of a file that cannot be read; where that may pass, it says when to try."""
    retry_s = RETRY_S if cause.errno in PASSING else None
    return DocumentUnreadableError(cause.strerror or "cannot be read", retry_s=retry_s)


def whole(file: BinaryIO, before: os.stat_result, *, bytes_max: int) -> Content:
    """Return the rest of an open file, provided that it is still as it was `before`."""
    found = file.read(bytes_max + 1)
    after = os.fstat(file.fileno())
    if len(found) > bytes_max:
        raise DocumentUnreadableError(f"over {bytes_max >> 20} MB")
    if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, len(found)):
        raise DocumentUnreadableError("it changed while it was read: the next pass reads it again")
    return Content(found, len(found), before.st_mtime_ns)


def _opened(root: Path, path: Path) -> int:
    """Open a file step by step, following no link: what was resolved may be another by now."""
    as_folder = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    folder = os.open(root, as_folder)
    try:
        for name in path.parts[:-1]:
            above, folder = folder, os.open(name, as_folder, dir_fd=folder)
            os.close(above)
        # Not blocking, so that a pipe put in a file's place can't hold us.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(path.name or ".", flags, dir_fd=folder)
    finally:
        os.close(folder)


def _root(folder: str) -> Path:
    root = Path(folder)
    if not os.path.isdir(root):  # noqa: PTH112 - Path.is_dir() raises where this says no
        raise FolderMissingError(f"{root.name or folder}: the folder is not there")
    return root.resolve()


def _walk(
    root: Path, patterns: Patterns, problems: list[Problem], unseen: list[str]
) -> Iterator[Path]:
    """Yield all files below the root; linked folders are named and left alone."""

    def problem(where: str, reason: str) -> None:
        problems.append(Problem(_shown(where), reason))
        if _is_utf8(where):
            unseen.append(where)

    def unreadable(error: OSError) -> None:
        where = Path(error.filename or root).relative_to(root).as_posix()
        problem(where, error.strerror or "cannot be read")

    def is_wanted(here: Path, name: str) -> bool:
        if name.startswith("."):
            return False
        return not patterns.excludes((here / name).relative_to(root).as_posix())

    for folder, subfolders, names in os.walk(root, onerror=unreadable):
        here = Path(folder)
        subfolders[:] = sorted(name for name in subfolders if is_wanted(here, name))
        for name in subfolders:
            if os.path.islink(here / name):  # noqa: PTH114 - Path.is_symlink() raises
                relative = (here / name).relative_to(root).as_posix()
                problem(relative, "a link to a folder is not followed")
        yield from (here / name for name in names if is_wanted(here, name))


def _unspeakable(path: str) -> str | None:
    """Return why a name cannot be shown to people as it is, None when it can."""
    if not _is_utf8(path):
        return "the name is not UTF-8"
    return "the name has control characters in it" if _CONTROL.search(path) else None


def _unsupported(path: Path) -> str:
    suffix = path.suffix.lower()
    return f"files of type {suffix} are not supported" if suffix else "no type, not supported"


def _seen(path: Path, real_root: Path) -> os.stat_result | str:
    """Return what the system says of a file, or why it is not read."""
    try:
        real = Path(os.path.realpath(path, strict=True))  # resolve() stumbles over loops
        found = real.stat()
    except OSError as error:
        return error.strerror or "cannot be read"
    if not real.is_relative_to(real_root):
        return "a link that leads out of the folder is not followed"
    return found if stat.S_ISREG(found.st_mode) else "not a regular file"


def _is_utf8(path: str) -> bool:
    """Say whether a name can be told to others; bytes that are no text stand in it as halves."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(path: str) -> str:
    """Return a name that can be told and printed."""
    text = os.fsencode(path).decode(errors="replace")
    return _CONTROL.sub("\ufffd", text)
