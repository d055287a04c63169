"""The sandbox worker: what leaves it, and, with the real process, what a snippet can't do."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from murmurate.adapters.sandbox import Outcome, Run, SandboxClient
from murmurate.adapters.wire import Caller
from murmurate.core.clock import SystemClock
from murmurate.workers.boot import SandboxBoot
from murmurate.workers.sandbox import ERROR_CHARS_MAX, RESULT_BYTES_MAX, outcome_of

MEMORY_BYTES_MAX = 16 * 1024 * 1024


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (42, "42"),
        (0.5, "0.5"),
        ("é", '"é"'),
        (None, "null"),
        (True, "true"),
        ([1, (2, 3)], "[1,[2,3]]"),
        (2**200, str(2**200)),
        (["x" * (RESULT_BYTES_MAX - 4)], f'["{"x" * (RESULT_BYTES_MAX - 4)}"]'),
    ],
)
def test_a_value_leaves_the_sandbox_as_json(value: object, text: str) -> None:
    assert outcome_of(value) == Outcome(text, None)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (float("inf"), "OverflowError: the result is inf"),
        (float("nan"), "OverflowError: the result is nan"),
        (object(), "TypeError: the result has no JSON form"),
        ([10**5000], "ValueError: the result has no JSON form"),
        (["x" * RESULT_BYTES_MAX], "ValueError: the result is over 65536 bytes"),
    ],
)
def test_a_value_that_cannot_leave_says_why(value: object, error: str) -> None:
    assert outcome_of(value) == Outcome(None, error)


class Worker:
    """The real worker process, and a client of it."""

    def __init__(self, socket: str) -> None:
        command = [sys.executable, "-m", "murmurate.workers.sandbox"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(msgspec.json.encode(SandboxBoot(socket)) + b"\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == b'{"ready":true}\n'
        self._caller = Caller(socket, clock=SystemClock())
        self.client = SandboxClient(socket, clock=SystemClock())

    async def run(self, code: str) -> Outcome:
        message = Run(code, time_s_max=0.2, memory_bytes_max=MEMORY_BYTES_MAX)
        return await self._caller.call(message, timeout_s=10)

    async def close(self) -> None:
        await self._caller.close()
        await self.client.close()
        self.process.kill()
        self.process.communicate()


@asynccontextmanager
async def worker(folder: Path) -> AsyncGenerator[Worker]:
    process = Worker(str(folder / "sandbox.sock"))
    try:
        yield process
    finally:
        await process.close()


def tell(folder: Path, story: Callable[[Worker], Awaitable[None]]) -> None:
    async def told() -> None:
        async with worker(folder) as process:
            await story(process)

    asyncio.run(told())


OUTSIDE = [
    "open('/etc/passwd').read()",
    "open('out.txt', 'w').write('x')",
    "import pathlib\npathlib.Path('/etc/passwd').read_text()",
    "import os\nos.listdir('/')",
    "import os\nos.environ",
    "import os\nos.getenv('HOME')",
    "import os\nos.system('true')",
    "import socket",
    "import urllib.request",
    "import subprocess",
    "import ctypes",
    "__import__('os')",
    "eval('open(\"/etc/passwd\")')",
    "().__class__.__base__.__subclasses__()",
]
ENDLESS = {
    "time": "while True: pass",
    "time in sleep": "import time as t\nwhile True: t.sleep(5)",
    "time in print": "while True: print('x')",
    "memory of a text": "'x' * 10**9",
    "memory of a list": "a = []\nwhile True: a.append('x' * 10**5)",
    "memory of a number": "10 ** 10 ** 8",
    "recursion": "def f(n): return f(n + 1)\nf(0)",
}


@pytest.mark.e2e
def test_a_snippet_is_worked_out(tmp_path: Path) -> None:
    async def story(process: Worker) -> None:
        assert await process.client.run("6 * 7") == Outcome("42", None)
        assert await process.client.run("def f(a): return a / 2\nf(1)") == Outcome("0.5", None)
        failed = await process.client.run("1 / 0")
        assert failed.value is None
        assert failed.error is not None
        assert "ZeroDivisionError" in failed.error
        assert (await process.client.run("1 +")).value is None

    tell(tmp_path, story)


@pytest.mark.e2e
def test_a_snippet_reaches_nothing_outside(tmp_path: Path) -> None:
    async def story(process: Worker) -> None:
        for code in OUTSIDE:
            outcome = await process.run(code)
            assert outcome.value is None, code
            assert outcome.error, code
        assert await process.run("1") == Outcome("1", None)

    tell(tmp_path, story)


@pytest.mark.e2e
def test_a_snippet_is_ended_at_its_limits_and_the_worker_goes_on(tmp_path: Path) -> None:
    async def story(process: Worker) -> None:
        for what, code in ENDLESS.items():
            outcome = await process.run(code)
            assert outcome.value is None, what
            assert outcome.error, what
            assert len(outcome.error) <= ERROR_CHARS_MAX
            assert await process.run("1") == Outcome("1", None), what
        assert process.process.poll() is None

    tell(tmp_path, story)


@pytest.mark.e2e
def test_a_result_that_cannot_leave_is_an_error(tmp_path: Path) -> None:
    async def story(process: Worker) -> None:
        for code in ("'x' * 70_000", "float('nan')", "1e308 * 10", "10 ** 5000"):
            assert (await process.run(code)).value is None

    tell(tmp_path, story)


@pytest.mark.e2e
def test_a_snippet_sees_nothing_of_the_one_before(tmp_path: Path) -> None:
    async def story(process: Worker) -> None:
        assert await process.run("secret = 42\nsecret") == Outcome("42", None)
        left = await process.run("secret")
        assert left.error is not None
        assert "NameError" in left.error

    tell(tmp_path, story)


@pytest.mark.e2e
def test_what_a_snippet_prints_goes_nowhere(tmp_path: Path) -> None:
    """A full pipe would stop the worker, and a forged line could look like its own."""

    async def story(process: Worker) -> None:
        assert await process.run("print('x' * 100_000)\n1") == Outcome("1", None)
        process.process.send_signal(signal.SIGTERM)
        out, _ = process.process.communicate(timeout=20)
        assert not out.strip(), "nothing but the beats of its heart"

    tell(tmp_path, story)


@pytest.mark.e2e
def test_many_snippets_at_once_are_all_answered(tmp_path: Path) -> None:
    async def story(process: Worker) -> None:
        outcomes = await asyncio.gather(*(process.run(f"{n} * 2") for n in range(30)))
        assert [outcome.value for outcome in outcomes] == [str(n * 2) for n in range(30)]

    tell(tmp_path, story)


@pytest.mark.e2e
def test_sigterm_ends_the_worker_in_order(tmp_path: Path) -> None:
    async def story(process: Worker) -> None:
        await process.run("10 ** 5000")
        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(timeout=20) == 0

    tell(tmp_path, story)
