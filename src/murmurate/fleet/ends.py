"""How a process ended, in words that say what to do. Pure."""

import signal

from murmurate.core.types import Frozen

WORDS_CHARS_MAX = 300
TROUBLES = "troubles.json"
"""In the state folder: the processes that do not work now, and why, as the supervisor sees them."""


class End(Frozen, frozen=True):
    """What is known of a process that is gone."""

    code: int
    """Its exit code; negative: the signal that killed it."""

    is_system_short: bool = False
    """Whether the system has killed a process for want of memory while this one ran."""

    silent_s: float | None = None
    """How long it had said nothing, where that is why it was killed by us."""


class Trouble(Frozen, frozen=True):
    """What is wrong with a process now: how it ended, and the last line that it wrote."""

    how: str
    words: str = ""


def told(end: End) -> str:
    """Return what happened, to stand behind the process's name."""
    if end.silent_s is not None:
        return f"had said nothing for {end.silent_s:.0f} s and was killed"
    if end.code >= 0:
        return f"exited with {end.code}"
    return f"was killed by signal {-end.code}{_why(end)}"


def _why(end: End) -> str:
    if end.code == -signal.SIGKILL:
        sure = end.is_system_short
        return ": the system was out of memory" if sure else " (kill -9, or out of memory)"
    if end.code == -signal.SIGABRT:
        return " (a fault of its own, or out of memory: see memory_bytes_max)"
    return ""


def last_words(text: bytes) -> str:
    """Return the last line that a process wrote, cut to a bounded length; empty when none."""
    lines = [line.strip() for line in text.decode("utf-8", "replace").splitlines()]
    last = next((line for line in reversed(lines) if line), "")
    return "".join(c if c.isprintable() else " " for c in last)[:WORDS_CHARS_MAX]
