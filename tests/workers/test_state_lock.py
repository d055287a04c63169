"""A state folder has one supervisor; a dead one's lock is nobody's."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from murmurate.core.errors import ConfigError, StateInUseError
from murmurate.workers.state_lock import is_locked, lock_state, owner

HOLDER = """
import pathlib, sys
from murmurate.workers.state_lock import lock_state
lock = lock_state(pathlib.Path(sys.argv[1]))
print("mine", flush=True)
sys.stdin.read()
"""


def test_the_second_is_told_who_has_the_folder(tmp_path: Path) -> None:
    with (
        lock_state(tmp_path / "state"),
        pytest.raises(StateInUseError, match=rf"\(process {os.getpid()}\) runs on .*: stop it"),
    ):
        lock_state(tmp_path / "state")
    lock_state(tmp_path / "state").close()


@pytest.mark.e2e
def test_a_killed_owners_lock_is_no_obstacle(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"mine\n"
        with pytest.raises(StateInUseError, match=f"process {holder.pid}"):
            lock_state(tmp_path)
        holder.send_signal(signal.SIGKILL)
        holder.wait(30)
    with lock_state(tmp_path) as lock:
        assert owner(lock) == f" (process {os.getpid()})"


@pytest.mark.parametrize(
    ("content", "words"), [(b"", ""), (b"12\n", " (process 12)"), (b"nonsense", "")]
)
def test_a_lock_names_its_owner_where_it_can(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "lock").write_bytes(content)
    with (tmp_path / "lock").open("a+b", buffering=0) as lock:
        assert owner(lock) == words


def test_a_file_in_the_folders_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("mine")
    with pytest.raises(ConfigError, match=r"server.state = .*: expected a folder"):
        lock_state(tmp_path / "state")


def test_who_looks_takes_nothing(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    with lock_state(tmp_path):
        assert is_locked(tmp_path)
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)
