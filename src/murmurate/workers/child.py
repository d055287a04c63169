"""One process that the supervisor looks after: starting it, hearing it, and its end.

Its standard input is its boot message, then its lifeline. On its standard output come one line when
it serves and an empty one as its heartbeat. Its standard error goes through here to ours, for its
last words: what a dead process said last is usually why it died.
"""

import os
import resource
import select
import selectors
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import msgspec

from murmurate.fleet.ends import End, last_words

READ_BYTES = 4096
"""At most as much as a pipe takes at once when it says that it takes something."""
WORDS_BYTES_MAX = 8192
VMSTAT = Path("/proc/vmstat")

_Facts = dict[str, str | int | bool]


@dataclass(slots=True)
class Child:
    """A process that should run: how to start it, and how it has fared."""

    name: str
    module: str
    boot: msgspec.Struct
    descriptors: tuple[int, ...] = ()
    memory_bytes_max: int | None = None
    process: subprocess.Popen[bytes] | None = None
    exits_s: list[float] = field(default_factory=list[float])
    due_s: float | None = 0.0
    """When to start it (again); None while it runs."""
    began_s: float = 0.0
    heard_s: float | None = None
    """When it last said anything; None when it has not since its start."""
    serves: bool = False
    silent_s: float | None = None
    """How long it had been silent when we killed it for that."""
    end: str = ""
    """How its last life ended."""
    said: str = ""
    """The last line of its standard error in its last life."""
    words: bytes = b""
    """The end of what it wrote on its standard error in this life."""
    line: bytes = b""
    oom_kills: int = 0

    @property
    def is_watched(self) -> bool:
        """Whether it runs and has not been killed by us yet."""
        return self.process is not None and self.silent_s is None

    def start(self, environment: Mapping[str, str] | None, now_s: float) -> None:
        """Start it: the boot message goes down its stdin, which then is its lifeline."""
        self.due_s, self.began_s, self.heard_s = None, now_s, None
        self.serves, self.silent_s, self.words, self.line = False, None, b"", b""
        self.oom_kills = oom_kills()
        self.process = subprocess.Popen(  # noqa: S603 - our own modules
            [sys.executable, "-m", self.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=self.descriptors,
            env=environment,
            start_new_session=True,  # Ctrl-C is for us alone
        )
        for pipe in self.outputs():
            os.set_blocking(pipe.fileno(), False)
        if self.memory_bytes_max is not None and hasattr(resource, "prlimit"):
            # What it writes to, not what it maps: weights are read from their file.
            limit = (self.memory_bytes_max, self.memory_bytes_max)
            with suppress(ProcessLookupError):  # it died at once
                resource.prlimit(self.process.pid, resource.RLIMIT_DATA, limit)
        stdin = self.process.stdin
        assert stdin is not None
        with suppress(BrokenPipeError):  # it died at once
            stdin.write(msgspec.json.encode(self.boot) + b"\n")
            stdin.flush()
        os.set_blocking(stdin.fileno(), False)

    def tell(self, word: str) -> bool:
        """Say a word to it down its lifeline; return whether it could be said."""
        stdin = None if self.process is None else self.process.stdin
        if stdin is None:
            return False
        try:
            os.write(stdin.fileno(), word.encode() + b"\n")
        except OSError:  # it is dead or stopped, too
            return False
        return True

    def outputs(self) -> list[IO[bytes]]:
        """Return its standard output and error; none when it does not run."""
        if self.process is None:
            return []
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        return [self.process.stdout, self.process.stderr]

    def watch(self, selector: selectors.BaseSelector) -> None:
        """Wake the selector for whatever it says."""
        for pipe in self.outputs():
            selector.register(pipe, selectors.EVENT_READ, self)

    def hear(self, descriptor: int, now_s: float) -> tuple[bool, _Facts | None]:
        """Read what it says there.

        The first value is false at the end of the pipe; the second one is what it said when it
        began to serve, None otherwise.
        """
        data = read(descriptor)
        if data is None:
            return True, None
        if self.process is None or descriptor != self.outputs()[0].fileno():
            self.words = (self.words + data)[-WORDS_BYTES_MAX:]
            say(data)
            return bool(data), None
        self.heard_s = now_s
        *lines, self.line = (self.line + data).split(b"\n")
        self.line = self.line[-WORDS_BYTES_MAX:]
        for line in lines:
            if line.startswith(b'{"ready"'):  # anything else is a heartbeat, or a library's chatter
                self.serves = True
                return True, msgspec.json.decode(line, type=_Facts)
        return bool(data), None

    def kill(self, now_s: float) -> None:
        """Kill it with its own children, as it says nothing any more."""
        assert self.process is not None
        self.silent_s = now_s - (self.began_s if self.heard_s is None else self.heard_s)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def bury(self, selector: selectors.BaseSelector) -> End:
        """Hear its last words, close the pipes of a process that is gone; return its end."""
        process = self.process
        assert process is not None
        end = End(process.returncode, oom_kills() > self.oom_kills, self.silent_s)
        self.said = self.last_words()
        for pipe in (process.stdin, process.stdout, process.stderr):
            assert pipe is not None
            if pipe in selector.get_map():
                selector.unregister(pipe)
            with suppress(BrokenPipeError):
                pipe.close()
        self.process, self.serves = None, False
        return end

    def last_words(self) -> str:
        """Read what is left of its standard error, within a bound; return its last line."""
        for _ in range(WORDS_BYTES_MAX // READ_BYTES):
            data = read(self.outputs()[1].fileno()) if self.process is not None else None
            if not data:
                break
            self.words = (self.words + data)[-WORDS_BYTES_MAX:]
            say(data)
        return last_words(self.words)


def read(descriptor: int) -> bytes | None:
    """Return what is there to read, nothing at its end, None when there is nothing yet."""
    try:
        return os.read(descriptor, READ_BYTES)
    except BlockingIOError:
        return None


def say(text: bytes) -> None:
    """Write to our standard error, if it takes it: nobody's slow terminal may stop a supervisor."""
    with suppress(OSError, ValueError):
        descriptor = sys.stderr.fileno()
        for first in range(0, len(text), READ_BYTES):
            if not select.select([], [descriptor], [], 0)[1]:
                return
            os.write(descriptor, text[first : first + READ_BYTES])


def oom_kills() -> int:
    """Return how many processes the system has killed for want of memory, 0 where unknown."""
    try:
        lines = VMSTAT.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    counts = [line.split()[1] for line in lines if line.startswith("oom_kill ")]
    return int(counts[0]) if counts else 0
