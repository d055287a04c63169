"""Who stands still is told by counts of beats and the watcher's own clock."""

from murmurate.jobs.vigil import OVERSLEPT_S, TTL_S, Watch, looked, stood_still

LOOKS_S = 0.25


def watched(*beats: dict[str, int], from_s: float = 100.0, every_s: float = LOOKS_S) -> Watch:
    watch = Watch({}, from_s)
    for number, seen in enumerate(beats):
        watch = looked(watch, seen, from_s + number * every_s)
    return watch


def looks(seconds: float) -> int:
    """How many looks it takes until that much time has passed since the first."""
    return round(seconds / LOOKS_S) + 1


def test_a_beat_that_stands_still_for_the_whole_time_out_is_told() -> None:
    still = [{"b": 5}] * looks(TTL_S)
    assert stood_still(watched(*still), "a") == {"b": 5}
    assert stood_still(watched(*still[:-1]), "a") == {}


def test_a_runner_that_beats_now_and_then_lives() -> None:
    assert stood_still(watched(*({"b": number // 5} for number in range(40))), "a") == {}


def test_a_count_that_goes_back_is_another_life() -> None:
    still = [{"b": 5}] * (looks(TTL_S) - 1)
    assert stood_still(watched(*still, {"b": 1}), "a") == {}


def test_nobody_judges_itself() -> None:
    assert stood_still(watched(*[{"a": 1}] * looks(10.0)), "a") == {}


def test_who_is_seen_for_the_first_time_gets_the_whole_time_out() -> None:
    earlier = [{"b": n} for n in range(20)]
    assert stood_still(watched(*earlier, {"b": 20, "c": 1}), "a") == {}


def test_a_watcher_that_was_stopped_itself_accuses_nobody() -> None:
    watch = watched({"b": 5}, {"b": 5})
    woken = looked(watch, {"b": 5}, watch.looked_s + LOOKS_S + OVERSLEPT_S + 30.0)
    assert stood_still(woken, "a") == {}
    later = looked(woken, {"b": 5}, woken.looked_s + LOOKS_S)
    assert stood_still(later, "a") == {}


def test_who_has_gone_is_forgotten() -> None:
    assert watched({"b": 1, "c": 1}, {"c": 2}).seen.keys() == {"c"}
