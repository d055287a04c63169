"""How a worker starts and ends: its supervisor's pipe is its boot message, then its lifeline.

The first line of stdin is the boot message, as JSON. What follows are words that concern this
worker, a line each: a server hears which other servers are gone. When the supervisor is gone,
however it went, end-of-file ends the worker at once: nothing outlives its supervisor.
Standard output carries back a line when the worker serves, and an empty one a second as its
heartbeat: a worker that is stopped or stuck falls silent, and is ended and started again.
"""

import asyncio
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import TypeVar

import msgspec

_B = TypeVar("_B")

BEAT_S = 1.0
PR_SET_PDEATHSIG = 1
EXIT_ORPHANED = 3
EXIT_CONFIG = 2
"""The exit code of a fault that starting again can't mend; the supervisor doesn't try."""


def boot(kind: type[_B], *, on_word: Callable[[str], None] = lambda _: None) -> _B:
    """Read the boot message, then watch the lifeline from a thread that needs no event loop.

    `on_word` is called in that thread with each line that follows.
    """
    end_with_parent()
    first, rest = _first_line()
    message = msgspec.json.decode(first, type=kind)
    threading.Thread(target=_watch, args=(rest, on_word), name="lifeline", daemon=True).start()
    os.set_blocking(1, False)  # a supervisor that is stopped stops nobody else
    return message


def end_with_parent() -> None:
    """Let the system kill this process when its supervisor is gone, even one that is stopped.

    On Linux; elsewhere the lifeline is all there is, and a stopped process can't see its end.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def say_ready(**facts: str | int) -> None:
    """Tell the supervisor that this worker serves."""
    sys.stdout.buffer.write(msgspec.json.encode({"ready": True, **facts}) + b"\n")
    sys.stdout.flush()


def beat() -> None:
    """Tell the supervisor that this worker lives."""
    with suppress(BlockingIOError, BrokenPipeError):
        os.write(1, b"\n")


async def beating() -> None:
    """Beat from the event loop, so that a loop that is stuck falls silent, too."""
    while True:
        beat()
        await asyncio.sleep(BEAT_S)


@contextmanager
def beating_meanwhile() -> Generator[None]:
    """Beat from a thread: for a start that keeps the loop, and has no bound but the work's end.

    Such a start is ended when the process is stopped, and not when it is stuck: from outside it
    looks like one that mends a large log.
    """
    is_done = threading.Event()

    def beats() -> None:
        beat()
        while not is_done.wait(BEAT_S):
            beat()

    thread = threading.Thread(target=beats, name="start", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_done.set()
        thread.join()  # it waits for nobody: the pipe takes a beat at once or loses it


def _first_line() -> tuple[bytes, bytes]:
    """Read the first line, and what has come behind it already."""
    text = b""
    while b"\n" not in text and (data := os.read(0, 65536)):
        text += data
    first, _, rest = text.partition(b"\n")
    return first, rest


def _watch(rest: bytes, on_word: Callable[[str], None]) -> None:
    """Hear words until the other end is closed, on the bare descriptor: no lock to wait for."""
    while data := os.read(0, 4096):
        *words, rest = (rest + data).split(b"\n")
        for word in words:
            on_word(word.decode())
    os._exit(EXIT_ORPHANED)
