"""Which files of a folder belong to a collection: patterns in the manner of `.gitignore`. Pure."""

import re
from collections.abc import Iterable

from murmurate.core.types import Frozen

FILES_MAX = 50_000
FILE_BYTES_MAX = 20 * 1024 * 1024


class Rules(Frozen, frozen=True):
    """What is read of a folder: at most `files_max` files of at most `file_bytes_max` each.

    A pattern without a slash names a file or folder at any depth; one with a slash is the path from
    the folder on, in which `**` stands for any number of folders. An empty `include` takes all.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    files_max: int = FILES_MAX
    file_bytes_max: int = FILE_BYTES_MAX


class Patterns:
    """The rules, ready to be asked about many paths (relative to the folder, with slashes)."""

    def __init__(self, rules: Rules) -> None:
        self._include = _compiled(rules.include)
        self._exclude = _compiled(rules.exclude)

    def excludes(self, path: str) -> bool:
        """Say whether this file or folder, which lies in no excluded one, is left out."""
        return bool(self._exclude and self._exclude.fullmatch(path))

    def includes(self, path: str) -> bool:
        """Say whether this file is taken."""
        return self._include is None or _or_folder(self._include, path)


def _or_folder(pattern: re.Pattern[str], path: str) -> bool:
    """Say whether the path or a folder above it matches."""
    parts = path.split("/")
    return any(pattern.fullmatch("/".join(parts[:depth])) for depth in range(1, len(parts) + 1))


def _compiled(patterns: Iterable[str]) -> re.Pattern[str] | None:
    every = [
        _expression(pattern.strip().rstrip("/")) for pattern in patterns if pattern.strip("/ ")
    ]
    return re.compile("|".join(every), re.DOTALL) if every else None


def _expression(pattern: str) -> str:
    """Return the regular expression of a pattern."""
    if "/" not in pattern:
        pattern = f"**/{pattern}"
    return "".join(
        _PIECES.get(piece) or re.escape(piece)
        for piece in re.findall(r"\*\*/|/\*\*$|\*\*|\*|\?|[^*?/]+|/", pattern.removeprefix("/"))
    )


_PIECES = {"**/": "(?:.*/)?", "/**": "/.*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
