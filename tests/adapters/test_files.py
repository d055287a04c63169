"""Small files that must be whole and private."""

import os
from pathlib import Path

import pytest

from murmurate.adapters.files import write_private


def test_a_private_file_is_its_owners_alone_whatever_the_mask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_private(tmp_path / "key", b"secret\n")
    finally:
        os.umask(before)
    assert (tmp_path / "key").read_bytes() == b"secret\n"
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_what_was_there_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"old and longer")
    (tmp_path / "key").chmod(0o644)
    (tmp_path / "key.new").write_bytes(b"left behind by a crash")
    write_private(tmp_path / "key", b"new")
    assert (tmp_path / "key").read_bytes() == b"new"
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_a_link_planted_in_its_way_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / "key.new").symlink_to(victim)
    write_private(tmp_path / "key", b"secret")
    assert victim.read_bytes() == b"mine"
    assert not (tmp_path / "key").is_symlink()


def test_a_folder_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_private(tmp_path / "nowhere" / "key", b"secret")
