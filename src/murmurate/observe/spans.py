"""What happened in a request and how long it took: spans, recorded for about a microsecond each."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from murmurate.core.clock import Clock
from murmurate.core.errors import MurmurateError
from murmurate.core.ids import Ids
from murmurate.core.types import Frozen, TraceRef

Attribute = str | int | float | bool

_WALL_JUMP_NS = 100_000_000  # the wall clock was set, rather than just being in whole milliseconds


class SpanRecord(Frozen, frozen=True):
    """A finished span. `error` is a code of `MurmurateError`, or "cancelled" or "internal".

    `tenant` is None where the span's root did not name one; such a span belongs to nobody.
    """

    trace_id: str
    span_id: str
    parent_id: str | None
    tenant: str | None
    name: str
    start_unix_ns: int
    duration_ns: int
    attributes: dict[str, Attribute]
    error: str | None

    @property
    def is_root(self) -> bool:
        """Whether a request began here: only the root names the tenant itself."""
        return "tenant" in self.attributes


class Recorder:
    """A `Tracer` that gives each finished span to `sink`, which must neither block nor raise.

    The root span of a request names its tenant: `span(parent, "request", tenant=…)`, or later by
    `note(tenant=…)`, before the spans below begin. Span ids need not be hard to guess: `Ids` over a
    `random.Random()` makes one in 0.3 µs, over a `SystemRandom` in 1.0 µs.
    """

    def __init__(self, *, clock: Clock, ids: Ids, sink: Callable[[SpanRecord], None]) -> None:
        self.now_s = clock.now_s
        self.span_id = ids.span_id
        self.sink = sink
        self._unix_ms = clock.unix_ms
        self._wall_ns = clock.unix_ms() * 1_000_000 - int(clock.now_s() * 1e9)

    def span(self, parent: TraceRef, name: str, **attributes: Attribute) -> "OpenSpan":
        """Time the `with` block as a span below `parent`; see `Tracer`."""
        return OpenSpan(self, parent, name, attributes)

    def wall_ns(self, now_s: float) -> int:
        """Return what to add to the clock's time for the wall's, read again once a request.

        A trace keeps the one of its root, so that its spans line up to the microsecond, though
        somebody sets the wall clock meanwhile.
        """
        wall_ns = self._unix_ms() * 1_000_000 - int(now_s * 1e9)
        if abs(wall_ns - self._wall_ns) > _WALL_JUMP_NS:
            self._wall_ns = wall_ns
        return self._wall_ns


class OpenSpan:
    """A span under way: a `Span` and the context manager that ends it."""

    __slots__ = (
        "_attributes",
        "_name",
        "_parent",
        "_recorder",
        "_span_id",
        "_start_s",
        "_wall_ns",
    )

    def __init__(
        self, recorder: Recorder, parent: TraceRef, name: str, attributes: dict[str, Attribute]
    ) -> None:
        self._recorder = recorder
        self._parent = parent
        self._name = name
        self._attributes = attributes
        self._span_id = recorder.span_id()
        self._start_s = start_s = recorder.now_s()
        wall_ns = parent.wall_ns
        self._wall_ns = recorder.wall_ns(start_s) if wall_ns is None else wall_ns

    @property
    def ref(self) -> TraceRef:
        """Where the spans of the work below hang."""
        return TraceRef(self._parent.trace_id, self._span_id, self._tenant(), self._wall_ns)

    def note(self, **attributes: Attribute) -> None:
        """Add facts; never prompt content."""
        self._attributes.update(attributes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        recorder, parent, attributes = self._recorder, self._parent, self._attributes
        now_s = recorder.now_s()
        if error is not None and not isinstance(error, MurmurateError):
            attributes["exception"] = type(error).__name__
        recorder.sink(
            SpanRecord(
                parent.trace_id,
                self._span_id,
                parent.span_id,
                self._tenant(),
                self._name,
                self._wall_ns + int(self._start_s * 1e9),
                int((now_s - self._start_s) * 1e9),
                attributes,
                None if error is None else _code(error),
            )
        )

    def _tenant(self) -> str | None:
        own = self._attributes.get("tenant")
        if own is not None:
            return str(own)
        return self._parent.tenant


def _code(error: BaseException) -> str:
    if isinstance(error, MurmurateError):
        return error.code
    is_cancelled = isinstance(error, asyncio.CancelledError | GeneratorExit)
    return "cancelled" if is_cancelled else "internal"
