"""How fast one key may ask: a token bucket, as a pure value."""

from murmurate.core.types import Frozen


class Rate(Frozen, frozen=True):
    """A bucket that holds `burst` requests and refills at `per_s`."""

    per_s: float
    burst: float


class Bucket(Frozen, frozen=True):
    """What is left in it, as of `at_s`."""

    left: float
    at_s: float


def full(rate: Rate, now_s: float) -> Bucket:
    """Return the bucket of a key that has not asked yet."""
    return Bucket(rate.burst, now_s)


def take(bucket: Bucket, rate: Rate, now_s: float) -> tuple[Bucket, float]:
    """Take one request out; the second value is 0, or the seconds to wait when it is empty."""
    elapsed_s = max(now_s - bucket.at_s, 0.0)
    left = min(bucket.left + elapsed_s * rate.per_s, rate.burst)
    if left >= 1.0:
        return Bucket(left - 1.0, now_s), 0.0
    return Bucket(left, now_s), (1.0 - left) / rate.per_s
