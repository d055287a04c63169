import asyncio
import random

import msgspec
import pytest

from murmurate.core.errors import OverloadedError
from murmurate.core.ids import Ids
from murmurate.core.ports import Tracer
from murmurate.core.types import TraceRef
from murmurate.observe.spans import Recorder, SpanRecord

START_MS = 1_800_000_000_000
TRACE = "0af7651916cd43dd8448eb211c80319c"
REMOTE = TraceRef(TRACE, "b7ad6b7169203331")


class StoppedClock:
    """Stands still until told to go on."""

    def __init__(self) -> None:
        self.s = 1000.0
        self.wall_ms = START_MS

    def now_s(self) -> float:
        return self.s

    def unix_ms(self) -> int:
        return self.wall_ms

    async def sleep(self, seconds: float) -> None:
        self.pass_ms(seconds * 1000)

    def pass_ms(self, ms: float) -> None:
        self.s += ms / 1000
        self.wall_ms += int(ms)


class Recorded:
    def __init__(self) -> None:
        self.clock = StoppedClock()
        self.spans: list[SpanRecord] = []
        self.tracer: Tracer = Recorder(
            clock=self.clock, ids=Ids(self.clock, random.Random(7)), sink=self.spans.append
        )


def test_a_span_knows_its_place_its_time_and_its_facts() -> None:
    recorded = Recorded()
    with recorded.tracer.span(REMOTE, "model", model="tiny") as span:
        recorded.clock.pass_ms(250)
        span.note(tokens_out=12, model="big")
    [record] = recorded.spans
    assert (record.trace_id, record.parent_id) == (TRACE, REMOTE.span_id)
    assert record.span_id == span.ref.span_id
    assert record.duration_ns == pytest.approx(250_000_000, abs=1000)
    assert record.attributes == {"model": "big", "tokens_out": 12}
    assert (record.name, record.error, record.tenant) == ("model", None, None)


def test_spans_hang_below_each_other_and_belong_to_the_tenant_of_their_root() -> None:
    recorded = Recorded()
    with recorded.tracer.span(REMOTE, "request", tenant="acme") as root:
        recorded.clock.pass_ms(2)
        with (
            recorded.tracer.span(root.ref, "agent") as agent,
            recorded.tracer.span(agent.ref, "model"),
        ):
            recorded.clock.pass_ms(3)
    model, step, request = recorded.spans
    assert model.parent_id == step.span_id
    assert step.parent_id == request.span_id
    assert [span.tenant for span in recorded.spans] == ["acme"] * 3
    assert [span.is_root for span in recorded.spans] == [False, False, True]
    assert step.start_unix_ns - request.start_unix_ns == pytest.approx(2_000_000, abs=1000)


def test_a_tenant_that_becomes_known_within_the_root_holds_for_what_follows() -> None:
    recorded = Recorded()
    with recorded.tracer.span(REMOTE, "request") as root:
        root.note(tenant="acme")
        with recorded.tracer.span(root.ref, "model"):
            pass
    assert [span.tenant for span in recorded.spans] == ["acme", "acme"]


def test_another_request_with_the_same_trace_id_keeps_its_own_tenant() -> None:
    recorded = Recorded()
    with (
        recorded.tracer.span(REMOTE, "request", tenant="acme") as one,
        recorded.tracer.span(REMOTE, "request", tenant="evil") as two,
        recorded.tracer.span(one.ref, "of acme"),
        recorded.tracer.span(two.ref, "of evil"),
    ):
        pass
    assert [(span.name, span.tenant) for span in recorded.spans[:2]] == [
        ("of evil", "evil"),
        ("of acme", "acme"),
    ]


@pytest.mark.parametrize(
    ("error", "code", "exception"),
    [
        (OverloadedError("full"), "router.overloaded", None),
        (asyncio.CancelledError(), "cancelled", "CancelledError"),
        (GeneratorExit(), "cancelled", "GeneratorExit"),
        (ValueError("secret prompt"), "internal", "ValueError"),
    ],
)
def test_an_exception_marks_the_span_as_failed_and_goes_on(
    error: BaseException, code: str, exception: str | None
) -> None:
    recorded = Recorded()
    with pytest.raises(type(error)), recorded.tracer.span(REMOTE, "model"):
        raise error
    [record] = recorded.spans
    assert record.error == code
    assert record.attributes.get("exception") == exception


def test_a_wall_clock_that_was_set_is_followed_by_the_next_request() -> None:
    recorded = Recorded()
    for _ in range(2):
        with recorded.tracer.span(REMOTE, "request", tenant="acme"):
            recorded.clock.pass_ms(10)
        recorded.clock.wall_ms += 3_600_000
    one, two = recorded.spans
    assert one.start_unix_ns / 1e6 == pytest.approx(START_MS, abs=1)
    assert two.start_unix_ns / 1e6 == pytest.approx(START_MS + 3_600_010, abs=1)


def test_the_spans_of_a_request_line_up_though_the_wall_clock_is_set_meanwhile() -> None:
    recorded = Recorded()
    with recorded.tracer.span(REMOTE, "request", tenant="acme") as root:
        recorded.clock.wall_ms -= 3_600_000
        with recorded.tracer.span(REMOTE, "another request", tenant="acme"):
            recorded.clock.pass_ms(10)
        with recorded.tracer.span(root.ref, "model"):
            recorded.clock.pass_ms(10)
    another, model, request = recorded.spans
    assert another.start_unix_ns / 1e6 == pytest.approx(START_MS - 3_600_000, abs=1)
    assert (model.start_unix_ns - request.start_unix_ns) / 1e6 == pytest.approx(10, abs=0.1)


def test_a_reference_travels_as_a_plain_place_in_a_trace() -> None:
    recorded = Recorded()
    with recorded.tracer.span(REMOTE, "request", tenant="acme") as root:
        wire = msgspec.json.encode(root.ref)
    back = msgspec.json.decode(wire, type=TraceRef)
    assert (back.trace_id, back.span_id) == (TRACE, root.ref.span_id)
