"""Word documents (.docx) as text: headings, lists and tables in the manner of Markdown.

The file is a zip of XML, read as a stream: what a lying archive unpacks to is bounded, and a
document type declaration, which no Word document has, is refused with whatever it would expand to.
"""

import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from typing import Protocol
from xml.parsers.expat import ExpatError, ParserCreate

from murmurate.core.errors import DocumentUnreadableError

XML_BYTES_MAX = 200 * 1024 * 1024
BLOCK_BYTES = 256 * 1024
_OLE = b"\xd0\xcf\x11\xe0"
"""How files of old Word begin, and encrypted ones."""
_BODY = "word/document.xml"
_CORE = "docProps/core.xml"
_W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main "
_STRICT = "http://purl.oclc.org/ooxml/wordprocessingml/main "
_FALLBACK = "http://schemas.openxmlformats.org/markup-compatibility/2006 Fallback"
"""What stands a second time for old readers, as each text box does."""
_DC_TITLE = "http://purl.org/dc/elements/1.1/ title"
_EMPTY_LINES = re.compile(r"\n{3,}")
_HEADING = re.compile(r"(?:heading|标题|berschrift|titre|rubrik)\s*(\d)?$", re.IGNORECASE)


def docx_text(content: bytes) -> tuple[str | None, str]:
    """Return the document's title, if it has one, and its text."""
    if content.startswith(_OLE):
        raise DocumentUnreadableError("encrypted, or of Word before 2007")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            body = _Body()
            _feed(archive, _BODY, body)
            core = _Core()
            if _CORE in archive.namelist():
                _feed(archive, _CORE, core)
    except KeyError as cause:
        raise DocumentUnreadableError("not a Word document: it has no text part") from cause
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as cause:
        raise DocumentUnreadableError(f"damaged, or not a Word document: {cause}") from cause
    except RuntimeError as cause:  # what zipfile says of an encrypted member
        raise DocumentUnreadableError("encrypted: it needs a password") from cause
    except ExpatError as cause:
        raise DocumentUnreadableError(f"damaged: {cause}") from cause
    return core.title.strip() or None, body.text()


def _feed(archive: zipfile.ZipFile, name: str, reader: "_Reader") -> None:
    """Let the reader see one part of the archive, piece by piece."""
    parser = ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.characters
    parser.StartDoctypeDeclHandler = _refuse
    for block in _unpacked(archive, name):
        parser.Parse(block, False)  # noqa: FBT003 - expat's own signature
    parser.Parse(b"", True)  # noqa: FBT003


def _unpacked(archive: zipfile.ZipFile, name: str) -> Iterator[bytes]:
    """Yield the bytes of a part; what the archive says of its size is not believed."""
    total = 0
    with archive.open(name) as part:
        while block := part.read(BLOCK_BYTES):
            total += len(block)
            if total > XML_BYTES_MAX:
                limit_mb = XML_BYTES_MAX >> 20
                raise DocumentUnreadableError(f"it unpacks to more than {limit_mb} MB")
            yield block


def _refuse(*_: object) -> None:
    raise DocumentUnreadableError("it declares a document type, as no Word document does")


class _Reader(Protocol):
    """What is called for each part of the XML."""

    def start(self, name: str, attributes: dict[str, str]) -> None: ...

    def end(self, name: str) -> None: ...

    def characters(self, text: str) -> None: ...


class _Core:
    """Finds the title among the properties."""

    def __init__(self) -> None:
        self.title = ""
        self._is_open = False

    def start(self, name: str, attributes: dict[str, str]) -> None:
        del attributes
        self._is_open = name == _DC_TITLE

    def end(self, name: str) -> None:
        del name
        self._is_open = False

    def characters(self, text: str) -> None:
        if self._is_open:
            self.title += text


class _Body:
    """Gathers paragraphs, and the cells of a table's row on one line."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._paragraph: list[str] = []
        self._mark = ""
        self._around: list[tuple[list[str], str]] = []
        """The open paragraphs around this one, with their marks: a text box stands within one."""
        self._fallbacks = 0
        """How many second versions are open; nothing in them is read."""
        self._cells: list[str] = []
        self._cell: list[str] = []
        self._rows = 0
        """How many table rows are open: tables stand within tables."""
        self._in_text = False

    def text(self) -> str:
        text = _EMPTY_LINES.sub("\n\n", "\n".join(self._lines)).strip("\n")
        return f"{text}\n" if text else ""

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._fallbacks += name == _FALLBACK
        if self._fallbacks:
            return
        match _local(name):
            case "t":
                self._in_text = True
            case "p":
                self._around.append((self._paragraph, self._mark))
                self._paragraph, self._mark = [], ""
            case "pStyle" | "outlineLvl" | "numPr" as property_:
                self._mark = self._mark or _mark(property_, _value(attributes))
            case "tab":
                self._paragraph.append("\t")
            case "br" | "cr":
                self._paragraph.append("\n")
            case "tr":
                self._rows += 1
                if self._rows == 1:
                    self._cells = []
            case "tc" if self._rows == 1:
                self._cell = []
            case _:
                pass

    def end(self, name: str) -> None:
        if self._fallbacks:
            self._fallbacks -= name == _FALLBACK
            return
        match _local(name):
            case "t":
                self._in_text = False
            case "p":
                self._end_paragraph()
                self._paragraph, self._mark = self._around.pop()
            case "tc" if self._rows == 1:
                self._cells.append(" ".join(self._cell))
            case "tr":
                self._rows -= 1
                if not self._rows and any(self._cells):
                    self._lines.append(" | ".join(self._cells))
            case "tbl" if not self._rows:
                self._lines.append("")
            case _:
                pass

    def characters(self, text: str) -> None:
        if self._in_text and not self._fallbacks:
            self._paragraph.append(text)

    def _end_paragraph(self) -> None:
        text = "".join(self._paragraph).strip()
        if not text:
            return
        if self._rows:
            self._cell.append(" ".join(text.split()))
        elif self._mark.startswith("#"):
            self._lines += ["", self._mark + " ".join(text.split()), ""]
        else:
            self._lines += [self._mark + text] if self._mark else ["", text, ""]


def _local(name: str) -> str:
    """Return the name of an element of Word's own, without its namespace."""
    for namespace in (_W, _STRICT):
        if name.startswith(namespace):
            return name[len(namespace) :]
    return ""


def _value(attributes: dict[str, str]) -> str:
    return next((value for name, value in attributes.items() if _local(name) == "val"), "")


def _mark(property_: str, value: str) -> str:
    """Return how a paragraph of that property begins, empty when like any other."""
    if property_ == "numPr":
        return "- "
    if property_ == "outlineLvl":
        return "#" * (int(value) + 1) + " " if value in set("012345") else ""
    return _heading_mark(value)


def _heading_mark(style: str) -> str:
    """Return the mark of a heading style, empty for others; Word numbers its own from 1."""
    if style.lower() == "title":
        return "# "
    found = _HEADING.search(style) or (re.fullmatch(r"([1-6])", style))
    return "#" * min(int(found.group(1) or 1), 6) + " " if found else ""
