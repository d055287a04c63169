"""A token bucket never gives more than it holds."""

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from murmurate.gateway.quota import Bucket, Rate, full, take

RATE = Rate(per_s=2.0, burst=3.0)


def test_a_new_key_may_use_its_whole_burst_at_once() -> None:
    bucket, waits = full(RATE, 0.0), list[float]()
    for _ in range(4):
        bucket, wait_s = take(bucket, RATE, 0.0)
        waits.append(wait_s)
    assert waits == [0.0, 0.0, 0.0, 0.5]


@pytest.mark.parametrize(
    ("bucket", "now_s", "after", "wait_s"),
    [
        (Bucket(0.0, 10.0), 10.5, Bucket(0.0, 10.5), 0.0),
        (Bucket(0.0, 10.0), 10.25, Bucket(0.5, 10.25), 0.25),
        (Bucket(0.0, 10.0), 999.0, Bucket(2.0, 999.0), 0.0),
        (Bucket(1.0, 10.0), 9.0, Bucket(0.0, 9.0), 0.0),
        (Bucket(0.0, 10.0), 9.0, Bucket(0.0, 9.0), 0.5),
    ],
)
def test_a_bucket_refills_with_time_up_to_its_burst(
    bucket: Bucket, now_s: float, after: Bucket, wait_s: float
) -> None:
    assert take(bucket, RATE, now_s) == (after, wait_s)


@given(
    st.floats(0.01, 100), st.integers(1, 50), st.lists(st.floats(0, 5), min_size=1, max_size=200)
)
def test_no_more_is_granted_than_burst_and_rate_allow(
    per_s: float, burst: int, pauses_s: list[float]
) -> None:
    rate = Rate(per_s, burst)
    bucket, granted = full(rate, 0.0), 0
    for now_s in accumulate(pauses_s):
        bucket, wait_s = take(bucket, rate, now_s)
        granted += wait_s == 0.0
        assert wait_s >= 0.0
        assert 0.0 <= bucket.left <= burst
        assert granted <= burst + per_s * now_s + 1e-6


@given(st.floats(0.01, 100), st.floats(0, 0.99))
def test_who_waits_as_told_is_served(per_s: float, left: float) -> None:
    rate = Rate(per_s, 1.0)
    bucket, wait_s = take(Bucket(left, 0.0), rate, 0.0)
    assert wait_s > 0
    assert take(bucket, rate, wait_s * 1.0001)[1] == 0.0
