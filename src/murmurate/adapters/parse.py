"""Files into text: plain ones here, the others in a process that may break over them. Blocking."""

import hashlib
import re
from pathlib import Path

from murmurate.adapters.encodings import decoded
from murmurate.adapters.folder import content
from murmurate.adapters.parser import Parser
from murmurate.adapters.parser_child import CHARS_MAX
from murmurate.core.errors import DocumentUnreadableError
from murmurate.knowledge.chunk import CHUNKS_MAX, chunk
from murmurate.knowledge.formats import Format, format_of
from murmurate.knowledge.ports import Extracted

TITLE_CHARS_MAX = 120

_HEADING = re.compile(
    r"^ {0,3}#{1,6}[ \t]+(.+?)[ \t#]*$|^(?!\.\. )(\S.{0,118})\n([=\-~*#^])\3{2,}[ \t]*$", re.M
)


def extract(folder: str, path: str, *, bytes_max: int, parser: Parser) -> Extracted:
    """Read one file below the folder and return its text. `DocumentUnreadableError` says why not.

    Text and source code are only decoded; what needs a parser goes to its process.
    """
    format_ = format_of(path)
    if format_ is None:
        raise DocumentUnreadableError(f"{path}: files of this type are not supported")
    try:
        found = content(folder, path, bytes_max=bytes_max)
        own_title = None
        if format_ in (Format.TEXT, Format.CODE):
            text = decoded(found.bytes)
        else:
            own_title, text = parser.text(found.bytes, format_)
    except DocumentUnreadableError as error:
        detail = f"{path}: {error.detail}"
        raise DocumentUnreadableError(detail, retry_s=error.retry_s) from error
    if len(text) > CHARS_MAX:
        raise DocumentUnreadableError(f"{path}: its text is over {CHARS_MAX} characters")
    if len(text) > CHUNKS_MAX:
        chunk(text, path)  # refuses what falls into too many, before anybody keeps it
    digest = hashlib.sha256(found.bytes).hexdigest()
    shown = (own_title or title(text, path, format_))[:TITLE_CHARS_MAX]
    return Extracted(text, shown, digest, found.size, found.mtime_ns)


def title(text: str, path: str, format_: Format) -> str:
    """Return the first heading, or the file's name: of source code whole, else without suffix."""
    name = Path(path)
    if format_ is Format.CODE:
        return name.name
    found = _HEADING.search(text[:4000])
    return (found.group(1) or found.group(2)).strip() if found else name.stem
