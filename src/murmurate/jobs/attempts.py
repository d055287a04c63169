"""What becomes of a run whose attempt failed. Pure."""

from murmurate.core.errors import MurmurateError

ATTEMPTS_MAX = 5
"""So many attempts in a row without a step that was done, then it is given up."""
HOLDERS_MAX = 5
"""So many holders in a row that died with it and wrote nothing: it may be what kills them."""
BACKOFF_FIRST_MS = 500
BACKOFF_MAX_MS = 60_000


def may_help(error: MurmurateError) -> bool:
    """Tell whether another attempt can come to more: not where the request is at fault."""
    return error.http_status >= 500 or error.retry_s is not None


def again_ms(error: MurmurateError, *, stumbles: int, now_ms: int) -> int | None:
    """Return when to try again after `stumbles` failures before this one; None to give up."""
    if not may_help(error) or stumbles + 1 >= ATTEMPTS_MAX:
        return None
    pause_ms = min(BACKOFF_FIRST_MS * 2**stumbles, BACKOFF_MAX_MS)
    asked_ms = 0 if error.retry_s is None else int(error.retry_s * 1000)
    return now_ms + max(pause_ms, min(asked_ms, BACKOFF_MAX_MS))


def is_poison(*, epoch: int, epoch_last: int) -> bool:
    """Tell whether too many have held the run since one wrote: it may be what ends them."""
    return epoch - epoch_last > HOLDERS_MAX
