"""When a dead process is started again: at once after a first crash, then with backoff. Pure."""

from collections.abc import Sequence

WINDOW_S = 60.0
"""A process that lived this long starts with a clean sheet."""
LOOP_CRASHES = 3
"""So many within the window are a loop, though the process comes up in between."""
BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 10.0


def recent(exits_s: Sequence[float], now_s: float) -> list[float]:
    """Return the exits that still count."""
    return [exit_s for exit_s in exits_s if now_s - exit_s < WINDOW_S]


def delay_s(exits_s: Sequence[float], now_s: float) -> float:
    """Return how long to wait after the exits so far (the newest included)."""
    crashes = len(recent(exits_s, now_s))
    if crashes <= 1:
        return 0.0
    return min(BACKOFF_FIRST_S * 2 ** (crashes - 2), BACKOFF_MAX_S)
