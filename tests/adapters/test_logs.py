"""Events as JSON lines."""

import json
import logging
from pathlib import Path

from murmurate.adapters.logs import (
    FILE_BYTES_MAX,
    FILES_KEPT,
    KINDS_MAX,
    Bridge,
    JsonLog,
    Seldom,
    place_of,
)
from tests.fakes import FakeClock, RecordingLog


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


def test_what_strangers_cause_is_written_once_a_second_and_counted() -> None:
    clock, log = FakeClock(), RecordingLog()
    seldom = Seldom(log, clock=clock)
    for _ in range(1000):
        seldom.event("http.refused", "request.malformed")
    seldom.event("http.refused", "server.connections")
    clock.time_s += 1.0
    seldom.event("http.refused", "request.malformed")
    assert log.named("http.refused") == [
        {"kind": "request.malformed", "left_out": 0},
        {"kind": "server.connections", "left_out": 0},
        {"kind": "request.malformed", "left_out": 999},
    ]


def test_kinds_without_end_become_one() -> None:
    log = RecordingLog()
    seldom = Seldom(log, clock=FakeClock())
    for number in range(KINDS_MAX * 3):
        seldom.event("asyncio", f"kind {number}")
    assert len(log.events) == KINDS_MAX + 1
    assert log.events[-1][1]["kind"] == "other"


def test_what_libraries_log_becomes_an_event_without_their_texts() -> None:
    log = RecordingLog()
    logger = logging.getLogger("a library")
    bridge = Bridge(Seldom(log, clock=FakeClock()))
    logger.addHandler(bridge)
    logger.propagate = False
    logger.info("Started")
    logger.warning("Invalid request from %s", "somebody")
    try:
        json.loads("my secret")
    except ValueError:
        logger.exception("Exception in application\n")
    logger.error("Exception in callback Edge.data_received(b'my secret')\nhandle: <Handle 0x1>")
    logger.removeHandler(bridge)
    (_, first), (_, second), (_, third) = log.events
    assert third == {"kind": "Exception in callback Edge.data_received", "left_out": 0}
    assert first == {"kind": "Invalid request from %s", "left_out": 0}
    assert second["kind"].startswith("Exception in application (JSONDecodeError at decoder.py:")


def test_an_exception_that_was_never_raised_has_no_place() -> None:
    assert place_of(ValueError("secret")) == "ValueError"
