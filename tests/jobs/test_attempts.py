"""Whether another attempt is made, and when."""

import pytest

from murmurate.core.errors import (
    BadRequestError,
    EngineFailedError,
    LogUnavailableError,
    ModelUnknownError,
    MurmurateError,
    OverloadedError,
)
from murmurate.jobs.attempts import ATTEMPTS_MAX, BACKOFF_MAX_MS, again_ms, is_poison


@pytest.mark.parametrize("error", [BadRequestError("no"), ModelUnknownError("gone")])
def test_what_the_request_is_at_fault_for_is_not_tried_again(error: MurmurateError) -> None:
    assert again_ms(error, stumbles=0, now_ms=0) is None


def test_the_pauses_grow_and_then_it_is_given_up() -> None:
    error = EngineFailedError("broke")
    pauses = [again_ms(error, stumbles=n, now_ms=1000) for n in range(ATTEMPTS_MAX)]
    assert pauses == [1500, 2000, 3000, 5000, None]


def test_an_error_that_says_when_to_come_back_is_heeded_within_bounds() -> None:
    assert again_ms(OverloadedError("full", retry_s=7.0), stumbles=0, now_ms=0) == 7000
    long = LogUnavailableError("full", retry_s=1e6)
    assert again_ms(long, stumbles=0, now_ms=0) == BACKOFF_MAX_MS


@pytest.mark.parametrize(
    ("epoch", "epoch_last", "poison"), [(1, 0, False), (5, 0, False), (6, 0, True), (9, 4, False)]
)
def test_a_run_that_got_through_many_holders_that_wrote_nothing_is_poison(
    epoch: int, epoch_last: int, poison: bool
) -> None:
    assert is_poison(epoch=epoch, epoch_last=epoch_last) is poison
