"""What an upstream's failure means for the request: a table. Pure.

Tried again are those that OpenAI's and Anthropic's own clients try again (no connection, 408, 409,
429, 5xx, twice by default), and only before the answer's first delta: what a client has read can't
be taken back.
"""

from collections.abc import Mapping
from enum import StrEnum

from murmurate.core.errors import (
    BadRequestError,
    EngineFailedError,
    EngineUnreachableError,
    MurmurateError,
    OverloadedError,
    PromptTooLongError,
)
from murmurate.core.types import Frozen

PAUSE_S = 0.25
"""The longest pause before the second attempt; twice as long before each further one."""

PAUSE_S_MAX = 4.0
RETRY_AFTER_S_MAX = 10.0
"""For longer than this no request is held back: its client hears how long it is."""


class Failure(StrEnum):
    """The classes of failures, as the configuration names those that another model answers."""

    UNREACHABLE = "unreachable"
    """Nobody there, its key refused, its model missing, its quota used up."""
    OVERLOADED = "overloaded"
    """It has too much to do, or its lane here is full."""
    FAILED = "failed"
    """It broke off, was silent, or answered garbage or 5xx."""
    TOO_LONG = "too_long"
    """The prompt does not fit into its context."""
    REFUSED = "refused"
    """The request itself is wrong; so it is everywhere."""


class Meaning(Frozen, frozen=True):
    """What follows from a failure: where it may be asked again, and whether the upstream is ill."""

    elsewhere: bool
    here: bool
    is_ill: bool


MEANINGS: Mapping[Failure, Meaning] = {
    # The adapter has waited for a lone one already, and a refused key stays refused.
    Failure.UNREACHABLE: Meaning(elsewhere=True, here=False, is_ill=True),
    # It said no, quickly and properly: it is left alone for as long as it asks.
    Failure.OVERLOADED: Meaning(elsewhere=True, here=True, is_ill=False),
    Failure.FAILED: Meaning(elsewhere=True, here=True, is_ill=True),
    Failure.TOO_LONG: Meaning(elsewhere=False, here=False, is_ill=False),
    Failure.REFUSED: Meaning(elsewhere=False, here=False, is_ill=False),
}


def failure_of(error: MurmurateError) -> Failure:
    """Return the class of an error; what is none of an upstream's is nobody's to try again."""
    match error:
        case EngineUnreachableError():
            return Failure.UNREACHABLE
        case OverloadedError():
            return Failure.OVERLOADED
        case EngineFailedError():
            return Failure.FAILED
        case PromptTooLongError():
            return Failure.TOO_LONG
        case BadRequestError():
            return Failure.REFUSED
        case _:
            return Failure.REFUSED


def pause_s(error: MurmurateError, attempt: int, *, chance: float) -> float | None:
    """Return how long to wait before asking the same upstream again; None: not at all.

    `attempt` counts from 0. Full jitter: anything up to the bound, by `chance` from 0 to 1 (Marc
    Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
    """
    failure = failure_of(error)
    if not MEANINGS[failure].here:
        return None
    pause = min(PAUSE_S * 2**attempt, PAUSE_S_MAX) * chance
    if failure is not Failure.OVERLOADED or error.retry_s is None:
        return pause
    return None if error.retry_s > RETRY_AFTER_S_MAX else error.retry_s + pause
