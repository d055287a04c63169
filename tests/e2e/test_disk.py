"""A disk that loses what it was to write: its server is started again, and nothing is lost."""

from http.client import HTTPException
from pathlib import Path

from tests.adapters.failing_disk import Disk, built
from tests.e2e.running import Running, running
from tests.e2e.test_log import config, said, turn

__all__ = ["config"]  # a fixture

LONG = "x" * 1_000_000
"""Five of these fill the WAL for certain, and so it is folded into the file."""


def say(service: Running, session: str, text: str) -> None:
    """Say it until it is acknowledged."""
    for _ in range(20):
        try:
            if turn(service, session, text)[0] == 200:
                return
        except (OSError, HTTPException):
            continue  # its server has ended meanwhile
    raise AssertionError("it was never acknowledged")


def test_after_a_failed_fsync_of_the_log_the_server_is_started_again_with_every_turn(
    tmp_path: Path, config: tuple[str, str]
) -> None:
    disk = Disk(built(tmp_path), tmp_path / "state")
    with running(tmp_path / "state", *config, environment=disk.environment) as service:
        _, session, _ = turn(service, "new", "one")
        server = service.worker("server")
        disk.fails(database=1, forgets=True)
        texts = ["one"]
        while service.worker("server") == server:
            assert len(texts) < 10
            say(service, session, LONG)
            texts.append(LONG)
        say(service, session, "last")
        found = said(service, session)
        assert (found[0], found[-1]) == ("one", "last")
        # One turn may have been stored whose answer was lost with the server: it was said again.
        assert len(texts) + 1 <= len(found) <= len(texts) + 2
    written = (tmp_path / "state" / "server.log").read_text()
    assert '"event":"log.fault"' in written
    assert "the disk has lost writes" in written
