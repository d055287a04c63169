"""How long a process may say nothing before it counts as hung. Pure.

A worker beats once a second from its event loop. A silent one is stopped, starved or stuck: whoever
waits for it waits in vain, so it is ended and started again.
"""

from murmurate.core.types import Frozen

OVERSLEPT_S = 1.0
"""A judge that was away this long has heard nobody in that time, and judges nobody for it."""


class Patience(Frozen, frozen=True):
    """How long to wait for a word."""

    start_s: float
    """From the start to the first one: loading weights takes minutes, and nothing is said."""

    silence_s: float
    """From one to the next."""


def deadline_s(began_s: float, heard_s: float | None, patience: Patience) -> float:
    """Return when the next word must have come; `heard_s` is the last one, None before any."""
    if heard_s is None:
        return began_s + patience.start_s
    return heard_s + patience.silence_s


def overslept(wake_s: float, now_s: float) -> bool:
    """Tell whether one who meant to look at `wake_s` was itself stopped or starved until now."""
    return now_s - wake_s > OVERSLEPT_S
