"""The budget of retries and hedges."""

from hypothesis import given
from hypothesis import strategies as st

from murmurate.router.budget import Budget


def test_it_begins_full_and_fills_with_requests_and_time_up_to_its_bound() -> None:
    budget = Budget(share=0.2, per_s=1, most=2, now_s=0)
    assert [budget.take(0) for _ in range(3)] == [True, True, False]
    for _ in range(5):
        budget.deposit()
    assert [budget.take(0) for _ in range(2)] == [True, False]
    assert budget.take(1)
    assert [budget.take(1000) for _ in range(3)] == [True, True, False]


@given(st.lists(st.one_of(st.none(), st.floats(0, 5)), max_size=200))
def test_retries_never_exceed_the_share_of_the_requests_and_a_few(
    steps: list[float | None],
) -> None:
    """None is a request; a number is a wish for a retry after so many seconds."""
    budget = Budget(share=0.2, per_s=0.5, most=3, now_s=0)
    requests = taken = 0
    now_s = 0.0
    for step in steps:
        if step is None:
            requests += 1
            budget.deposit()
        else:
            now_s += step
            taken += budget.take(now_s)
        assert taken <= 3 + 0.2 * requests + 0.5 * now_s + 1e-6
