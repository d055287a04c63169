"""The store: bounds and age, by table and by property."""

from hypothesis import given
from hypothesis import strategies as st

from murmurate.cache.exact import ENTRY_OVERHEAD_BYTES, Counts, ExactCache


def cache(*, ttl_s: float = 10, entries_max: int = 3, bytes_max: int = 10_000) -> ExactCache:
    return ExactCache(ttl_s=ttl_s, entries_max=entries_max, bytes_max=bytes_max)


def test_what_was_put_is_found() -> None:
    store = cache()
    store.put(b"k", b"v", now_s=0)
    assert store.get(b"k", now_s=1) == b"v"
    assert store.get(b"other", now_s=1) is None
    assert store.counts == Counts(hits=1, misses=1)


def test_a_stale_entry_is_never_served() -> None:
    store = cache(ttl_s=10)
    store.put(b"k", b"v", now_s=0)
    assert store.get(b"k", now_s=9.9) == b"v"
    assert store.get(b"k", now_s=10) is None
    assert (len(store), store.size_bytes, store.counts.evicted_stale) == (0, 0, 1)


def test_the_least_recently_used_entry_makes_room() -> None:
    store = cache(entries_max=2)
    store.put(b"a", b"1", now_s=0)
    store.put(b"b", b"2", now_s=0)
    store.get(b"a", now_s=1)
    store.put(b"c", b"3", now_s=2)
    assert [store.get(key, now_s=3) for key in (b"a", b"b", b"c")] == [b"1", None, b"3"]
    assert store.counts.evicted_full == 1


def test_bytes_are_bounded_too() -> None:
    store = cache(entries_max=100, bytes_max=2 * (ENTRY_OVERHEAD_BYTES + 10))
    for key in (b"a", b"b", b"c"):
        store.put(key, b"x" * 10, now_s=0)
    assert len(store) == 2


def test_a_value_larger_than_the_cache_is_not_kept_and_pushes_nothing_out() -> None:
    store = cache(bytes_max=1000)
    store.put(b"a", b"1", now_s=0)
    store.put(b"b", b"x" * 1000, now_s=0)
    assert store.get(b"a", now_s=0) == b"1"
    assert store.get(b"b", now_s=0) is None


def test_a_cache_of_no_entries_keeps_nothing() -> None:
    store = cache(entries_max=0)
    store.put(b"a", b"1", now_s=0)
    assert len(store) == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"a", b"b", b"c", b"d", b"e"]),
            st.one_of(st.none(), st.binary(max_size=2000)),
            st.floats(0, 6),
        )
    )
)
def test_no_history_breaks_a_bound_or_serves_what_is_old(
    steps: list[tuple[bytes, bytes | None, float]],
) -> None:
    store = cache(ttl_s=10, entries_max=3, bytes_max=4000)
    now_s, put = 0.0, dict[bytes, tuple[bytes, float]]()
    for key, value, passed_s in steps:
        now_s += passed_s
        if value is not None:
            store.put(key, value, now_s=now_s)
            put[key] = (value, now_s)
        elif (found := store.get(key, now_s=now_s)) is not None:
            newest, at_s = put[key]
            assert found == newest
            assert now_s < at_s + 10
        assert len(store) <= 3
        assert 0 <= store.size_bytes <= 4000
