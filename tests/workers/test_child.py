"""One process and its supervisor's side of the pipes."""

import os
import selectors
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import msgspec
import pytest

from murmurate.fleet.ends import Trouble, told
from murmurate.workers.child import WORDS_BYTES_MAX, Child
from murmurate.workers.supervisor import passed_on, trouble

pytestmark = pytest.mark.e2e

MORE = 256 * 1024 * 1024
PATIENCE_S = 30.0


class Say(msgspec.Struct):
    """A boot message for a worker that runs what it is told."""

    code: str


@pytest.fixture
def worker(tmp_path: Path) -> Generator["Worker"]:
    (tmp_path / "a_worker.py").write_text(
        "import json, sys\nexec(json.loads(sys.stdin.readline())['code'])\n"
    )
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(tmp_path)
    found = Worker()
    yield found
    found.end()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


class Worker:
    """A child and the selector that hears it."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.child = Child("a worker", "a_worker", Say(""))
        self.facts: list[dict[str, str | int | bool]] = []

    def start(self, code: str, memory_bytes_max: int | None = None) -> Child:
        self.child = Child("a worker", "a_worker", Say(code), memory_bytes_max=memory_bytes_max)
        self.child.start(passed_on(os.environ), 100.0)
        self.child.watch(self.selector)
        return self.child

    def hear(self, now_s: float) -> bool:
        """Hear the next thing it says; false when both pipes have ended."""
        for key, _ in self.selector.select(PATIENCE_S):
            goes_on, facts = self.child.hear(key.fd, now_s)
            if not goes_on:
                self.selector.unregister(key.fd)
            if facts is not None:
                self.facts.append(facts)
        return bool(self.selector.get_map())

    def bury(self) -> str:
        while self.hear(101.0):
            pass
        assert self.child.process is not None
        self.child.process.wait(PATIENCE_S)
        return told(self.child.bury(self.selector))

    def end(self) -> None:
        if self.child.process is not None:
            self.child.process.kill()
            self.bury()


def test_a_child_serves_once_it_says_so_and_each_word_is_a_heartbeat(worker: Worker) -> None:
    child = worker.start(
        "print('chatter', flush=True); sys.stdin.readline(); "
        "print(json.dumps({'ready': True, 'url': 'u'}).replace(' ', ''), flush=True); "
        "sys.stdin.readline()"
    )
    assert (child.due_s, child.began_s, child.heard_s, child.serves) == (None, 100.0, None, False)
    worker.hear(101.0)
    assert (child.heard_s, child.serves) == (101.0, False)
    assert child.process is not None
    assert child.process.stdin is not None
    child.process.stdin.write(b"\n")
    child.process.stdin.flush()
    while not child.serves:
        worker.hear(102.0)
    assert child.heard_s == 102.0
    assert worker.facts == [{"ready": True, "url": "u"}]


def test_its_last_words_stay_when_it_is_gone(worker: Worker) -> None:
    child = worker.start("sys.stderr.write('x' * 100000 + '\\n\\nthe reason\\n'); sys.exit(7)")
    assert worker.bury() == "exited with 7"
    assert child.said == "the reason"
    assert len(child.words) <= WORDS_BYTES_MAX
    assert child.process is None


def test_a_child_over_its_memory_ends_and_says_why(worker: Worker) -> None:
    child = worker.start(f"sys.stdin.readline(); b = bytearray({MORE})", MORE // 2)
    assert child.process is not None
    assert child.process.stdin is not None
    child.process.stdin.write(b"\n")
    child.process.stdin.flush()
    assert worker.bury() == "exited with 1"
    assert child.said == "MemoryError"


def test_a_child_is_killed_with_its_own_children_though_all_are_stopped(worker: Worker) -> None:
    child = worker.start(
        "import os, signal; print(flush=True); os.fork(); os.kill(os.getpid(), signal.SIGSTOP)"
    )
    worker.hear(101.0)
    child.kill(116.0)
    # The grandchild shares the pipes: they end only when it is gone as well.
    assert worker.bury() == "had said nothing for 15 s and was killed"


def test_one_crash_is_no_trouble_and_a_loop_is_one_though_it_comes_up(worker: Worker) -> None:
    child = worker.start("sys.exit('no index')")
    child.end, now_s = worker.bury(), 200.0
    assert trouble(child, now_s) is None
    child.exits_s = [now_s]
    assert trouble(child, now_s) == Trouble("ended: it exited with 1", "no index")
    child.serves = True
    assert trouble(child, now_s) is None
    child.exits_s = [now_s - 2, now_s - 1, now_s]
    assert trouble(child, now_s) == Trouble(
        "ended 3 times within a minute: it exited with 1", "no index"
    )
    assert trouble(child, now_s + 61) is None


def test_a_supervisor_whose_words_nobody_reads_goes_on() -> None:
    code = "from murmurate.workers.child import say\nfor _ in range(100): say(b'x' * 10_000)"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as speaker:
        assert speaker.wait(PATIENCE_S) == 0  # a pipe takes 64 KB, and nobody has read any
        assert speaker.stderr is not None
        assert 0 < len(speaker.stderr.read()) < 1_000_000


def test_files_are_opened_as_far_as_one_may() -> None:
    code = (
        "import resource; from murmurate.workers.supervisor import open_files\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 200))\n"
        "for wanted in (100, 50, 1000): open_files(wanted); "
        "print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["(100, 200)", "(100, 200)", "(200, 200)"]
