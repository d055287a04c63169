"""Files into text: which ones are listed, and how their bytes are read."""

import codecs
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from murmurate.core.errors import DocumentUnreadableError, FolderMissingError
from murmurate.knowledge.ports import Extracted, FileSeen, Listing, Problem

SUFFIXES = frozenset({".md", ".markdown", ".txt", ".text", ".rst"})
_MAN_SUFFIX = re.compile(r"\.[1-9][a-z]*$")
PROBLEMS_MAX = 1000
TITLE_CHARS_MAX = 120

_HEADING = re.compile(
    r"^ {0,3}#{1,6}[ \t]+(.+?)[ \t#]*$|^(?!\.\. )(\S.{0,118})\n([=\-~*#^])\3{2,}[ \t]*$", re.M
)
_CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def listing(folder: str, *, files_max: int) -> Listing:
    """Return the readable files below a folder, in order of path, and what is wrong with others.

    Hidden files are no documents and pass in silence; a link that leads out is never followed.
    """
    root = Path(folder)
    if not os.path.isdir(root):  # noqa: PTH112 - Path.is_dir() raises where this says no
        raise FolderMissingError(f"{root.name or folder}: the folder is not there")
    real_root = root.resolve()
    files: list[FileSeen] = []
    problems: list[Problem] = []
    unseen: list[str] = []
    ends_before: str | None = None
    paths = sorted(_walk(real_root, problems, unseen))
    unseen = unseen if len(unseen) <= files_max else ["."]
    places = files_max
    for path in paths:
        relative = path.relative_to(real_root).as_posix()
        if not _is_utf8(relative):
            problems.append(Problem(_shown(relative), "the name is not UTF-8"))
            continue
        if not places:
            problems.append(Problem(relative, f"over {files_max} files: this and all behind it"))
            ends_before = relative
            break
        if (reason := _unsupported(path)) is not None:
            problems.append(Problem(relative, reason))
            continue
        places -= 1
        found = _seen(path, real_root)
        if isinstance(found, str):
            problems.append(Problem(relative, found))
            unseen.append(relative)
        else:
            files.append(FileSeen(relative, found.st_size, found.st_mtime_ns))
    return Listing(tuple(files), tuple(problems[:PROBLEMS_MAX]), tuple(unseen), ends_before)


def extract(folder: str, path: str, *, bytes_max: int) -> Extracted:
    """Read one file below the folder and return its text, lines ended as in Unix."""
    real_root = Path(folder).resolve()
    real = Path(os.path.realpath(real_root / path))
    if not real.is_relative_to(real_root):
        raise DocumentUnreadableError(f"{path}: leads out of the folder")
    try:
        # Not blocking, so that a pipe put in a file's place can't hold us.
        descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise DocumentUnreadableError(f"{path}: not a regular file")
            content = file.read(bytes_max + 1)
    except OSError as cause:
        raise DocumentUnreadableError(f"{path}: {cause.strerror}") from cause
    if len(content) > bytes_max:
        raise DocumentUnreadableError(f"{path}: over {bytes_max >> 20} MB")
    text = decode(content, path)
    digest = hashlib.sha256(content).hexdigest()
    return Extracted(text, title(text, path), digest, found.st_size, found.st_mtime_ns)


def decode(content: bytes, path: str) -> str:
    """Return the bytes as text: by its byte order mark, as UTF-8, or as Chinese GB18030."""
    for mark, encoding in _BOMS:
        if content.startswith(mark):
            return _clean(content[len(mark) :], (encoding,), path)
    return _clean(content, ("utf-8", "gb18030"), path)


def title(text: str, path: str) -> str:
    """Return the first heading, or the file's name without its suffix."""
    found = _HEADING.search(text[:4000])
    words = (found.group(1) or found.group(2)).strip() if found else Path(path).stem
    return words[:TITLE_CHARS_MAX]


def _clean(content: bytes, encodings: tuple[str, ...], path: str) -> str:
    for encoding in encodings:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if _CONTROL.search(text):
            raise DocumentUnreadableError(f"{path}: binary, not text")
        if encoding == "gb18030" and not _is_chinese(text):
            break
        return text.replace("\r\n", "\n").replace("\r", "\n")
    raise DocumentUnreadableError(f"{path}: not valid {' or '.join(encodings)} text")


def _is_chinese(text: str) -> bool:
    """Nearly any bytes are valid GB18030; only common Chinese characters make it believable."""
    beyond = [char for char in text if not char.isascii()]
    common = sum(
        "\u4e00" <= char <= "\u9fa5" or char in "，。、；：？！“”‘’（）《》—…　" for char in beyond
    )
    return common * 10 >= len(beyond) * 9


def _walk(root: Path, problems: list[Problem], unseen: list[str]) -> Iterator[Path]:
    """Yield all files below the root; linked folders are named and left alone."""

    def problem(where: str, reason: str) -> None:
        problems.append(Problem(_shown(where), reason))
        if _is_utf8(where):
            unseen.append(where)

    def unreadable(error: OSError) -> None:
        where = Path(error.filename or root).relative_to(root).as_posix()
        problem(where, error.strerror or "cannot be read")

    for folder, subfolders, names in os.walk(root, onerror=unreadable):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        here = Path(folder)
        for name in subfolders:
            if os.path.islink(here / name):  # noqa: PTH114 - Path.is_symlink() raises
                relative = (here / name).relative_to(root).as_posix()
                problem(relative, "a link to a folder is not followed")
        yield from (here / name for name in names if not name.startswith("."))


def _unsupported(path: Path) -> str | None:
    """Return why files with this name are not read, None when they are."""
    suffix = path.suffix.lower()
    if suffix in SUFFIXES or _MAN_SUFFIX.match(suffix):
        return None
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
    return os.fsencode(path).decode(errors="replace")
