"""The table of failures."""

import pytest

from murmurate.core.errors import (
    BadRequestError,
    EngineFailedError,
    EngineUnreachableError,
    KeyInvalidError,
    ModelUnknownError,
    MurmurateError,
    OverloadedError,
    PromptTooLongError,
)
from murmurate.router.failures import MEANINGS, PAUSE_S, PAUSE_S_MAX, Failure, failure_of, pause_s


@pytest.mark.parametrize(
    ("error", "failure", "meaning"),
    [
        (EngineUnreachableError("down", retry_s=1), Failure.UNREACHABLE, (True, False, True)),
        (EngineUnreachableError("its key"), Failure.UNREACHABLE, (True, False, True)),
        (OverloadedError("429", retry_s=2), Failure.OVERLOADED, (True, True, False)),
        (EngineFailedError("500"), Failure.FAILED, (True, True, True)),
        (PromptTooLongError("900 of 512"), Failure.TOO_LONG, (False, False, False)),
        (BadRequestError("bad"), Failure.REFUSED, (False, False, False)),
        (ModelUnknownError("no such"), Failure.REFUSED, (False, False, False)),
        (KeyInvalidError("no such"), Failure.REFUSED, (False, False, False)),
    ],
)
def test_what_each_error_means_elsewhere_here_and_of_the_upstream(
    error: MurmurateError, failure: Failure, meaning: tuple[bool, bool, bool]
) -> None:
    assert failure_of(error) is failure
    found = MEANINGS[failure]
    assert (found.elsewhere, found.here, found.is_ill) == meaning


def test_pauses_grow_up_to_a_bound_and_are_drawn_from_all_of_it() -> None:
    error = EngineFailedError("500")
    assert [pause_s(error, n, chance=1) for n in range(3)] == [PAUSE_S, PAUSE_S * 2, PAUSE_S * 4]
    assert pause_s(error, 50, chance=1) == PAUSE_S_MAX
    assert pause_s(error, 3, chance=0) == 0


def test_an_upstream_is_left_alone_for_as_long_as_it_asks_unless_that_is_too_long() -> None:
    assert pause_s(OverloadedError("429", retry_s=3), 0, chance=1) == 3 + PAUSE_S
    assert pause_s(OverloadedError("429", retry_s=11), 0, chance=1) is None
    assert pause_s(OverloadedError("429"), 0, chance=1) == PAUSE_S


def test_the_same_upstream_is_not_asked_again_where_that_can_t_help() -> None:
    assert pause_s(EngineUnreachableError("its key"), 0, chance=1) is None
    assert pause_s(BadRequestError("bad"), 0, chance=1) is None
