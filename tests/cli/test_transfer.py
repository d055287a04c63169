"""Files go to a server and come from it whole, or not at all."""

from pathlib import Path

import pytest

from murmurate.cli.client import CutError, NotRunningError, RefusedError, Server
from murmurate.cli.transfer import download, upload
from murmurate.core.errors import ConfigError
from tests.cli.test_client import OK, answering

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

REFUSAL = b'{"error": {"message": "the file is over the limit of 3 bytes"}}'


def test_a_file_is_sent_as_a_form_that_says_how_long_it_is(tmp_path: Path) -> None:
    file = tmp_path / 'a "b".jsonl'
    file.write_bytes(b"x" * 200_000)
    with answering(OK + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}") as (url, asked):
        upload(Server(url, "k"), "/v1/files", file, purpose="batch").close()
    head, _, body = asked[0].partition(b"\r\n\r\n")
    assert b"Authorization: Bearer k" in head
    assert f"Content-Length: {len(body)}".encode() in head
    assert b'filename="a \\"b\\".jsonl"' in body
    assert body.count(b"x" * 1000) == 200


def test_what_the_server_says_to_a_file_is_passed_on(tmp_path: Path) -> None:
    file = tmp_path / "in"
    file.write_bytes(b"1234")
    refused = pytest.raises(RefusedError, match="over the limit of 3 bytes")
    with answering(b"HTTP/1.1 413 Large\r\n\r\n" + REFUSAL) as (url, _), refused:
        upload(Server(url, "k"), "/v1/files", file, purpose="batch")
    with pytest.raises(NotRunningError, match="does not answer"):
        upload(Server("http://127.0.0.1:1", "k"), "/v1/files", file, purpose="batch")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none: No such file"):
        upload(Server("http://127.0.0.1:1", "k"), "/", tmp_path / "none", purpose="batch")


def test_what_broke_off_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "out"
    file.write_text("before")
    with (
        answering(OK + b"Connection: close\r\nContent-Length: 9\r\n\r\nhalf") as (url, _),
        pytest.raises(CutError),
    ):
        download(Server(url, "k"), "/", file)
    assert [(it.name, it.read_text()) for it in tmp_path.iterdir()] == [("out", "before")]


def test_a_folder_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    refused = pytest.raises(RefusedError, match=r"out\.part: No such file")
    with answering(OK + b"Connection: close\r\nContent-Length: 4\r\n\r\nhalf") as (url, _), refused:
        download(Server(url, "k"), "/", tmp_path / "none" / "out")
