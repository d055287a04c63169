"""A process without the memory it needs dies again and again: the others go on, and it is said."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bad_days.conftest import configured
from tests.e2e.running import Running, output_of, running, until, wait_for_output
from tests.e2e.test_up import scripted

PROCESS = "process library"


@pytest.fixture(scope="module")
def starved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service whose library can never start."""
    folder = tmp_path_factory.mktemp("starved")
    little = "library_memory_bytes_max = 33_554_432"
    with running(folder / "state", *configured(folder, workers=little)) as service:
        until(lambda: "within a minute" in parts(service).get(PROCESS, ""))
        yield service


def parts(service: Running) -> dict[str, str]:
    return service.request("/readyz")[2]["parts"]


def diagnosed(service: Running, process: str) -> str:
    """Return what `doctor` says is broken about a process; empty when it says nothing of it."""
    command = [sys.executable, "-m", "murmurate", "doctor", "--json", "--state", str(service.state)]
    done = subprocess.run(command, capture_output=True, check=False, cwd=service.state.parent)
    found = json.loads(done.stdout)
    lines = [finding for finding in found if finding["about"].strip() == process]
    assert all(line["verdict"] == "fail" for line in lines)
    return "\n".join(line["detail"] for line in lines)


def test_what_needs_no_library_is_served(starved: Running) -> None:
    assert starved.request("/readyz")[0] == 200
    for model, words in (("slow", "I hear you"), ("assistant", "1035")):
        answer = starved.client().chat.completions.create(
            model=model, messages=[{"role": "user", "content": "What is 23 * 45?"}]
        )
        assert words in (answer.choices[0].message.content or "")


def test_a_search_is_refused_with_a_code(starved: Running) -> None:
    body = {"model": "assistant", "messages": [{"role": "user", "content": "Where is Brack?"}]}
    status, headers, answer = starved.request("/v1/chat/completions", body)
    assert (status, answer["error"]["code"]) == (503, "worker.unreachable")
    assert "retry-after" in {name.lower() for name in headers}


def test_readyz_and_doctor_say_which_and_its_last_words(starved: Running) -> None:
    said = parts(starved)[PROCESS]
    assert "it exited with" in said or "it was killed by signal" in said
    assert "; its last words: " in said
    command = [sys.executable, "-m", "murmurate", "doctor", "--json"]
    command += [
        "--state",
        str(starved.state),
        "--config",
        str(starved.state.parent / "murmurate.toml"),
    ]
    found = json.loads(subprocess.run(command, capture_output=True, check=False, cwd="/").stdout)
    [line] = [finding for finding in found if finding["about"].strip() == PROCESS]
    assert line["verdict"] == "fail"
    assert "its last words: " in line["detail"]


def test_the_pauses_grow(starved: Running) -> None:
    wait_for_output(starved.state, "; it is started again in 0.8 s")
    assert "murmurate: engine" not in output_of(starved.state)
    assert "murmurate: server" not in output_of(starved.state)


def test_a_process_that_cannot_be_started_now_is_started_later(hardy: Running) -> None:
    soft, hard = resource.prlimit(hardy.pid, resource.RLIMIT_NOFILE)
    files = len(list(Path(f"/proc/{hardy.pid}/fd").iterdir()))
    resource.prlimit(hardy.pid, resource.RLIMIT_NOFILE, (files, hard))
    try:
        os.kill(hardy.worker("sandbox"), signal.SIGKILL)
        wait_for_output(
            hardy.state, "murmurate: sandbox could not be started (Too many open files)"
        )
        assert hardy.request("/v1/models")[0] == 200
    finally:
        resource.prlimit(hardy.pid, resource.RLIMIT_NOFILE, (soft, hard))
    answer = hardy.client().chat.completions.create(
        model="assistant", messages=[{"role": "user", "content": "What is 23 * 45?"}]
    )
    assert "1035" in (answer.choices[0].message.content or "")


def test_doctor_says_why_there_is_no_server_any_more(tmp_path: Path) -> None:
    with running(tmp_path / "state", *scripted(tmp_path)) as service:
        for file in filter(Path.is_file, (tmp_path / "state").glob("truth.db*")):
            file.write_bytes(b"this is no database " * 1000)
        os.kill(service.worker("server"), signal.SIGKILL)
        wait_for_output(service.state, "murmurate: server exited with 2; it is started again in")
        said = diagnosed(service, "process server")
        assert "within a minute: it exited with 2; its last words: murmurate: " in said
        assert "truth.db" in said
        os.kill(service.pid, signal.SIGKILL)
        service.process.wait()
        assert diagnosed(service, "process server") == "", "of a service that is no more"
