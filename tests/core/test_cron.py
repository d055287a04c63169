"""When schedules are due, also on the two days of the year that are not 24 hours long."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from murmurate.core.cron import Cron

BERLIN = ZoneInfo("Europe/Berlin")


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def times(expression: str, start: str, count: int, zone: str = "Europe/Berlin") -> list[str]:
    """Return the next times as the zone's clocks show them, with the offset."""
    cron, at_ms, found = Cron(expression, zone), ms(start), list[str]()
    for _ in range(count):
        at_ms = cron.after(at_ms)
        shown = datetime.fromtimestamp(at_ms / 1000, UTC).astimezone(ZoneInfo(zone))
        found.append(shown.strftime("%m-%d %H:%M%z")[:-2])
    return found


@pytest.mark.parametrize(
    ("expression", "start", "expected"),
    [
        # A Friday before a weekend.
        ("0 7 * * mon-fri", "2026-11-20T06:59:59+01:00", ["11-20 07:00+01", "11-23 07:00+01"]),
        ("0 7 * * mon-fri", "2026-11-20T07:00:00+01:00", ["11-23 07:00+01"]),
        # 2026-03-29 02:00 becomes 03:00: there is no 02:30, so it comes at once after the gap.
        ("30 2 * * *", "2026-03-28T12:00:00+01:00", ["03-29 03:00+02", "03-30 02:30+02"]),
        ("30 2 * * *", "2026-03-29T03:00:00+02:00", ["03-30 02:30+02"]),
        # What goes by the clock's running is not made up for.
        ("*/30 2 * * *", "2026-03-28T12:00:00+01:00", ["03-30 02:00+02", "03-30 02:30+02"]),
        ("30 * * * *", "2026-03-29T01:00:00+01:00", ["03-29 01:30+01", "03-29 03:30+02"]),
        # 2026-10-25 03:00 becomes 02:00: there are two 02:30, and the first one counts.
        ("30 2 * * *", "2026-10-24T12:00:00+02:00", ["10-25 02:30+02", "10-26 02:30+01"]),
        ("30 2 * * *", "2026-10-25T02:30:00+02:00", ["10-26 02:30+01"]),
        ("30 2 * * *", "2026-10-25T02:15:00+01:00", ["10-26 02:30+01"]),
        ("30 2 * * *", "2026-10-25T02:30:00+01:00", ["10-26 02:30+01"]),
        # What goes by the clock's running goes on.
        ("30 * * * *", "2026-10-25T02:00:00+02:00", ["10-25 02:30+02", "10-25 02:30+01"]),
    ],
)
def test_the_next_times(expression: str, start: str, expected: list[str]) -> None:
    assert times(expression, start, len(expected)) == expected


def test_without_a_zone_of_its_own_no_day_is_odd() -> None:
    assert times("30 2 * * *", "2026-03-28T12:00:00+00:00", 2, "UTC") == [
        "03-29 02:30+00",
        "03-30 02:30+00",
    ]


@pytest.mark.parametrize(
    ("expression", "zone", "words"),
    [
        ("0 7 * * *", "Mars/Base", "'Mars/Base' is no time zone"),
        ("0 7 * * *", "", "'' is no time zone"),
        ("0 7 * * *", "/etc/passwd", "is no time zone"),
        ("0 7 * * *", "../../etc/passwd", "is no time zone"),
        ("0 7 * * *", "Europe", "is no time zone"),
        ("", "UTC", "five fields"),
        ("@daily", "UTC", "five fields"),
        ("0 0 7 * * *", "UTC", "five fields"),
        ("60 * * * *", "UTC", "Bad minute"),
        ("0 7 * * noday", "UTC", "Bad day-of-week"),
        ("0 0 30 2 *", "UTC", "Bad day-of-month"),
        ("0 0 31 4,6 *", "UTC", "Bad day-of-month|no such time"),
    ],
)
def test_what_never_comes_is_refused_with_its_reason(
    expression: str, zone: str, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        Cron(expression, zone)


@given(
    st.sampled_from(["30 2 * * *", "*/7 * * * *", "59 2,3 * * sun", "0 1-4 * * *", "5 */2 1 * *"]),
    st.integers(
        min_value=ms("2026-10-24T20:00:00+00:00"), max_value=ms("2026-10-25T06:00:00+00:00")
    )
    | st.integers(
        min_value=ms("2026-03-28T20:00:00+00:00"), max_value=ms("2026-03-29T06:00:00+00:00")
    ),
)
def test_the_next_time_is_always_later_and_the_same_from_any_moment_before_it(
    expression: str, at_ms: int
) -> None:
    cron = Cron(expression, "Europe/Berlin")
    due_ms = cron.after(at_ms)
    assert due_ms > at_ms
    assert due_ms % 60_000 == 0
    assert cron.after((at_ms + due_ms) // 2) == due_ms
