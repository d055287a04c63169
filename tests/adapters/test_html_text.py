"""HTML as text: what a reader sees, in order, however broken the page is."""

import pytest

from murmurate.adapters.html_text import encoding_named, html_text


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>One <b>two</b>\n three.<p>Next", "One two three.\n\nNext\n"),
        ("<h2>A <i>b</i></h2>text", "## A b\n\ntext\n"),
        ("<ul><li>a<li>b <ul><li>c</ul></ul>end", "- a\n- b\n\n- c\n\nend\n"),
        ("<table><tr><th>A<th>B</tr><tr><td>1</td><td>2</table>", "A | B\n1 | 2\n"),
        ("a<br>b", "a\nb\n"),
        ("<pre>def f():\n    x</pre>after", "```\ndef f():\n    x\n```\n\nafter\n"),
        ("a<script>if (1 < 2) x()</script>b<style>p{}</style>c", "abc\n"),
        ("<nav><ul><li>menu</ul></nav><main>text</main>", "text\n"),
        ("<svg><g><svg></svg>x</g></svg>seen", "seen\n"),
        ("1 &lt; 2 &amp; &#20013;&#xD800;", "1 < 2 & 中\ufffd\n"),
        ('<img alt="A cat" src=x>', "[A cat]\n"),
        ("no tags at all", "no tags at all\n"),
        ("half a page <p>and <b>then", "half a page\n\nand then\n"),
        ("<head><meta name=x><body>the head was left open", "the head was left open\n"),
        ("", ""),
    ],
)
def test_a_page_is_what_its_reader_sees(page: str, text: str) -> None:
    assert html_text(page)[1] == text


def test_the_title_is_that_of_the_head() -> None:
    assert html_text("<head><title> T &amp; t </title></head><p>x")[0] == "T & t"
    assert html_text("<svg><title>icon</title></svg><p>x")[0] is None


def test_how_deep_tags_nest_costs_nothing() -> None:
    deep = 200_000
    assert html_text("<div>" * deep + "found" + "</div>" * deep)[1] == "found\n"


@pytest.mark.parametrize(
    ("page", "encoding"),
    [
        (b'<meta charset="utf-8">', "utf-8"),
        (b"<META http-equiv=x content='text/html; charset=gb2312'>", "gb18030"),
        (b"<meta charset=iso-8859-1>", "cp1252"),
        (b"<meta charset=nonsense>", None),
        (b"<meta charset=hex>", None),
        (b"<p>none", None),
    ],
)
def test_the_encoding_is_the_one_that_the_page_names(page: bytes, encoding: str | None) -> None:
    assert encoding_named(page) == encoding
