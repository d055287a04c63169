"""Who says nothing for too long counts as hung, unless nobody was there to hear."""

import pytest

from murmurate.fleet.pulse import OVERSLEPT_S, Patience, deadline_s, overslept

PATIENCE = Patience(start_s=600.0, silence_s=15.0)


@pytest.mark.parametrize(
    ("began_s", "heard_s", "expected_s"), [(100.0, None, 700.0), (100.0, 101.0, 116.0)]
)
def test_a_start_may_take_longer_than_a_silence(
    began_s: float, heard_s: float | None, expected_s: float
) -> None:
    assert deadline_s(began_s, heard_s, PATIENCE) == expected_s


def test_a_judge_that_was_away_knows_it() -> None:
    assert not overslept(10.0, 10.0 + OVERSLEPT_S)
    assert overslept(10.0, 10.1 + OVERSLEPT_S)
    assert not overslept(10.0, 9.0)
