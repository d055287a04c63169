"""Who has stood still for too long. Pure; why beats and no clocks: docs/adr/0009."""

from collections.abc import Mapping

from murmurate.core.types import Frozen

RENEW_S = 0.4
TTL_S = 1.5
"""A runner that has not renewed for so long is taken for dead: it missed three times."""
LOOK_S = 0.25
OVERSLEPT_S = 1.0
"""A watcher that was away this long has seen nobody stand still in that time."""


class Seen(Frozen, frozen=True):
    """A runner's beat, and since when it has been that one."""

    beat: int
    since_s: float


class Watch(Frozen, frozen=True):
    """What a watcher remembers from one look to the next."""

    seen: Mapping[str, Seen]
    looked_s: float


def looked(watch: Watch, beats: Mapping[str, int], now_s: float) -> Watch:
    """Return what is remembered after a look."""
    awake = now_s - watch.looked_s <= LOOK_S + OVERSLEPT_S
    seen = {
        runner: old
        if awake and (old := watch.seen.get(runner)) is not None and old.beat == beat
        else Seen(beat, now_s)
        for runner, beat in beats.items()
    }
    return Watch(seen, now_s)


def stood_still(watch: Watch, own: str) -> dict[str, int]:
    """Return the runners to be revoked, each with the beat at which it stands still.

    Nobody judges itself: it lives, whatever the store says of it.
    """
    return {
        runner: seen.beat
        for runner, seen in watch.seen.items()
        if runner != own and watch.looked_s - seen.since_s >= TTL_S
    }
