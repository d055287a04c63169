"""How a worker starts and ends, with real processes on both ends of the pipe."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from murmurate.config import Config
from murmurate.workers.boot import ServerBoot
from murmurate.workers.lifeline import EXIT_ORPHANED

pytestmark = pytest.mark.e2e

WORKER = """
import threading
from murmurate.workers.boot import SandboxBoot
from murmurate.workers.lifeline import boot, say_ready
message = boot(SandboxBoot)
say_ready(socket=message.socket, port=7)
threading.Event().wait()
"""
SUPERVISOR = f"""
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {WORKER!r}], stdin=subprocess.PIPE)
child.stdin.write(b'{{"socket":"s"}}\\n')
child.stdin.flush()
print(child.pid, flush=True)
sys.stdin.read()
"""


def started() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def test_a_worker_reads_its_boot_message_and_says_that_it_is_ready() -> None:
    with started() as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(b'{"socket":"w.sock"}\n')
        worker.stdin.flush()
        ready = json.loads(worker.stdout.readline())
        assert ready == {"ready": True, "socket": "w.sock", "port": 7}
        assert worker.poll() is None
        worker.kill()


def test_a_worker_dies_at_once_when_the_pipe_is_closed() -> None:
    with started() as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(b'{"socket":"w.sock"}\n')
        worker.stdin.flush()
        worker.stdout.readline()
        worker.stdin.close()
        assert worker.wait(timeout=10) == EXIT_ORPHANED
        assert worker.stdout.read() == b""


def test_a_worker_does_not_outlive_a_supervisor_that_was_killed() -> None:
    command = [sys.executable, "-c", SUPERVISOR]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as supervisor:
        assert supervisor.stdout is not None
        pid = int(supervisor.stdout.readline())
        assert json.loads(supervisor.stdout.readline())["ready"]
        os.kill(pid, 0)
        supervisor.send_signal(signal.SIGKILL)
        supervisor.wait(timeout=10)
        # The worker shares the output: its end is the end of the worker.
        assert supervisor.stdout.read() == ""


def test_a_boot_message_that_is_none_ends_the_worker() -> None:
    with started() as worker:
        assert worker.stdin is not None
        worker.stdin.close()
        assert worker.wait(timeout=10) != 0


def test_a_heartbeat_goes_on_when_nobody_hears_it() -> None:
    deaf = WORKER.replace("threading.Event().wait()", "for _ in range(200_000): beat()").replace(
        "import boot, say_ready", "import beat, boot, say_ready"
    )
    command = [sys.executable, "-c", deaf]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(b'{"socket":"w.sock"}\n')
        worker.stdin.flush()
        assert worker.wait(timeout=30) == 0  # its pipe is full long before, and it does not wait
        assert json.loads(worker.stdout.readline())["ready"]
        assert worker.stdout.read().strip(b"\n") == b""


def test_the_beats_of_a_start_end_with_it() -> None:
    code = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
from murmurate.workers.lifeline import beating_meanwhile, say_ready
with beating_meanwhile():
    signal.sigwait({signal.SIGUSR1})
say_ready()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        assert [worker.stdout.readline() for _ in range(2)] == [b"\n", b"\n"]
        worker.send_signal(signal.SIGUSR1)
        assert worker.stdout.read().lstrip(b"\n") == b'{"ready":true}\n'


def test_a_server_beats_while_its_start_takes_long(tmp_path: Path) -> None:
    """A key file that nobody writes keeps the start, as the salvage of a large log does."""
    os.mkfifo(tmp_path / "key")
    never = os.open(tmp_path / "key", os.O_RDWR)  # the other end of a pipe that stays empty
    config = Config()
    engines = dict.fromkeys(config.models, "engine")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        at = listening.fileno()
        message = ServerBoot(config, str(tmp_path), at, engines, engines, "library", "sandbox")
        command = [sys.executable, "-m", "murmurate.workers.server"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[at]
        ) as worker:
            assert worker.stdin is not None
            assert worker.stdout is not None
            worker.stdin.write(msgspec.json.encode(message) + b"\n")
            worker.stdin.flush()
            try:
                for _ in range(3):
                    assert select.select([worker.stdout], [], [], 20)[0], "it says nothing"
                    assert os.read(worker.stdout.fileno(), 1) == b"\n"
            finally:
                worker.kill()
    os.close(never)
