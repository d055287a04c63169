"""Files of formats that need a parser, read by a process of their own. Blocking."""

import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress

import msgspec

from murmurate.adapters.folder import RETRY_S, unreadable
from murmurate.adapters.parser_child import LENGTH, Bounds, Parsed
from murmurate.core.errors import DocumentUnreadableError
from murmurate.knowledge.formats import Format

CHILD = "murmurate.adapters.parser_child"
ANSWER_BYTES_MAX = 64 * 1024 * 1024
FILES_PER_PROCESS = 500
"""Then another one takes over: what a parser leaks must not add up."""


class Parser:
    """One parser process, started when it is needed and again when a file has ended it.

    For one thread at a time. What ends the process is the file's fault and said as such.
    """

    def __init__(
        self,
        bounds: Bounds | None = None,
        *,
        command: Sequence[str] = (sys.executable, "-P", "-m", CHILD),
    ) -> None:
        self._bounds = bounds or Bounds()
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._files_left = 0

    def text(self, content: bytes, format_: Format) -> tuple[str | None, str]:
        """Return title and text of a file's bytes. `DocumentUnreadableError` says why not."""
        try:
            process = self._running()
        except OSError as cause:  # such as too many open files
            raise unreadable(cause) from cause
        is_late = threading.Event()

        def end() -> None:
            is_late.set()
            process.kill()

        timer = threading.Timer(self._bounds.wall_s_max, end)
        timer.start()
        try:
            answer = _asked(process, msgspec.msgpack.encode((format_, content)))
        finally:
            timer.cancel()
        if answer is None:
            self.close()
            late = is_late.is_set()  # perhaps only because the machine had too much else to do
            fate = self._fate(process.returncode, late=late)
            raise DocumentUnreadableError(fate, retry_s=RETRY_S if late else None)
        if answer.refused is not None:
            self.close()  # what a broken file has left behind is nobody's to clean up
            raise DocumentUnreadableError(answer.refused)
        return answer.title, answer.text

    def close(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                with suppress(OSError):  # what was not written is not missed
                    pipe.close()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or not self._files_left or self._process.poll() is not None:
            self.close()
            bounds = msgspec.json.encode(self._bounds).decode()
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [*self._command, bounds],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd="/",
            )
            self._files_left = FILES_PER_PROCESS
        self._files_left -= 1
        return self._process

    def _fate(self, code: int, *, late: bool) -> str:
        """Say what became of the process that had the file."""
        if late:
            return f"reading it took longer than {self._bounds.wall_s_max:g} s"
        if code == -signal.SIGXCPU:
            return f"reading it took more than {self._bounds.cpu_s_max} s of processor time"
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"its parser crashed ({how})"


def _asked(process: subprocess.Popen[bytes], request: bytes) -> Parsed | None:
    """Send a request; return the answer, None when the process ended instead."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(LENGTH.pack(len(request)) + request)
        process.stdin.flush()
        head = process.stdout.read(LENGTH.size)
        length = LENGTH.unpack(head)[0] if len(head) == LENGTH.size else ANSWER_BYTES_MAX + 1
        if length <= ANSWER_BYTES_MAX:
            return msgspec.msgpack.decode(process.stdout.read(length), type=Parsed)
    except (OSError, msgspec.DecodeError):
        pass
    process.wait()
    return None
