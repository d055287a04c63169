"""Which spans are kept when there are too many traces to keep them all."""

import math

from murmurate.observe.spans import SpanRecord

TRACES_PER_S_MAX = 50.0

_DIGITS = 14
_CHANCES = 1 << 4 * _DIGITS  # W3C asks for chance in the last 56 bits of a trace id
_SECOND_NS = 1_000_000_000


class Sampler:
    """Keeps every trace up to `traces_per_s_max` a second and, above it, a share of them.

    Whether a trace belongs to the share follows from its id alone, so all processes agree on it,
    and nothing is remembered per trace: each span is judged at its end. That means:

    - a span with an error is always kept, also without the rest of its trace: its parents may be
      missing unless the error went up through them;
    - a trace that is under way while the share changes can be kept in part.

    Time is that of the spans. Not for several threads at once.
    """

    def __init__(self, *, traces_per_s_max: float = TRACES_PER_S_MAX) -> None:
        self._traces_per_s_max = traces_per_s_max
        self._second = 0
        self._traces_now = 0
        self._traces_before = 0
        self._below: str | None = None
        """What the last digits of a kept trace's id come before; None: all are kept."""

    def keeps(self, span: SpanRecord) -> bool:
        """Return whether to keep a span that has just ended; root spans count as one trace each."""
        second = (span.start_unix_ns + span.duration_ns) // _SECOND_NS
        if second > self._second:
            self._turn(second)
        if span.is_root:
            self._traces_now += 1
            self._below = _below(self.share)
        below = self._below
        return below is None or span.trace_id[-_DIGITS:] < below or span.error is not None

    @property
    def share(self) -> float:
        """The part of the traces that is kept now: 1 is all."""
        traces_per_s = max(self._traces_now, self._traces_before)
        return min(1.0, self._traces_per_s_max / max(traces_per_s, 1))

    def _turn(self, second: int) -> None:
        self._traces_before = self._traces_now if second == self._second + 1 else 0
        self._traces_now = 0
        self._second = second
        self._below = _below(self.share)


def is_in_share(trace_id: str, share: float) -> bool:
    """Return whether a trace belongs to that part of all traces; a larger part holds a smaller."""
    below = _below(share)
    return below is None or trace_id[-_DIGITS:] < below


def _below(share: float) -> str | None:
    return None if share >= 1 else f"{math.ceil(share * _CHANCES):0{_DIGITS}x}"
