"""Files into text: encodings, limits, and what never leaves or enters the folder."""

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from murmurate.adapters.parse import extract, listing
from murmurate.core.errors import DocumentUnreadableError, FolderMissingError
from murmurate.knowledge.ports import Listing

BYTES_MAX = 1_000_000
CHINESE = "# 安装\n\n如何安装软件包？请看这里，软件包的安装很简单。\n"


def read(folder: Path, content: bytes) -> str:
    (folder / "a.txt").write_bytes(content)
    return extract(str(folder), "a.txt", bytes_max=BYTES_MAX).text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "gb18030", "gbk"])
def test_chinese_is_read_in_its_usual_encodings(tmp_path: Path, encoding: str) -> None:
    assert read(tmp_path, CHINESE.encode(encoding)) == CHINESE


def test_big_endian_utf16_is_read_by_its_mark(tmp_path: Path) -> None:
    assert read(tmp_path, b"\xfe\xff" + CHINESE.encode("utf-16-be")) == CHINESE


def test_all_line_ends_become_one(tmp_path: Path) -> None:
    assert read(tmp_path, b"a\r\nb\rc\n") == "a\nb\nc\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x7fELF\x00\x01", "binary, not text"),
        (b"\x89PNG\r\n\x1a\n\x00", "binary, not text"),
        ("café crème brûlée".encode("latin-1"), "not valid utf-8 or gb18030 text"),
        (b"\xff\xfea", "not valid utf-16-le text"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(DocumentUnreadableError, match=f"a.txt: {reason}"):
        read(tmp_path, content)


def test_an_empty_file_is_an_empty_document(tmp_path: Path) -> None:
    assert read(tmp_path, b"") == ""


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("intro\n\n# The Guide #\n", "The Guide"),
        ("The Guide\n=========\n", "The Guide"),
        (".. _label:\n\nThe Guide\n*********\n", "The Guide"),
        ("no heading at all\n", "a"),
    ],
)
def test_the_title_is_the_first_heading_or_the_name(tmp_path: Path, text: str, title: str) -> None:
    (tmp_path / "a.rst").write_text(text)
    assert extract(str(tmp_path), "a.rst", bytes_max=BYTES_MAX).title == title


def test_a_listing_is_sorted_and_names_what_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("b.md", "deep/a.txt", "ls.1", ".hidden/x.md", ".secret.md", "c.pdf", "noname"):
        (tmp_path / name).write_text("text")
    found = listing(str(tmp_path), files_max=10)
    assert [file.path for file in found.files] == ["b.md", "deep/a.txt", "ls.1"]
    assert {problem.path: problem.reason for problem in found.problems} == {
        "c.pdf": "files of type .pdf are not supported",
        "noname": "no type, not supported",
    }
    assert found.files[0].size == 4
    assert found.files[0].mtime_ns == (tmp_path / "b.md").stat().st_mtime_ns


def test_links_that_lead_out_are_reported_and_never_read(tmp_path: Path) -> None:
    (tmp_path / "secret.md").write_text("secret")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "real.md").write_text("text")
    (folder / "out.md").symlink_to(tmp_path / "secret.md")
    (folder / "in.md").symlink_to(folder / "real.md")
    (folder / "loop.md").symlink_to(folder / "loop.md")
    (folder / "up").symlink_to(tmp_path)
    found = listing(str(folder), files_max=10)
    assert [file.path for file in found.files] == ["in.md", "real.md"]
    assert {problem.path for problem in found.problems} == {"out.md", "loop.md", "up"}
    for path in ("out.md", "../secret.md", "up/secret.md", str(tmp_path / "secret.md")):
        with pytest.raises(DocumentUnreadableError, match="leads out of the folder"):
            extract(str(folder), path, bytes_max=BYTES_MAX)


def test_a_pipe_in_a_files_place_does_not_hold_the_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.md")
    [problem] = listing(str(tmp_path), files_max=10).problems
    assert problem.reason == "not a regular file"
    with pytest.raises(DocumentUnreadableError, match="not a regular file"):
        extract(str(tmp_path), "pipe.md", bytes_max=BYTES_MAX)


def test_a_name_that_is_not_utf8_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9")).mkdir()
    (tmp_path / os.fsdecode(b"l\xefnk")).symlink_to(tmp_path)
    for name in (b"caf\xe9/b.md", b"na\xefve.md"):
        (tmp_path / os.fsdecode(name)).write_text("text")
    (tmp_path / "a.md").write_text("text")
    found = listing(str(tmp_path), files_max=10)
    assert [file.path for file in found.files] == ["a.md"]
    assert {problem.path: problem.reason for problem in found.problems} == {
        "caf\ufffd/b.md": "the name is not UTF-8",
        "na\ufffdve.md": "the name is not UTF-8",
        "l\ufffdnk": "a link to a folder is not followed",
    }
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(found), type=Listing) == found


def test_what_cannot_be_looked_at_is_told_apart_from_what_is_gone(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("text")
    (tmp_path / "loop.md").symlink_to(tmp_path / "loop.md")
    (tmp_path / "linked").symlink_to(tmp_path)
    (tmp_path / "c.pdf").write_text("text")
    assert set(listing(str(tmp_path), files_max=10).unseen) == {"loop.md", "linked"}


def test_a_folder_that_may_not_be_read_is_not_taken_as_empty() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "closed").mkdir(mode=0)
        folder.chmod(0o755)
        with ordinary_user():
            assert listing(name, files_max=10).unseen == ("closed",)
        folder.chmod(0)
        with ordinary_user():
            assert listing(name, files_max=10).unseen == (".",)
        folder.chmod(0o700)


@contextmanager
def ordinary_user() -> Generator[None]:
    """Be nobody for a while where the tests run as root, who may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_more_unread_folders_than_files_allowed_hide_the_whole(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"link{number}").symlink_to(tmp_path)
    (tmp_path / "a.md").write_text("text")
    found = listing(str(tmp_path), files_max=2)
    assert [file.path for file in found.files] == ["a.md"]
    assert found.unseen == (".",)


def test_more_files_than_allowed_are_reported(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.md").write_text("text")
    found = listing(str(tmp_path), files_max=3)
    assert [file.path for file in found.files] == ["0.md", "1.md", "2.md"]
    assert found.problems[0].path == found.ends_before == "3.md"
    assert listing(str(tmp_path), files_max=4).ends_before is None


def test_a_file_over_the_limit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("x" * 11)
    with pytest.raises(DocumentUnreadableError, match=r"a\.md: over 0 MB"):
        extract(str(tmp_path), "a.md", bytes_max=10)


def test_a_missing_file_and_a_missing_folder_are_said(tmp_path: Path) -> None:
    with pytest.raises(DocumentUnreadableError, match="No such file"):
        extract(str(tmp_path), "a.md", bytes_max=BYTES_MAX)
    with pytest.raises(FolderMissingError, match="the folder is not there"):
        listing(str(tmp_path / "nope"), files_max=10)
