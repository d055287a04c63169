"""When to stop asking an upstream that fails, and when to try it again. Pure.

After Hystrix (`How it Works`, `Configuration` in its wiki): it opens when half of the recent
outcomes are failures, lets one request try after 5 s, and closes when that one succeeds. The rest
doubles with each failed probe, as Envoy's ejection time grows (`outlier detection`).
"""

from collections import deque
from enum import StrEnum

WINDOW_S = 60.0
"""Hystrix looks back 10 s; an engine's answers take seconds, and its time-outs a minute."""

BUCKETS = 12
OUTCOMES_MIN = 5
"""Envoy's `consecutive_5xx`; Hystrix waits for 20, which a model may not be asked in a minute."""

FAILED_SHARE = 0.5
REST_S = 5.0
REST_S_MAX = 60.0
PROBE_S = 1.0
"""When to ask again while somebody else's probe is under way."""


class State(StrEnum):
    """Whether an upstream is asked."""

    CLOSED = "closed"
    """As usual."""
    HALF_OPEN = "half-open"
    """By one request at a time, the probe."""
    OPEN = "open"
    """Not at all."""


class Breaker:
    """The recent outcomes of one upstream, and what follows from them.

    `begin` each request, and tell what became of it exactly once: `succeeded`, `failed`, or
    `dropped` when that is not known. While it is open, only the probe's outcome counts.
    """

    def __init__(self) -> None:
        self._buckets: deque[list[float]] = deque()
        self._opened_until_s: float | None = None
        self._rest_s = REST_S
        self._probing = False

    def state(self, now_s: float) -> State:
        """Return whether the upstream is asked."""
        if self._opened_until_s is None:
            return State.CLOSED
        return State.OPEN if now_s < self._opened_until_s else State.HALF_OPEN

    def allows(self, now_s: float) -> bool:
        """Say whether one more request may be sent."""
        until_s = self._opened_until_s
        return until_s is None or (now_s >= until_s and not self._probing)

    def waits_s(self, now_s: float) -> float:
        """Return after how long it is worth to ask `allows` again."""
        if self.allows(now_s):
            return 0.0
        assert self._opened_until_s is not None, "a closed one allows everything"
        return max(self._opened_until_s - now_s, PROBE_S if self._probing else 0.0)

    def begin(self) -> bool:
        """Note that a request is sent, which `allows` allowed; return whether it is the probe."""
        self._probing = self._opened_until_s is not None
        return self._probing

    def succeeded(self, now_s: float, *, probe: bool) -> None:
        """Note an answer. The probe's closes the breaker, and what was before is forgotten."""
        if probe:
            self._buckets.clear()
            self._opened_until_s = None
            self._rest_s = REST_S
            self._probing = False
        elif self._opened_until_s is None:
            self._count(now_s, failed=False)

    def failed(self, now_s: float, *, probe: bool) -> None:
        """Note a failure, and open when they are too many. The probe's doubles the rest."""
        if probe:
            self._rest_s = min(self._rest_s * 2, REST_S_MAX)
            self._opened_until_s = now_s + self._rest_s
            self._probing = False
        elif self._opened_until_s is None:
            self._count(now_s, failed=True)
            good = sum(bucket[1] for bucket in self._buckets)
            bad = sum(bucket[2] for bucket in self._buckets)
            if good + bad >= OUTCOMES_MIN and bad >= FAILED_SHARE * (good + bad):
                self._opened_until_s = now_s + self._rest_s

    def dropped(self, *, probe: bool) -> None:
        """Note that a request ended without an outcome: its client left, or another was faster."""
        if probe:
            self._probing = False

    def _count(self, now_s: float, *, failed: bool) -> None:
        """Add to the newest bucket: when it began, successes, failures; forget old ones."""
        buckets = self._buckets
        while buckets and buckets[0][0] <= now_s - WINDOW_S:
            buckets.popleft()
        if not buckets or now_s - buckets[-1][0] >= WINDOW_S / BUCKETS:
            buckets.append([now_s, 0, 0])
        buckets[-1][2 if failed else 1] += 1
