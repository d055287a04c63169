"""A service whose log is in PostgreSQL: what was acknowledged is there after every kill."""

import time
from pathlib import Path

from tests.e2e.running import START_S, Running, running
from tests.e2e.test_log import command, config, findings, said, turn
from tests.servers.postgres import PASSWORD, PostgresServer

__all__ = ["config"]  # a fixture


def said_again(service: Running, session: str, text: str) -> None:
    """Say it until it is acknowledged."""
    until_s = time.monotonic() + START_S
    while (answer := turn(service, session, text))[0] != 200:
        assert time.monotonic() < until_s, answer
        time.sleep(0.1)


def test_a_service_keeps_its_turns_in_postgresql_over_kills_of_both(
    tmp_path: Path, config: tuple[str, str], postgres: PostgresServer
) -> None:
    state = tmp_path / "state"
    file = Path(config[1])
    section = f'[log]\nurl = "file:{tmp_path / "url"}"\nschema = "{postgres.new_schema()}"\n'
    file.write_text(section + file.read_text())
    (tmp_path / "url").write_text(postgres.url)
    with running(state, *config) as service:
        _, session, _ = turn(service, "new", "one")
        service.kill("server")
        said_again(service, session, "two")
        postgres.kill()
        status, _, body = turn(service, session, "lost")
        assert (status, body["error"]["code"]) == (503, "log.unavailable")
        assert PASSWORD not in str(body)
        service.kill("server")  # its successor waits for PostgreSQL
        postgres.start()
        said_again(service, session, "three")
        assert said(service, session) == ["one", "two", "three"]
        [found] = findings(state, config)
        assert found["verdict"] == "ok"
    with running(state, *config) as service:
        assert said(service, session) == ["one", "two", "three"]
    assert not (state / "truth.db").exists()
    refused = command("backup", tmp_path / "backup.tar", "--state", state, *config)
    assert refused.returncode == 1
    assert "the log is in PostgreSQL" in refused.stderr
    written = "".join(path.read_text() for path in state.glob("*.log"))
    assert PASSWORD not in written
