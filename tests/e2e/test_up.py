"""Starting and stopping: `murmurate up` as a user and as a process manager meets it."""

import json
import os
import signal
import socket
import stat
import time
from pathlib import Path

from tests.e2e.running import (
    Running,
    children_of,
    is_alive,
    output_of,
    running,
    stop,
    up,
    wait_for,
)


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
    assert "another murmurate runs on" in output_of(service.state)
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
    assert "models.tiny.weights = '/nowhere/m.gguf': no such file" in output_of(tmp_path / "state")


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
