"""Word documents as text, and archives that lie."""

import io
import zipfile

import pytest

from murmurate.adapters.docx_text import XML_BYTES_MAX, docx_text
from murmurate.core.errors import DocumentUnreadableError
from tests.documents import archive, docx, paragraph, table


def test_headings_lists_and_tables_are_told_apart() -> None:
    body = (
        paragraph("Guide", style="Heading1")
        + paragraph("Some words, 中文.")
        + paragraph("first", item=True)
        + paragraph("second", item=True)
        + paragraph("Part", style="heading 2")
        + table(["a", "b"], ["c", "d e"])
        + paragraph("the end")
    )
    title, text = docx_text(docx(body, title="The title"))
    assert title == "The title"
    assert text == (
        "# Guide\n\nSome words, 中文.\n\n- first\n- second\n\n## Part\n\n"
        "a | b\nc | d e\n\nthe end\n"
    )


def test_runs_tabs_and_breaks_of_a_paragraph_are_joined() -> None:
    run = "<w:p><w:r><w:t>one </w:t></w:r><w:r><w:t>word</w:t><w:tab/><w:t>x</w:t><w:br/></w:r>"
    body = f"{run}<w:r><w:delText>deleted</w:delText><w:t>y</w:t></w:r></w:p>"
    assert docx_text(docx(body)) == (None, "one word\tx\ny\n")


def test_a_table_within_a_table_stands_in_its_cell() -> None:
    inner = table(["x", "y"])
    body = f"<w:tbl><w:tr><w:tc>{inner}</w:tc><w:tc>{paragraph('z')}</w:tc></w:tr></w:tbl>"
    assert docx_text(docx(body))[1] == "x y | z\n"


def run(text: str) -> str:
    return f"<w:r><w:t>{text}</w:t></w:r>"


def test_a_text_box_stands_beside_the_paragraph_that_holds_it() -> None:
    box = f"<w:txbxContent>{paragraph('in the box')}</w:txbxContent>"
    again = f"<mc:Fallback><w:pict>{box}</w:pict></mc:Fallback>"
    uri = "http://schemas.openxmlformats.org/markup-compatibility/2006"
    both = f'<mc:AlternateContent xmlns:mc="{uri}"><mc:Choice>{box}</mc:Choice>{again}'
    whole = f"<w:r>{both}</mc:AlternateContent></w:r>"
    heading = '<w:pPr><w:pStyle w:val="Heading1"/></w:pPr>'
    body = f"<w:p>{heading}{run('before')}{whole}{run(' after')}</w:p>"
    assert docx_text(docx(body))[1] == "in the box\n\n# before after\n"


@pytest.mark.parametrize(
    ("level", "text"), [('w:val="1"', "## x\n"), ("", "x\n"), ('w:val="12"', "x\n")]
)
def test_only_a_level_that_word_has_makes_a_heading(level: str, text: str) -> None:
    body = f"<w:p><w:pPr><w:outlineLvl {level}/></w:pPr>{run('x')}</w:p>"
    assert docx_text(docx(body))[1] == text


def test_deeply_nested_xml_is_read_like_any_other() -> None:
    deep = 100_000
    body = "<w:sdt>" * deep + paragraph("found") + "</w:sdt>" * deep
    assert docx_text(docx(body))[1] == "found\n"


def test_an_empty_document_has_no_text() -> None:
    assert docx_text(docx("")) == (None, "")


def bomb() -> bytes:
    return archive({"word/document.xml": b" " * (XML_BYTES_MAX + 1)})


def encrypted() -> bytes:
    content = bytearray(docx(paragraph("x")))
    with zipfile.ZipFile(io.BytesIO(content)) as packed:
        places = [info.header_offset for info in packed.infolist()]
        central = packed.start_dir
    for place in places:
        content[place + 6] |= 1
    while (central := content.find(b"PK\x01\x02", central)) >= 0:
        content[central + 8] |= 1
        central += 4
    return bytes(content)


LAUGHS = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>'
OUTSIDE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"Dear all,", "damaged, or not a Word document"),
        (b"", "damaged, or not a Word document"),
        (docx(paragraph("x"))[:-30], "damaged, or not a Word document"),
        (b"\xd0\xcf\x11\xe0 and so on", "encrypted, or of Word before 2007"),
        (archive({"mimetype": "x"}), "not a Word document: it has no text part"),
        (archive({"word/document.xml": "<w:p"}), "damaged"),
        (archive({"word/document.xml": b"\x00\xff"}), "damaged"),
        (docx(paragraph("&b;"), prologue=LAUGHS), "declares a document type"),
        (docx(paragraph("&a;"), prologue=OUTSIDE), "declares a document type"),
        (encrypted(), "encrypted: it needs a password"),
    ],
)
def test_what_is_no_readable_document_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(DocumentUnreadableError, match=reason):
        docx_text(content)


def test_a_zip_bomb_is_stopped_at_the_limit() -> None:
    content = bomb()
    assert len(content) < 1_000_000
    with pytest.raises(DocumentUnreadableError, match="unpacks to more than 200 MB"):
        docx_text(content)
