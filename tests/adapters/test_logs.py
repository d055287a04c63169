"""Events as JSON lines."""

import json
from pathlib import Path

from murmurate.adapters.logs import FILE_BYTES_MAX, FILES_KEPT, JsonLog
from tests.fakes import FakeClock


def test_an_event_is_one_line_with_its_time_name_and_facts(tmp_path: Path) -> None:
    log = JsonLog(tmp_path / "server.log", clock=FakeClock(2.0))
    log.event("request.done", status=200, ms=1.5, trace=None, text='100 % "é"\nnext')
    log.event("request.done")
    log.close()
    first, second = (tmp_path / "server.log").read_text(encoding="utf-8").splitlines()
    assert json.loads(first) == {
        "at": 2000,
        "event": "request.done",
        "status": 200,
        "ms": 1.5,
        "trace": None,
        "text": '100 % "é"\nnext',
    }
    assert json.loads(second) == {"at": 2000, "event": "request.done"}


def test_a_log_that_says_nothing_makes_no_file(tmp_path: Path) -> None:
    JsonLog(tmp_path / "server.log", clock=FakeClock()).close()
    assert not (tmp_path / "server.log").exists()


def test_the_files_together_stay_within_their_bound(tmp_path: Path) -> None:
    log = JsonLog(tmp_path / "server.log", clock=FakeClock())
    for _ in range(FILES_KEPT + 3):
        log.event("big", text="x" * (FILE_BYTES_MAX - 1000))
    log.close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["server.log", *(f"server.log.{n + 1}" for n in range(FILES_KEPT))]
    assert all(path.stat().st_size <= FILE_BYTES_MAX for path in tmp_path.iterdir())
