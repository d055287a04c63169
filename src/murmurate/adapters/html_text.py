"""HTML as text: headings, lists, tables and code in the manner of Markdown, and nothing unseen.

A stream of tags, not a tree: how deep they nest costs nothing, and half a page is read as far as
it goes.
"""

import codecs
import re
from html.parser import HTMLParser

from murmurate.core.errors import DocumentUnreadableError

_META_CHARSET = re.compile(rb"<meta[^>]+charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
META_BYTES_MAX = 4096
"""How far into a file browsers look for its encoding, at least (HTML: 1,024 bytes)."""

_HIDDEN = frozenset(
    ("script", "style", "template", "noscript", "svg", "head", "nav", "iframe", "object", "select")
)
_BLOCK_NAMES = """
address article aside blockquote body dd details div dl dt fieldset figcaption figure footer
form header hr html li main ol p pre section summary table tbody td tfoot th thead tr ul
h1 h2 h3 h4 h5 h6
"""
_BLOCKS = frozenset(_BLOCK_NAMES.split())
_NARROW = frozenset(("li", "dt", "dd", "tr", "td", "th", "thead", "tbody", "tfoot"))
"""Blocks with a line, but no empty line, between them."""
_WHITE = re.compile(r"\s+")


def encoding_named(content: bytes) -> str | None:
    """Return the encoding that the page itself names, when it is one."""
    found = _META_CHARSET.search(content[:META_BYTES_MAX])
    if found is None:
        return None
    name = found.group(1).decode("ascii")
    # Browsers read these as their supersets.
    name = {"gb2312": "gb18030", "gbk": "gb18030", "iso-8859-1": "cp1252"}.get(name.lower(), name)
    try:
        "".encode(name)  # raises for a codec such as `hex`, which is no encoding
        return codecs.lookup(name).name
    except LookupError:
        return None


def html_text(page: str) -> tuple[str | None, str]:
    """Return the page's title, if it has one, and its text."""
    reader = _Reader()
    try:
        reader.feed(page)
        reader.close()
    except AssertionError as cause:  # what the parser says of a broken declaration
        raise DocumentUnreadableError(f"damaged HTML: {cause}") from cause
    return reader.title.strip() or None, reader.text()


class _Reader(HTMLParser):
    """Gathers the text between the tags."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title = ""
        self._pieces: list[str] = []
        self._hidden: list[str] = []
        """The open elements that are not shown, the outermost first."""
        self._in_title = False
        self._in_pre = False
        self._has_text = False
        self._cells = 0
        """How many cells of the table's row have begun."""
        self._gap = 0
        """How many newlines are owed before the next text."""

    def text(self) -> str:
        return "".join(self._pieces).strip("\n") + "\n" if self._pieces else ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "title" and self._hidden in ([], ["head"]) and not self.title:
            self._in_title = True
        elif tag == "body":
            self._hidden.clear()  # a head that was never closed ends here
        elif self._hidden:
            if tag == self._hidden[0]:
                self._hidden.append(tag)
            return
        elif tag in _HIDDEN:
            self._hidden.append(tag)
            return
        self._open(tag, dict(attrs))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _HIDDEN:
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._in_title = False
        if self._hidden:
            if tag == self._hidden[0]:
                self._hidden.pop()
            return
        if tag == "pre" and self._in_pre:
            self._in_pre = False
            self._break(1)
            self._write("```")
        if tag in _BLOCKS:
            self._break(1 if tag in _NARROW else 2)

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += data
        elif self._hidden:
            return
        elif self._in_pre:
            self._write(data.replace("\r\n", "\n"))
        else:
            words = _WHITE.sub(" ", data)
            self._write(words if self._has_text and not self._gap else words.lstrip())

    def _open(self, tag: str, attributes: dict[str, str | None]) -> None:
        """Write what stands for the beginning of an element."""
        if tag == "br":
            self._break(1)
        elif tag in ("td", "th") and self._cells:
            self._gap = 0
            self._write(" | ")
        elif tag in _BLOCKS:
            self._break(1 if tag in _NARROW else 2)
        if tag in ("td", "th"):
            self._cells += 1
        elif tag == "tr":
            self._cells = 0
        if tag == "pre":
            self._write("```\n")
            self._in_pre = True
        elif tag in ("h1", "h2", "h3", "h4", "h5", "h6"):
            self._write("#" * int(tag[1]) + " ")
        elif tag == "li":
            self._write("- ")
        elif tag == "img" and (alternative := (attributes.get("alt") or "").strip()):
            self._write(f"[{alternative}]")

    def _break(self, newlines: int) -> None:
        if self._has_text:
            self._gap = max(self._gap, newlines)

    def _write(self, text: str) -> None:
        if not text:
            return
        if self._gap:
            self._pieces[-1] = self._pieces[-1].rstrip(" ")
            self._pieces.append("\n" * self._gap)
            self._gap = 0
        self._pieces.append(text)
        self._has_text = True
