"""PDF as text, page by page, and files that only say they are PDF."""

import pytest

from murmurate.adapters.pdf_text import pdf_text
from murmurate.core.errors import DocumentUnreadableError
from tests.documents import pdf

CHARS_MAX = 100_000


def test_each_page_ends_with_a_form_feed() -> None:
    content = pdf(["First (page)", "its second line"], [], ["如何安装软件包？"], title="Guide")
    title, text = pdf_text(content, chars_max=CHARS_MAX)
    assert title == "Guide"
    assert text == "First (page)\nits second line\f\f如何安装软件包？\f"


def test_without_a_title_there_is_none() -> None:
    assert pdf_text(pdf(["x"]), chars_max=CHARS_MAX)[0] is None


def test_a_damaged_table_of_contents_is_rebuilt() -> None:
    content = pdf(["still here"]).replace(b"startxref\n", b"startxref\n9")
    assert pdf_text(content, chars_max=CHARS_MAX)[1] == "still here\f"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<html><body>Not found</body></html>", "not a PDF file, whatever its name says"),
        (b"", "not a PDF file"),
        (b"%PDF-1.4 and nothing else", "damaged: PDFium cannot open it"),
        (pdf(["x"])[:300], "damaged: PDFium cannot open it"),
        (pdf(["x"], password=b"secret"), "encrypted: it needs a password"),
        (pdf([], []), "no text in it"),
        (pdf(["x" * 80] * 40), "its text is over 1000 characters"),
    ],
)
def test_what_cannot_be_read_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(DocumentUnreadableError, match=reason):
        pdf_text(content, chars_max=1000)
