"""Starting and stopping: `murmurate up` as a user and as a process manager meets it."""

import json
import os
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.running import (
    Running,
    children_of,
    is_alive,
    output_of,
    running,
    stop,
    up,
    wait_for,
    wait_for_output,
)

SLOW_RULES = """
tokens_per_s = 10

[[rules]]
match = ".*"
text = "one two three four five six seven"
"""
SCRIPTED = """
[knowledge]

[models.slow]
engine = "scripted"
rules = "rules.toml"
"""


def test_the_ready_file_is_private_and_says_how_to_reach_the_service(service: Running) -> None:
    file = service.state.parent / f"{service.state.name}.ready"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_text()) == {
        "url": service.url,
        "key": service.key,
        "pid": service.process.pid,
    }
    assert stat.S_IMODE((service.state / "key").stat().st_mode) == 0o600
    status, _, body = service.request("/readyz")
    assert (status, body["status"]) == (200, "ready")


def test_sigterm_ends_everything_with_0_and_leaves_no_process(tmp_path: Path) -> None:
    with running(tmp_path / "state") as service:
        pids = children_of(service.pid)
        assert len(pids) == 4
        assert stop(service.process) == 0
    assert not any(is_alive(pid) for pid in pids)
    assert not (tmp_path / "state" / "ready.json").exists()


def test_the_key_stays_the_same_over_restarts(tmp_path: Path) -> None:
    with running(tmp_path / "state") as service:
        first = service.key
    with running(tmp_path / "state") as service:
        assert service.key == first
        assert service.request("/v1/models")[0] == 200


def test_children_die_with_a_killed_supervisor(tmp_path: Path) -> None:
    with running(tmp_path / "state") as service:
        pids = children_of(service.pid)
        os.kill(service.pid, signal.SIGKILL)
        service.process.wait()
        deadline_s = time.monotonic() + 10
        while any(is_alive(pid) for pid in pids) and time.monotonic() < deadline_s:
            time.sleep(0.02)
        assert not any(is_alive(pid) for pid in pids)


def test_a_taken_port_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = up(tmp_path / "state", listen=f"127.0.0.1:{port}")
        assert process.wait(30) == 1
    assert output_of(tmp_path / "state") == (
        f"murmurate: 127.0.0.1:{port} is taken: stop the other program, or choose another port, "
        "for example --listen 127.0.0.1:0\n"
    )


def test_a_state_folder_belongs_to_one_service(service: Running) -> None:
    second = up(service.state)
    assert second.wait(30) == 1
    line = output_of(service.state)
    assert f"another murmurate (process {service.pid}) runs on {service.state}: stop it" in line
    assert service.request("/healthz")[0] == 200


def test_a_broken_config_names_key_value_and_what_was_expected(tmp_path: Path) -> None:
    config = tmp_path / "broken.toml"
    config.write_text('[models.tiny]\nengine = "llama.cpp"\nweights = "builtin:tiny"\nslots = "x"')
    process = up(tmp_path / "state", "--config", str(config))
    assert process.wait(30) == 1
    output = output_of(tmp_path / "state")
    assert "models.tiny.slots = 'x'" in output
    assert "int" in output
    assert output.count("\n") == 1


def test_missing_weights_stop_the_start_with_their_name(tmp_path: Path) -> None:
    process = up(
        tmp_path / "state", environment={"MURMURATE_MODELS__TINY__WEIGHTS": "/nowhere/m.gguf"}
    )
    assert process.wait(30) == 1
    assert "models.tiny: /nowhere/m.gguf is missing: check the path" in output_of(
        tmp_path / "state"
    )


def test_sigterm_lets_an_answer_under_way_finish(tmp_path: Path) -> None:
    state = tmp_path / "state"
    ready_file = tmp_path / "ready"
    process = up(state, "--ready-file", str(ready_file))
    ready = wait_for(ready_file, process)
    service = Running(ready["url"], ready["key"], ready["pid"], state, process)
    stream = service.client().chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "hello"}],
        stream=True,
        max_tokens=400,
        extra_body={"ignore_eos": True},
    )
    next(stream)
    process.terminate()
    last = list(stream)[-1]
    assert last.choices[0].finish_reason == "length"
    assert process.wait(30) == 0


