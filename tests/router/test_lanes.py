"""Who runs next, by table and by property."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from murmurate.core.types import Lane
from murmurate.router.lanes import (
    URGENT_TURNS_MAX,
    Arrival,
    Lanes,
    Load,
    QueueLimits,
    retry_s,
)

LIMITS = QueueLimits(urgent_queue_max=3, batch_queue_max=5)


def test_a_request_runs_at_once_while_slots_are_free() -> None:
    lanes = Lanes(2, LIMITS)
    assert [lanes.arrive(ticket, Lane.BATCH) for ticket in range(3)] == [
        Arrival.RUNS,
        Arrival.RUNS,
        Arrival.WAITS,
    ]
    assert lanes.load() == Load(slots=2, running=2, urgent_waiting=0, batch_waiting=1)


def test_a_full_urgent_lane_leaves_the_batch_lane_open() -> None:
    lanes = Lanes(1, QueueLimits(urgent_queue_max=1, batch_queue_max=1))
    assert lanes.arrive(0, Lane.URGENT) is Arrival.RUNS
    assert lanes.arrive(1, Lane.URGENT) is Arrival.WAITS
    assert lanes.arrive(2, Lane.URGENT) is Arrival.REFUSED
    assert lanes.arrive(3, Lane.BATCH) is Arrival.WAITS
    assert lanes.arrive(4, Lane.BATCH) is Arrival.REFUSED


def test_urgent_goes_before_batch_that_came_earlier() -> None:
    lanes = Lanes(1, LIMITS)
    lanes.arrive(0, Lane.BATCH)
    lanes.arrive(1, Lane.BATCH)
    lanes.arrive(2, Lane.URGENT)
    assert lanes.leave(0) == 2
    assert lanes.leave(2) == 1
    assert lanes.leave(1) is None


def test_every_eighth_free_slot_is_for_batch() -> None:
    lanes = Lanes(1, QueueLimits(urgent_queue_max=99, batch_queue_max=99))
    for ticket in range(40):
        lanes.arrive(ticket, Lane.URGENT)
    for ticket in range(100, 103):
        lanes.arrive(ticket, Lane.BATCH)
    ran, current = [0], lanes.leave(0)
    while current is not None:
        ran.append(current)
        current = lanes.leave(current)
    assert [place for place, ticket in enumerate(ran[1:], start=1) if ticket >= 100] == [8, 16, 24]


def test_turns_are_not_counted_while_no_batch_waits() -> None:
    lanes = Lanes(1, QueueLimits(urgent_queue_max=99, batch_queue_max=99))
    for ticket in range(20):
        lanes.arrive(ticket, Lane.URGENT)
    for ticket in range(URGENT_TURNS_MAX + 2):
        assert lanes.leave(ticket) == ticket + 1
    lanes.arrive(100, Lane.BATCH)
    assert lanes.leave(URGENT_TURNS_MAX + 2) == URGENT_TURNS_MAX + 3


def test_a_waiting_request_that_leaves_frees_its_place_and_starts_nobody() -> None:
    lanes = Lanes(1, LIMITS)
    lanes.arrive(0, Lane.URGENT)
    lanes.arrive(1, Lane.URGENT)
    lanes.arrive(2, Lane.URGENT)
    assert lanes.leave(1) is None
    assert lanes.leave(0) == 2


def test_a_slot_is_given_back_only_once() -> None:
    lanes = Lanes(1, LIMITS)
    for ticket in range(3):
        lanes.arrive(ticket, Lane.URGENT)
    assert lanes.leave(0) == 1
    assert lanes.leave(0) is None
    assert lanes.load().running == 1


@pytest.mark.parametrize(
    ("ahead", "slots", "service_s", "expected_s"),
    [
        (64, 4, [], 16.0),
        (64, 4, [0.5, 1.5], 16.0),
        (64, 8, [2.0], 16.0),
        (1, 8, [0.001], 1.0),
        (1024, 1, [30.0], 60.0),
    ],
)
def test_the_wait_is_estimated_from_recent_service_times(
    ahead: int, slots: int, service_s: list[float], expected_s: float
) -> None:
    assert retry_s(ahead, slots, service_s) == expected_s


class Reference:
    """What must be true of any history, told from outside."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.running: set[int] = set()
        self.waiting: dict[Lane, list[int]] = {lane: [] for lane in Lane}
        self.passed = 0

    def grant(self, ticket: int | None) -> None:
        if ticket is None:
            assert not any(self.waiting.values()), "a slot was lost while somebody waits"
            return
        lane = next(lane for lane, queue in self.waiting.items() if ticket in queue)
        assert self.waiting[lane][0] == ticket, "not first come, first served"
        self.waiting[lane].pop(0)
        self.running.add(ticket)
        if lane is Lane.BATCH or not self.waiting[Lane.BATCH]:
            self.passed = 0
        else:
            self.passed += 1
        assert self.passed <= URGENT_TURNS_MAX, "the batch lane starves"


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.sampled_from([*Lane, None]), st.integers(0, 30)), max_size=150),
)
def test_in_any_history_slots_are_neither_lost_nor_shared(
    slots: int, steps: list[tuple[Lane | None, int]]
) -> None:
    lanes, truth = Lanes(slots, LIMITS), Reference(slots)
    for ticket, (lane, choice) in enumerate(steps):
        if lane is not None:
            arrival = lanes.arrive(ticket, lane)
            if arrival is Arrival.RUNS:
                truth.running.add(ticket)
            elif arrival is Arrival.WAITS:
                assert len(truth.running) == slots, "waits although a slot is free"
                truth.waiting[lane].append(ticket)
            else:
                assert len(truth.waiting[lane]) == LIMITS.of(lane)
        else:
            here = [*sorted(truth.running), *truth.waiting[Lane.URGENT], *truth.waiting[Lane.BATCH]]
            leaving = here[choice % len(here)] if here else ticket
            after = lanes.leave(leaving)
            if leaving in truth.running:
                truth.running.remove(leaving)
                truth.grant(after)
            else:
                assert after is None
                for queue in truth.waiting.values():
                    if leaving in queue:
                        queue.remove(leaving)
        assert lanes.load() == Load(
            slots=slots,
            running=len(truth.running),
            urgent_waiting=len(truth.waiting[Lane.URGENT]),
            batch_waiting=len(truth.waiting[Lane.BATCH]),
        )
        assert len(truth.running) <= slots
