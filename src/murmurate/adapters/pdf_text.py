"""PDF as text, page by page, through PDFium; each page ends with a form feed."""

import re

import pypdfium2 as pdfium

from murmurate.core.errors import DocumentUnreadableError

HEAD_BYTES = 1024
PAGES_MAX = 20_000
TITLE = "Title"
_PASSWORD_ERROR = 4
_HYPHEN = re.compile("\ufffe(?=[a-z])")
"""PDFium puts U+FFFE where a word is parted at the end of a line."""


def pdf_text(content: bytes, *, chars_max: int) -> tuple[str | None, str]:
    """Return the document's title, if it has one, and its text."""
    if b"%PDF-" not in content[:HEAD_BYTES]:
        raise DocumentUnreadableError("not a PDF file, whatever its name says")
    try:
        document = pdfium.PdfDocument(content)
    except pdfium.PdfiumError as cause:
        if getattr(cause, "err_code", None) == _PASSWORD_ERROR:
            raise DocumentUnreadableError("encrypted: it needs a password") from cause
        raise DocumentUnreadableError("damaged: PDFium cannot open it") from cause
    count = len(document)
    if count > PAGES_MAX:
        raise DocumentUnreadableError(f"{count} pages; the most are {PAGES_MAX}")
    pages: list[str] = []
    room = chars_max
    for number in range(count):
        page = _page_text(document, number)
        room -= len(page)
        if room < 0:
            raise DocumentUnreadableError(f"its text is over {chars_max} characters")
        pages.append(page)
    if not any(page.strip() for page in pages):
        raise DocumentUnreadableError("no text in it: scanned pages would need to be recognised")
    title = str(document.get_metadata_value(TITLE) or "").strip()
    return title or None, "".join(page + "\f" for page in pages)


def _page_text(document: pdfium.PdfDocument, number: int) -> str:
    """Return one page; a page that is damaged has no text and keeps its number."""
    try:
        page = document[number]
        text = page.get_textpage().get_text_range(errors="replace")
    except pdfium.PdfiumError:
        return ""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n").replace("\0", "")
    return _HYPHEN.sub("", text).replace("\ufffe", "-")
