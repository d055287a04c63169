"""Times are read as people write them, and a wrong one names its field."""

import pytest

from murmurate.core.errors import BadRequestError
from murmurate.gateway.times import duration_ms, moment_ms, shown

DAY_MS = 86_400_000
NOW_MS = 1_800_000_000_000  # 2027-01-15T08:00:00Z
MAX_MS = 3650 * DAY_MS


@pytest.mark.parametrize(
    ("text", "ms"),
    [("0s", 0), ("90s", 90_000), ("15m", 900_000), ("1h", 3_600_000), ("2w", 14 * DAY_MS)],
)
def test_durations(text: str, ms: int) -> None:
    assert duration_ms(text, param="grace", max_ms=MAX_MS) == ms


@pytest.mark.parametrize("text", ["", "1", "h", "-1h", "1.5h", "1 h", "1h30m", "1y", "٣h", "1h\n"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(BadRequestError, match="grace: ") as raised:
        duration_ms(text, param="grace", max_ms=MAX_MS)
    assert raised.value.param == "grace"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30d", "2027-02-14T08:00:00Z"),
        ("2027-01-31", "2027-02-01T00:00:00Z"),
        ("2027-01-15", "2027-01-16T00:00:00Z"),
        ("2027-01-31T12:30:00Z", "2027-01-31T12:30:00Z"),
        ("2027-01-31T12:30:00+02:00", "2027-01-31T10:30:00Z"),
    ],
)
def test_moments(text: str, expected: str) -> None:
    moment = moment_ms(text, now_ms=NOW_MS, param="expires", max_ms=MAX_MS)
    assert shown(moment) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0s", "has passed"),
        ("2027-01-14", "has passed"),
        ("2027-01-15T08:00:00Z", "has passed"),
        ("2027-01-31T12:30:00", "no zone: write 2027-01-31T12:30:00Z"),
        ("tomorrow", "is no time; expected 30d"),
        ("2027-02-30", "is no time"),
        ("9998-12-31", "more than 3650 days away"),
        ("99999d", "over 3650 days"),
        ("9999-12-31T23:59:59-23:59", "expires: "),
    ],
)
def test_what_is_no_time_to_come_is_refused(text: str, words: str) -> None:
    with pytest.raises(BadRequestError, match=words) as raised:
        moment_ms(text, now_ms=NOW_MS, param="expires", max_ms=MAX_MS)
    assert raised.value.param == "expires"
