"""Which files are listed and read, and what never leaves or enters the folder."""

import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from murmurate.adapters.folder import content, fingerprint, listing, unreadable, whole
from murmurate.core.errors import DocumentUnreadableError, FolderMissingError
from murmurate.knowledge.ports import Listing
from murmurate.knowledge.rules import Rules

BYTES_MAX = 1_000_000
ALL = Rules()


def test_a_listing_is_sorted_and_names_what_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("b.md", "deep/a.txt", "ls.1", ".hidden/x.md", ".secret.md", "c.png", "noname"):
        (tmp_path / name).write_text("text")
    found = listing(str(tmp_path), ALL)
    assert [file.path for file in found.files] == ["b.md", "deep/a.txt", "ls.1"]
    assert {problem.path: problem.reason for problem in found.problems} == {
        "c.png": "files of type .png are not supported",
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
    found = listing(str(folder), ALL)
    assert [file.path for file in found.files] == ["in.md", "real.md"]
    assert {problem.path for problem in found.problems} == {"out.md", "loop.md", "up"}
    for path in ("out.md", "../secret.md", "up/secret.md", str(tmp_path / "secret.md")):
        with pytest.raises(DocumentUnreadableError, match="leads out of the folder"):
            content(str(folder), path, bytes_max=BYTES_MAX)


SWAPPER = """
import os, sys
from murmurate.adapters.folder import content
root, outside, wait = sys.argv[1], sys.argv[2], int(sys.argv[3])

def swap(event, _):
    global wait
    if event == "open" and wait >= 0:
        wait -= 1
        if wait < 0:
            os.rename(f"{root}/sub", f"{root}/before")
            os.symlink(outside, f"{root}/sub")

sys.addaudithook(swap)
sys.stdout.write(content(root, "sub/a.md", bytes_max=100).bytes.decode())
"""
"""Puts a link in a folder's place just before one of the steps of opening a file in it."""


@pytest.mark.parametrize(("step", "read"), [(0, ""), (1, ""), (2, "inside")])
def test_a_folder_that_becomes_a_link_leads_nobody_out(
    tmp_path: Path, step: int, read: str
) -> None:
    root, outside = tmp_path / "docs", tmp_path / "outside"
    for folder, text in ((root / "sub", "inside"), (outside, "secret")):
        folder.mkdir(parents=True)
        (folder / "a.md").write_text(text)
    command = [sys.executable, "-c", SWAPPER, str(root), str(outside), str(step)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (root / "sub").is_symlink()
    assert done.stdout == read
    assert ("DocumentUnreadableError" in done.stderr) is not bool(read)


def test_a_pipe_in_a_files_place_does_not_hold_the_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.md")
    [problem] = listing(str(tmp_path), ALL).problems
    assert problem.reason == "not a regular file"
    with pytest.raises(DocumentUnreadableError, match="not a regular file"):
        content(str(tmp_path), "pipe.md", bytes_max=BYTES_MAX)


def test_a_name_that_is_not_utf8_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9")).mkdir()
    (tmp_path / os.fsdecode(b"l\xefnk")).symlink_to(tmp_path)
    for name in (b"caf\xe9/b.md", b"na\xefve.md"):
        (tmp_path / os.fsdecode(name)).write_text("text")
    (tmp_path / "a.md").write_text("text")
    found = listing(str(tmp_path), ALL)
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
    (tmp_path / "c.png").write_text("text")
    assert set(listing(str(tmp_path), ALL).unseen) == {"loop.md", "linked"}


def test_a_folder_that_may_not_be_read_is_not_taken_as_empty() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "closed").mkdir(mode=0)
        folder.chmod(0o755)
        with ordinary_user():
            assert listing(name, ALL).unseen == ("closed",)
        folder.chmod(0)
        with ordinary_user():
            assert listing(name, ALL).unseen == (".",)
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
    found = listing(str(tmp_path), Rules(files_max=2))
    assert [file.path for file in found.files] == ["a.md"]
    assert found.unseen == (".",)


def test_more_files_than_allowed_are_reported(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.md").write_text("text")
    found = listing(str(tmp_path), Rules(files_max=3))
    assert [file.path for file in found.files] == ["0.md", "1.md", "2.md"]
    assert found.problems[0].path == found.ends_before == "3.md"
    assert listing(str(tmp_path), Rules(files_max=4)).ends_before is None


def test_a_file_over_the_limit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("x" * 11)
    with pytest.raises(DocumentUnreadableError, match="over 0 MB"):
        content(str(tmp_path), "a.md", bytes_max=10)


def test_what_the_machine_lacks_may_pass_and_what_the_file_is_may_not() -> None:
    assert unreadable(OSError(errno.EMFILE, "Too many open files")).retry_s is not None
    assert unreadable(OSError(errno.EIO, "Input/output error")).retry_s is not None
    assert unreadable(OSError(errno.EACCES, "Permission denied")).retry_s is None


def test_a_missing_file_and_a_missing_folder_are_said(tmp_path: Path) -> None:
    with pytest.raises(DocumentUnreadableError, match="No such file"):
        content(str(tmp_path), "a.md", bytes_max=BYTES_MAX)
    with pytest.raises(FolderMissingError, match="the folder is not there"):
        listing(str(tmp_path / "nope"), ALL)


def test_a_name_with_a_line_break_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "two\nlines.md").write_text("text")
    (tmp_path / "a.md").write_text("text")
    found = listing(str(tmp_path), ALL)
    assert [file.path for file in found.files] == ["a.md"]
    assert [(problem.path, problem.reason) for problem in found.problems] == [
        ("two\ufffdlines.md", "the name has control characters in it")
    ]


def test_excluded_folders_are_not_entered_and_what_is_not_included_passes(tmp_path: Path) -> None:
    for name in ("a.md", "src/b.py", "src/c.md", "node_modules/d.md", "src/node_modules/e.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    (tmp_path / "node_modules/loop").symlink_to(tmp_path)
    without = listing(str(tmp_path), Rules(exclude=("node_modules",)))
    assert [file.path for file in without.files] == ["a.md", "src/b.py", "src/c.md"]
    only = listing(str(tmp_path), Rules(include=("*.md",), exclude=("node_modules",)))
    assert [file.path for file in only.files] == ["a.md", "src/c.md"]
    assert without.problems == only.problems == ()


def test_a_huge_file_is_listed_with_its_size_and_read_no_further_than_allowed(
    tmp_path: Path,
) -> None:
    with (tmp_path / "sparse.txt").open("wb") as file:
        file.truncate(10 * 1024**3)
    [seen] = listing(str(tmp_path), ALL).files
    assert seen.size == 10 * 1024**3
    with pytest.raises(DocumentUnreadableError, match="over 0 MB"):
        content(str(tmp_path), "sparse.txt", bytes_max=BYTES_MAX)


def test_a_device_in_a_files_place_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "zero.md").symlink_to("/dev/zero")
    [problem] = listing(str(tmp_path), ALL).problems
    assert problem.reason == "a link that leads out of the folder is not followed"
    with pytest.raises(DocumentUnreadableError, match="leads out of the folder"):
        content(str(tmp_path), "zero.md", bytes_max=BYTES_MAX)


@pytest.mark.parametrize("written", ["first and second", "other", "less"])
def test_a_file_that_is_written_while_it_is_read_is_not_taken_for_whole(
    tmp_path: Path, written: str
) -> None:
    path = tmp_path / "a.md"
    path.write_text("first")
    os.utime(path, ns=(1, 1))
    with path.open("rb") as file:
        before = os.fstat(file.fileno())
        path.write_text(written)
        with pytest.raises(DocumentUnreadableError, match="it changed while it was read"):
            whole(file, before, bytes_max=BYTES_MAX)


def test_a_file_that_may_not_be_read_is_said() -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        (Path(name) / "a.md").write_text("text")
        (Path(name) / "a.md").chmod(0)
        with ordinary_user(), pytest.raises(DocumentUnreadableError, match="Permission denied"):
            content(name, "a.md", bytes_max=BYTES_MAX)


def test_the_fingerprint_changes_with_whatever_a_sync_would_see(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("text")
    seen = [fingerprint(str(tmp_path), ALL)]
    assert fingerprint(str(tmp_path), ALL) == seen[0]
    (tmp_path / "b.md").write_text("text")
    seen.append(fingerprint(str(tmp_path), ALL))
    (tmp_path / "b.md").write_text("longer text")
    seen.append(fingerprint(str(tmp_path), ALL))
    os.utime(tmp_path / "a.md", ns=(1, 1))
    seen.append(fingerprint(str(tmp_path), ALL))
    (tmp_path / "pipe.md").symlink_to("nowhere")
    seen.append(fingerprint(str(tmp_path), ALL))
    (tmp_path / ".hidden.md").write_text("text")
    assert len(set(seen)) == len(seen)
    assert fingerprint(str(tmp_path), ALL) == seen[-1]
    with pytest.raises(FolderMissingError):
        fingerprint(str(tmp_path / "nope"), ALL)