def refused(state: Path, *options: str, environment: dict[str, str] | None = None) -> str:
    """Start a service that must end by itself with 1; return its only line."""
    process = up(state, *options, environment=environment)
    try:
        assert process.wait(30) == 1
    finally:
        stop(process)
    output = output_of(state)
    assert output.count("\n") == 1, output
    assert output.startswith("murmurate: ")
    return output


def scripted(folder: Path, more: str = "") -> tuple[str, str]:
    """Return the options for a service that needs no weights and no documents."""
    (folder / "rules.toml").write_text(SLOW_RULES)
    config = folder / "scripted.toml"
    config.write_text(SCRIPTED + more)
    return "--config", str(config)


def test_a_secret_that_is_not_set_stops_the_start_with_one_line(tmp_path: Path) -> None:
    remote = '[models.far]\nengine = "openai"\nurl = "http://127.0.0.1:1"\nkey = "env:NOT_SET"\n'
    line = refused(tmp_path / "state", *scripted(tmp_path, remote))
    assert "the variable NOT_SET is not set" in line


def test_a_damaged_log_stops_the_start_with_one_line(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "truth.db").write_bytes(b"this is no database " * 1000)
    line = refused(state, *scripted(tmp_path))
    assert "truth.db" in line
    assert "restore a backup" in line


