"""The process that parses what may be hostile: bytes in, text out, and bounds on everything.

It is given the bytes of a file and never a path, so it opens nothing. A file that makes it crash,
hang or swell ends this process alone. Run by `adapters.parser`; its environment is the worker's,
which holds no secret.
"""

import os
import resource
import struct
import sys
from typing import BinaryIO

import msgspec

from murmurate.adapters.docx_text import docx_text
from murmurate.adapters.encodings import decoded
from murmurate.adapters.html_text import encoding_named, html_text
from murmurate.core.errors import DocumentUnreadableError
from murmurate.knowledge.formats import Format

LENGTH = struct.Struct(">Q")
CHARS_MAX = 15_000_000
"""So much text fits into one message whatever it is written in (`wire.FRAME_BYTES_MAX`)."""


class Bounds(msgspec.Struct, frozen=True):
    """What parsing one file may cost."""

    memory_bytes_max: int = 1024 * 1024 * 1024
    """Address space, the interpreter's own 200 MB included."""
    cpu_s_max: int = 30
    wall_s_max: float = 45.0
    chars_max: int = CHARS_MAX


class Parsed(msgspec.Struct, frozen=True):
    """The text and the title of a file, or why there is none."""

    text: str = ""
    title: str | None = None
    refused: str | None = None


def parsed(content: bytes, format_: Format, bounds: Bounds) -> Parsed:
    """Return what stands in the bytes of a file."""
    try:
        title, text = _text(content, format_, bounds)
    except DocumentUnreadableError as error:
        return Parsed(refused=error.detail)
    except MemoryError:
        return Parsed(refused=f"it needs more than {bounds.memory_bytes_max >> 20} MB to be read")
    except Exception as error:  # noqa: BLE001 - whatever a library makes of a broken file
        return Parsed(refused=f"damaged: {type(error).__name__}: {str(error)[:200]}")
    if len(text) > bounds.chars_max:
        return Parsed(refused=f"its text is over {bounds.chars_max} characters")
    # Halves of a character pair, which some parsers let through, are no text.
    return Parsed(text.encode("utf-8", "replace").decode(), title)


def _text(content: bytes, format_: Format, bounds: Bounds) -> tuple[str | None, str]:
    match format_:
        case Format.HTML:
            return html_text(decoded(content, encoding_named(content)))
        case Format.DOCX:
            return docx_text(content)
        case Format.PDF:
            from murmurate.adapters.pdf_text import pdf_text  # noqa: PLC0415 - 8 MB, for PDF only

            return pdf_text(content, chars_max=bounds.chars_max)
        case Format.TEXT | Format.CODE:
            return None, decoded(content)


def main() -> None:
    """Answer until stdin ends."""
    bounds = msgspec.json.decode(sys.argv[1], type=Bounds)
    reading = os.fdopen(os.dup(0), "rb")
    writing = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # a library that prints must not be taken for an answer
        os.dup2(nowhere, descriptor)
    _bound(resource.RLIMIT_AS, bounds.memory_bytes_max)
    _bound(resource.RLIMIT_FSIZE, 0)
    _bound(resource.RLIMIT_CORE, 0)
    while (request := _frame(reading)) is not None:
        spent = resource.getrusage(resource.RUSAGE_SELF)
        spent_s = int(spent.ru_utime + spent.ru_stime)
        resource.setrlimit(
            resource.RLIMIT_CPU, (spent_s + 1 + bounds.cpu_s_max, resource.RLIM_INFINITY)
        )
        format_, content = msgspec.msgpack.decode(request, type=tuple[Format, bytes])
        answer = msgspec.msgpack.encode(parsed(content, format_, bounds))
        writing.write(LENGTH.pack(len(answer)) + answer)
        writing.flush()


def _bound(limit: int, most: int) -> None:
    """Lower a limit of this process for good; never raise one that is lower already."""
    _, hard = resource.getrlimit(limit)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(limit, (most, most))


def _frame(reading: BinaryIO) -> bytes | None:
    """Return the next request, None at the end."""
    head = reading.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    return reading.read(LENGTH.unpack(head)[0])


if __name__ == "__main__":
    main()
