"""The whole request path under faults, for fixed seeds; `python -m tests.sim` runs more."""

import asyncio

import pytest

from tests.sim.loop import DeadlockError, VirtualLoop
from tests.sim.run import simulate

REQUESTS = 300


@pytest.mark.parametrize("seed", range(20))
def test_every_promise_holds_whatever_goes_wrong(seed: int) -> None:
    report = simulate(seed, requests=REQUESTS)
    again = f"again: python -m tests.sim --seeds {seed} --requests {REQUESTS}"
    assert not report.violations, "\n".join([*report.violations, again])


def test_a_seed_goes_the_same_way_each_time() -> None:
    first, second = simulate(7, requests=REQUESTS), simulate(7, requests=REQUESTS)
    for one, other in zip(first.history, second.history, strict=True):
        assert one == other


def test_the_seeds_reach_every_kind_of_answer() -> None:
    reports = [simulate(seed, requests=REQUESTS) for seed in range(20, 24)]
    seen = {status for report in reports for status in report.statuses}
    assert seen >= {"200", "400", "401", "404", "413", "429", "502", "503", "left", "crashed"}


def test_the_loop_passes_a_day_at_once_and_says_when_nothing_can_happen() -> None:
    loop = VirtualLoop()
    loop.run_until_complete(asyncio.sleep(80_000))
    assert loop.time() == 80_000
    with pytest.raises(DeadlockError):
        loop.run_until_complete(loop.create_future())
    loop.close()
