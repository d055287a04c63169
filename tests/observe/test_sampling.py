import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from murmurate.observe.sampling import Sampler, is_in_share
from murmurate.observe.spans import SpanRecord

CHANCE = random.Random(3)


def span(at_s: float, *, root: bool = True, error: str | None = None) -> SpanRecord:
    trace_id = f"{CHANCE.getrandbits(128):032x}"
    attributes: dict[str, str | int | float | bool] = {"tenant": "t"} if root else {}
    start_ns = int(at_s * 1e9)
    return SpanRecord(trace_id, "1" * 16, None, "t", "request", start_ns, 0, attributes, error)


def kept(sampler: Sampler, *, traces: int, from_s: float) -> int:
    return sum(sampler.keeps(span(from_s + number / traces)) for number in range(traces))


def test_up_to_the_limit_every_trace_is_kept() -> None:
    sampler = Sampler(traces_per_s_max=50)
    assert [kept(sampler, traces=50, from_s=second) for second in range(5)] == [50] * 5
    assert sampler.share == 1


def test_above_the_limit_about_as_many_are_kept_as_the_limit_says() -> None:
    sampler = Sampler(traces_per_s_max=50)
    first, *later = [kept(sampler, traces=2000, from_s=second) for second in range(10)]
    assert first < 400  # the share falls within the very second in which the rush begins
    assert sum(later) / len(later) == pytest.approx(50, rel=0.3)


def test_after_a_quiet_second_everything_is_kept_again() -> None:
    sampler = Sampler(traces_per_s_max=50)
    kept(sampler, traces=5000, from_s=10)
    assert kept(sampler, traces=40, from_s=11) < 10
    assert kept(sampler, traces=40, from_s=12) == 40
    kept(sampler, traces=5000, from_s=13)
    assert kept(sampler, traces=40, from_s=20) == 40


def test_errors_are_kept_at_any_rate() -> None:
    sampler = Sampler(traces_per_s_max=1)
    kept(sampler, traces=5000, from_s=0)
    assert all(sampler.keeps(span(0.999, error="router.overloaded")) for _ in range(100))
    assert all(sampler.keeps(span(0.999, root=False, error="internal")) for _ in range(100))


def test_only_root_spans_count_as_traces() -> None:
    sampler = Sampler(traces_per_s_max=50)
    assert all(sampler.keeps(span(0.5, root=False)) for _ in range(1000))


def test_a_span_that_ends_late_does_not_turn_the_time_back() -> None:
    sampler = Sampler(traces_per_s_max=50)
    kept(sampler, traces=5000, from_s=10)
    sampler.keeps(span(3))
    assert sampler.share < 0.02


@given(st.integers(0, 2**128 - 1), st.floats(0, 1), st.floats(0, 1))
def test_a_trace_in_a_small_share_is_in_every_larger_one(number: int, a: float, b: float) -> None:
    trace_id = f"{number:032x}"
    assert is_in_share(trace_id, 1.0)
    assert not is_in_share(trace_id, 0.0)
    assert is_in_share(trace_id, max(a, b)) >= is_in_share(trace_id, min(a, b))
