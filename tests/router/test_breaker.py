"""The breaker over a clock that the tests turn."""

from hypothesis import given
from hypothesis import strategies as st

from murmurate.router.breaker import (
    OUTCOMES_MIN,
    PROBE_S,
    REST_S,
    REST_S_MAX,
    WINDOW_S,
    Breaker,
    State,
)


def fed(outcomes: str, breaker: Breaker | None = None, now_s: float = 0.0) -> Breaker:
    """Return a breaker that saw these: `.` an answer, `x` a failure."""
    breaker = breaker or Breaker()
    for outcome in outcomes:
        probe = breaker.begin()
        (breaker.succeeded if outcome == "." else breaker.failed)(now_s, probe=probe)
    return breaker


def test_it_opens_at_half_of_at_least_five_outcomes_and_not_before() -> None:
    assert fed("xxxx").state(0) is State.CLOSED
    assert fed("xxxxx").state(0) is State.OPEN
    assert fed("....xxx").state(0) is State.CLOSED
    assert fed("....xxxx").state(0) is State.OPEN
    assert OUTCOMES_MIN == 5


def test_outcomes_older_than_the_window_are_forgotten() -> None:
    breaker = fed("xxxx")
    assert fed("x", breaker, now_s=WINDOW_S + 1).state(WINDOW_S + 1) is State.CLOSED


def test_while_open_it_allows_nothing_and_says_for_how_long() -> None:
    breaker = fed("xxxxx", now_s=100)
    assert not breaker.allows(100 + REST_S - 0.1)
    assert breaker.waits_s(100 + 1) == REST_S - 1
    assert breaker.allows(100 + REST_S)
    assert breaker.state(100 + REST_S) is State.HALF_OPEN


def test_half_open_lets_one_probe_through_and_its_answer_closes() -> None:
    breaker = fed("xxxxx")
    assert breaker.begin()
    assert not breaker.allows(REST_S)
    assert breaker.waits_s(REST_S) == PROBE_S
    breaker.succeeded(REST_S, probe=True)
    assert breaker.state(REST_S) is State.CLOSED
    assert fed("xxxx", breaker, now_s=REST_S).state(REST_S) is State.CLOSED, "all was forgotten"


def test_each_failed_probe_doubles_the_rest_up_to_its_bound() -> None:
    breaker, now_s, rests = fed("xxxxx"), 0.0, list[float]()
    for _ in range(6):
        now_s += breaker.waits_s(now_s)
        breaker.failed(now_s, probe=breaker.begin())
        rests.append(breaker.waits_s(now_s))
    assert rests == [10, 20, 40, REST_S_MAX, REST_S_MAX, REST_S_MAX]


def test_a_probe_without_an_outcome_lets_the_next_one_through() -> None:
    breaker = fed("xxxxx")
    breaker.dropped(probe=breaker.begin())
    assert breaker.allows(REST_S)


def test_while_open_the_outcomes_of_earlier_requests_change_nothing() -> None:
    breaker = fed("xxxxx")
    breaker.succeeded(1, probe=False)
    breaker.failed(2, probe=False)
    assert breaker.state(REST_S - 0.1) is State.OPEN
    assert breaker.state(REST_S) is State.HALF_OPEN


@given(st.lists(st.tuples(st.sampled_from("b.xd"), st.floats(0, 30)), max_size=80))
def test_it_never_allows_two_probes_and_always_opens_again(steps: list[tuple[str, float]]) -> None:
    breaker, now_s = Breaker(), 0.0
    under_way: list[bool] = []
    for step, passed_s in steps:
        now_s += passed_s
        if step == "b" and breaker.allows(now_s):
            under_way.append(breaker.begin())
        elif step != "b" and under_way:
            probe = under_way.pop()
            if step == "d":
                breaker.dropped(probe=probe)
            else:
                (breaker.succeeded if step == "." else breaker.failed)(now_s, probe=probe)
        assert sum(under_way) <= 1
    for probe in under_way:
        breaker.dropped(probe=probe)
    assert breaker.allows(now_s + breaker.waits_s(now_s))
