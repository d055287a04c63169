"""Vectors are compared exactly, within a tenant's collections."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from murmurate.adapters.vectors import VectorTable, from_bytes

T = "default"


def at(*degrees: float) -> np.ndarray:
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


QUESTION = at(0)[0]


def test_a_row_is_as_near_as_its_nearest_window() -> None:
    table = VectorTable(2)
    table.put(T, "docs", 1, at(80, 10))
    table.put(T, "docs", 2, at(20))
    found = table.nearest(T, ["docs"], QUESTION, limit=5, also=())
    assert list(found) == [1, 2]
    assert round(found[1], 4) == round(float(np.cos(np.radians(10))), 4)


def test_only_the_nearest_are_returned_and_those_asked_for() -> None:
    table = VectorTable(2)
    for row in range(9):
        table.put(T, "docs", row, at(row * 10))
    found = table.nearest(T, ["docs"], QUESTION, limit=2, also=[7, 99])
    assert set(found) == {0, 1, 7}


def test_collections_and_tenants_are_apart() -> None:
    table = VectorTable(2)
    table.put(T, "a", 1, at(1))
    table.put(T, "b", 2, at(2))
    table.put("other", "a", 3, at(0))
    assert set(table.nearest(T, ["a", "b", "a", "none"], QUESTION, limit=5, also=())) == {1, 2}
    assert table.nearest("nobody", ["a"], QUESTION, limit=5, also=[1]) == {}
    table.remove("nobody", "a", [1])


def test_stored_vectors_come_back() -> None:
    assert (from_bytes(at(1, 2).tobytes(), 2) == at(1, 2)).all()


CHANGES = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3)), max_size=300)


@given(CHANGES)
def test_the_table_holds_what_was_put_last(changes: list[tuple[int, int]]) -> None:
    table = VectorTable(2)
    expected: dict[int, int] = {}
    for step, (row, windows) in enumerate(changes):
        if windows:
            table.put(T, "docs", row, at(*[step % 180] * windows))
            expected[row] = step % 180
        else:
            table.remove(T, "docs", [row])
            expected.pop(row, None)
    found = table.nearest(T, ["docs"], QUESTION, limit=100, also=range(13))
    assert set(found) == set(expected)
    for row, degrees in expected.items():
        assert abs(found[row] - np.cos(np.radians(degrees))) < 1e-5
