"""Lines add up, whoever wrote them and in whatever order."""

from datetime import date

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from murmurate.accounts.usage import (
    PAGE,
    By,
    Line,
    Page,
    Row,
    Used,
    added_up,
    days_of,
    page_of,
    split,
    time_of,
)
from murmurate.core.errors import LogCorruptError
from murmurate.core.ports import SNAPSHOT, Stored

DAY = date(2026, 11, 21)
lines = st.lists(
    st.builds(
        Line,
        st.integers(0, 23),
        st.sampled_from(["", "key_a", "key_b"]),
        st.sampled_from(["tiny", "large"]),
        st.builds(Used, *[st.integers(0, 10**12)] * 6),
    )
)


def stored(kind: str, body: bytes) -> Stored:
    return Stored("a", "usage/2026-11-21", 1, 1, 0, kind, 0, body)


@given(lines)
def test_no_sum_depends_on_order_or_on_being_added_up_before(found: list[Line]) -> None:
    once = added_up(found)
    assert added_up(once.lines) == once == added_up(reversed(found))
    for by in ((), (By.KEY,), (By.DAY, By.MODEL), tuple(By)):
        assert split([(DAY, once)], by) == split([(DAY, Page(tuple(found)))], by)


def test_sums_are_split_by_what_is_asked_for() -> None:
    page = Page(
        (
            Line(9, "key_a", "tiny", Used(1, 1, 10, 5)),
            Line(10, "key_a", "tiny", Used(1, 1, 20, 5)),
            Line(10, "key_b", "large", Used(1, 2, 100, 50, 0, 7)),
        )
    )
    days = [(DAY, page), (date(2026, 11, 22), page)]
    assert split(days, ()) == [Row(Used(6, 8, 260, 120, 0, 14))]
    assert split(days, (By.KEY,)) == [
        Row(Used(4, 4, 60, 20), key="key_a"),
        Row(Used(2, 4, 200, 100, 0, 14), key="key_b"),
    ]
    hours = split(days[:1], (By.DAY, By.HOUR))
    assert [(row.day, row.hour) for row in hours] == [("2026-11-21", 9), ("2026-11-21", 10)]


def test_nothing_is_no_row() -> None:
    assert split([(DAY, Page(()))], (By.DAY,)) == []


def test_pages_are_read_and_words_of_later_versions_passed_over() -> None:
    page = Page((Line(1, "k", "m", Used(1)),))
    body = msgspec.json.encode(page)
    assert page_of(stored(PAGE, body)) == page_of(stored(SNAPSHOT, body)) == page
    assert page_of(stored("usage.note", b"?")) == Page(())
    with pytest.raises(LogCorruptError, match="entry 1 of usage/2026-11-21"):
        page_of(stored(PAGE, b"{}"))


def test_days_and_hours_are_those_of_utc() -> None:
    assert time_of(1_795_305_599_999) == (DAY, 23)
    assert time_of(1_795_305_600_000) == (date(2026, 11, 22), 0)
    assert days_of(DAY, DAY) == [DAY]
    assert [day.day for day in days_of(date(2026, 2, 27), date(2026, 3, 1))] == [27, 28, 1]
