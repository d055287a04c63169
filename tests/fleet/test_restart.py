"""A first crash is restarted at once, a crash loop with growing pauses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from murmurate.fleet.restart import BACKOFF_MAX_S, WINDOW_S, delay_s, recent

NOW_S = 1000.0


@pytest.mark.parametrize(
    ("crashes", "expected_s"),
    [(0, 0.0), (1, 0.0), (2, 0.1), (3, 0.2), (4, 0.4), (8, 6.4), (9, 10.0), (60, 10.0)],
)
def test_each_crash_doubles_the_pause_up_to_its_end(crashes: int, expected_s: float) -> None:
    assert delay_s([NOW_S] * crashes, NOW_S) == pytest.approx(expected_s)


def test_crashes_of_long_ago_are_forgotten() -> None:
    exits_s = [NOW_S - WINDOW_S, NOW_S - WINDOW_S + 1, NOW_S]
    assert recent(exits_s, NOW_S) == exits_s[1:]
    assert delay_s([NOW_S - WINDOW_S] * 9 + [NOW_S], NOW_S) == 0.0


@given(st.lists(st.floats(0, NOW_S), max_size=50))
def test_no_pause_is_longer_than_the_most(exits_s: list[float]) -> None:
    assert 0.0 <= delay_s(exits_s, NOW_S) <= BACKOFF_MAX_S