def test_a_log_of_a_newer_version_stops_the_start_with_one_line(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    with closing(sqlite3.connect(state / "truth.db")) as db:
        db.execute("PRAGMA user_version=99")
    assert "run the version that wrote it" in refused(state, *scripted(tmp_path))


def test_a_file_that_cannot_be_made_stops_the_start_with_one_line(tmp_path: Path) -> None:
    state = tmp_path / "state"
    (state / "key").mkdir(parents=True)
    line = refused(state, *scripted(tmp_path))
    assert str(state / "key") in line
    assert "Is a directory" in line


def test_a_damaged_telemetry_file_does_not_stop_the_service(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "telemetry.db").write_bytes(b"this is no database " * 1000)
    with running(state, *scripted(tmp_path)) as service:
        assert service.request("/readyz")[0] == 200
    assert (state / "telemetry.db.damaged").is_file()


def test_a_lost_key_file_is_made_anew_at_the_next_start(tmp_path: Path) -> None:
    state = tmp_path / "state"
    options = scripted(tmp_path)
    with running(state, *options):
        pass
    lost = (state / "key").read_text()
    (state / "key").unlink()
    with running(state, *options) as service:
        assert service.request("/v1/models")[0] == 200
    assert (state / "key").read_text() != lost


def test_a_key_file_that_cannot_be_read_stops_the_start_and_says_what_to_do(tmp_path: Path) -> None:
    state = tmp_path / "state"
    options = scripted(tmp_path)
    with running(state, *options):
        pass
    (state / "key").write_bytes(b"\xff\xfe")
    line = refused(state, *options)
    assert f"the key file {state / 'key'} can't be read: restore it, or move it away" in line


@pytest.mark.parametrize("place", ["nowhere/ready", "folder"])
def test_a_ready_file_that_cannot_be_written_stops_before_anything_starts(
    tmp_path: Path, place: str
) -> None:
    (tmp_path / "folder").mkdir()
    line = refused(tmp_path / "state", "--ready-file", str(tmp_path / place))
    assert f"--ready-file {tmp_path / place}: " in line
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("place", ["file", "file/state"])
def test_a_state_folder_that_is_none_is_one_line(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("mine")
    process = up(tmp_path / "unused", "--state", str(tmp_path / place))
    assert process.wait(30) == 1
    line = output_of(tmp_path / "unused")
    assert line.count("\n") == 1
    assert f"server.state = {tmp_path / place}: expected a folder" in line


def test_a_killed_supervisors_ready_files_are_gone_before_the_next_is_ready(
    tmp_path: Path,
) -> None:
    state = tmp_path / "state"
    options = scripted(tmp_path)
    with running(state, *options) as service:
        os.kill(service.pid, signal.SIGKILL)
        service.process.wait()
    stale = tmp_path / "state.ready"
    assert stale.exists()
    assert (state / "ready.json").exists()
    # Its engine can't start, so that this one is never ready.
    (tmp_path / "rules.toml").write_text("nonsense")
    refused(state, *options, "--ready-file", str(stale))
    assert not stale.exists()
    assert not (state / "ready.json").exists()
    assert (state / "key").exists()


def test_a_lost_terminal_ends_the_service_like_sigterm(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    try:
        with running(tmp_path / "state", *scripted(tmp_path)) as service:
            pids = children_of(service.pid)
            os.kill(service.pid, signal.SIGHUP)
            assert service.process.wait(30) == 0
            assert not any(is_alive(pid) for pid in pids)
            assert not (tmp_path / "state" / "ready.json").exists()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_under_nohup_a_lost_terminal_changes_nothing(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with running(tmp_path / "state", *scripted(tmp_path)) as service:
            os.kill(service.pid, signal.SIGHUP)
            service.kill("sandbox")
            assert service.request("/v1/models")[0] == 200
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_service_goes_on_when_nobody_reads_its_output(tmp_path: Path) -> None:
    state, ready_file = tmp_path / "state", tmp_path / "ready"
    command = [sys.executable, "-m", "murmurate", "up", "--state", str(state)]
    command += ["--listen", "127.0.0.1:0", "--ready-file", str(ready_file), *scripted(tmp_path)]
    reading, writing = os.pipe()
    process = subprocess.Popen(command, stdout=writing, stderr=writing, cwd=tmp_path)
    os.close(writing)
    os.close(reading)
    try:
        ready = wait_for(ready_file, process)
        service = Running(ready["url"], ready["key"], ready["pid"], state, process)
        for name in ("sandbox", "server"):
            service.kill(name)
        assert service.request("/v1/models")[0] == 200
        assert stop(process) == 0
    finally:
        stop(process)


def test_what_is_stored_is_its_owners_alone_in_any_folder(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    (state / "index").mkdir(mode=0o755)
    before = os.umask(0o022)
    try:
        with running(state) as service:
            service.client().chat.completions.create(
                model="assistant", messages=[{"role": "user", "content": "Hello!"}]
            )
            files = {path.name: path for path in state.rglob("*") if path.is_file()}
            modes = {name: stat.S_IMODE(path.stat().st_mode) for name, path in files.items()}
    finally:
        os.umask(before)
    assert {"truth.db", "telemetry.db", "key", "ready.json"} <= set(modes)
    assert len(modes) > 8  # the index, too
    assert not {name: oct(mode) for name, mode in modes.items() if mode & 0o077}


def test_only_the_server_sees_the_whole_environment(tmp_path: Path) -> None:
    environment = {"MY_API_KEY": "secret", "LC_TIME": "C"}
    with running(tmp_path / "state", *scripted(tmp_path), environment=environment) as service:
        seen = {
            name: Path(f"/proc/{service.worker(name)}/environ").read_bytes().split(b"\0")
            for name in ("server", "engine", "library", "sandbox")
        }
    assert [name for name, found in seen.items() if b"MY_API_KEY=secret" in found] == ["server"]
    assert all(b"LC_TIME=C" in found for found in seen.values())


def test_less_than_a_second_to_drain_is_not_none(tmp_path: Path) -> None:
    with running(tmp_path / "state", *scripted(tmp_path, "[server]\ndrain_s = 0.9\n")) as service:
        stream = service.client().chat.completions.create(
            model="slow", messages=[{"role": "user", "content": "x"}], stream=True
        )
        next(stream)
        service.process.terminate()
        assert list(stream)[-1].choices[0].finish_reason == "stop"
        assert service.process.wait(30) == 0


def test_a_worker_that_dies_again_and_again_is_started_with_growing_pauses(
    tmp_path: Path,
) -> None:
    state = tmp_path / "state"
    with running(state, *scripted(tmp_path)) as service:
        for when in ("at once", "in 0.1 s", "in 0.2 s"):
            service.kill("sandbox")
            how = "was killed by signal 9 (kill -9, or out of memory)"
            line = f"murmurate: sandbox {how}; it is started again {when}\n"
            wait_for_output(state, line)
