"""A file that makes its parser crash, hang or swell is named, and the next one is read."""

import resource
import sys
from collections.abc import Generator
from contextlib import closing

import pytest

from murmurate.adapters.parser import Parser
from murmurate.adapters.parser_child import Bounds, parsed
from murmurate.core.errors import DocumentUnreadableError
from murmurate.knowledge.formats import Format
from tests.documents import archive, docx, paragraph, pdf

PAGE = b"<p>fine"


@pytest.fixture
def parser() -> Generator[Parser]:
    with closing(Parser()) as made:
        yield made


def refused(parser: Parser, content: bytes, format_: Format) -> str:
    with pytest.raises(DocumentUnreadableError) as error:
        parser.text(content, format_)
    return error.value.detail


def test_one_process_reads_many_files(parser: Parser) -> None:
    first = parser._running()
    assert parser.text(PAGE, Format.HTML) == (None, "fine\n")
    assert parser.text(docx(paragraph("two"), title="D"), Format.DOCX) == ("D", "two\n")
    assert parser.text(pdf(["three"]), Format.PDF) == (None, "three\f")
    assert parser._running() is first


def test_a_broken_file_is_refused_with_its_reason_and_the_next_is_read(parser: Parser) -> None:
    assert refused(parser, b"<html>", Format.PDF) == "not a PDF file, whatever its name says"
    assert parser.text(PAGE, Format.HTML) == (None, "fine\n")


def test_a_process_that_was_killed_in_between_is_started_again(parser: Parser) -> None:
    process = parser._running()
    process.kill()
    process.wait()
    assert parser.text(PAGE, Format.HTML) == (None, "fine\n")


@pytest.mark.parametrize(
    ("program", "fate"),
    [
        ("import os; os.abort()", "its parser crashed (signal 6)"),
        ("import sys; sys.exit(7)", "its parser crashed (exit code 7)"),
        ("print('no answer at all, and longer than its length')", "its parser crashed"),
    ],
)
def test_a_file_over_which_the_parser_dies_is_told_how(program: str, fate: str) -> None:
    with closing(Parser(command=(sys.executable, "-c", program))) as parser:
        assert refused(parser, PAGE, Format.HTML).startswith(fate)


def test_a_file_that_takes_too_long_is_given_up() -> None:
    with closing(Parser(Bounds(wall_s_max=0.0))) as parser:
        with pytest.raises(DocumentUnreadableError, match="took longer than 0 s") as error:
            parser.text(PAGE, Format.HTML)
        assert error.value.retry_s is not None  # a busy machine may be why


def test_a_parser_that_cannot_be_started_is_no_fault_of_the_file() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with closing(Parser()) as parser:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
        try:
            with pytest.raises(DocumentUnreadableError, match="Too many open files") as error:
                parser.text(PAGE, Format.HTML)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert error.value.retry_s is not None
        assert parser.text(PAGE, Format.HTML) == (None, "fine\n")


def test_a_file_that_takes_too_much_processor_time_is_given_up() -> None:
    page = b"<p>x" * 4_000_000
    with closing(Parser(Bounds(cpu_s_max=0))) as parser:
        reason = "reading it took more than 0 s of processor time"
        assert refused(parser, page, Format.HTML) == reason


def test_a_file_that_takes_too_much_memory_is_given_up() -> None:
    with closing(Parser(Bounds(memory_bytes_max=200 << 20))) as parser:
        reason = "it needs more than 200 MB to be read"
        assert refused(parser, docx(paragraph("x" * 150_000_000)), Format.DOCX) == reason
        assert parser.text(PAGE, Format.HTML) == (None, "fine\n")


def test_the_process_ends_with_whoever_started_it(parser: Parser) -> None:
    process = parser._running()
    assert parser.text(PAGE, Format.HTML) == (None, "fine\n")
    assert process.stdin is not None
    process.stdin.close()  # what a killed parent's end of the pipe looks like
    assert process.wait(10) == 0


def test_too_much_text_is_refused() -> None:
    with closing(Parser(Bounds(chars_max=10))) as parser:
        assert refused(parser, b"<p>twelve chars", Format.HTML) == "its text is over 10 characters"


def test_an_unforeseen_fault_of_a_library_is_the_files() -> None:
    twice = archive({"word/document.xml": "<a/>", "docProps/core.xml": "<a/><b/>"})
    assert (parsed(twice, Format.DOCX, Bounds()).refused or "").startswith("damaged")
