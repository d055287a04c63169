"""What was used, as values that can be added up, and how the log keeps them. Pure.

`usage/DAY` holds pages of lines, one page for each time that a server wrote down what was used
since the last one. Lines of the same hour, key and model add up, so their order means nothing and
any number of servers may write at once.
"""

from collections.abc import Collection, Iterable
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum

import msgspec

from murmurate.core.errors import LogCorruptError
from murmurate.core.ports import SNAPSHOT, Stored
from murmurate.core.types import Frozen

PREFIX = "usage/"
PAGE = "usage.page"
PICOS = 10**12
"""Money is counted in whole millionths of a millionth of the currency, so sums are exact."""


class Used(Frozen, frozen=True, omit_defaults=True):
    """What was used. `requests` are those of clients; `calls` are those that engines worked on."""

    requests: int = 0
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0
    """Those of `tokens_in` that an engine had read before."""
    cost: int = 0
    """In picos of the currency."""

    def plus(self, other: "Used") -> "Used":
        """Return the sum."""
        return Used(
            self.requests + other.requests,
            self.calls + other.calls,
            self.tokens_in + other.tokens_in,
            self.tokens_out + other.tokens_out,
            self.tokens_cached + other.tokens_cached,
            self.cost + other.cost,
        )


class Line(Frozen, frozen=True):
    """What a key used of a model within an hour (0 to 23, UTC)."""

    hour: int
    key: str
    model: str
    used: Used


class Page(Frozen, frozen=True):
    """The body of an entry, and of a snapshot."""

    lines: tuple[Line, ...]


class Row(Frozen, frozen=True, omit_defaults=True):
    """A sum, and what it is the sum of."""

    used: Used
    day: str | None = None
    hour: int | None = None
    key: str | None = None
    model: str | None = None


class By(StrEnum):
    """What sums can be split by."""

    DAY = "day"
    HOUR = "hour"
    KEY = "key"
    MODEL = "model"


def stream_of(day: date) -> str:
    """Return the log's stream of a day."""
    return f"{PREFIX}{day.isoformat()}"


def time_of(unix_ms: int) -> tuple[date, int]:
    """Return day and hour, UTC."""
    at = datetime.fromtimestamp(unix_ms / 1000, UTC)
    return at.date(), at.hour


def days_of(first: date, last: date) -> list[date]:
    """Return the days from the first to the last."""
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def page_of(stored: Stored) -> Page:
    """Return what an entry or a snapshot says, or raise `LogCorruptError`."""
    if stored.kind not in (PAGE, SNAPSHOT):
        return Page(())  # a later version's word
    try:
        return msgspec.json.decode(stored.body, type=Page)
    except msgspec.MsgspecError as cause:
        raise LogCorruptError(f"entry {stored.seq} of {stored.stream} can't be read") from cause


def added_up(lines: Iterable[Line]) -> Page:
    """Return one line for each hour, key and model."""
    sums: dict[tuple[int, str, str], Used] = {}
    for line in lines:
        place = (line.hour, line.key, line.model)
        known = sums.get(place)
        sums[place] = line.used if known is None else known.plus(line.used)
    return Page(tuple(Line(*place, used) for place, used in sorted(sums.items())))


def split(days: Iterable[tuple[date, Page]], by: Collection[By]) -> list[Row]:
    """Return the sum for each combination of what they are split by, in order."""
    sums: dict[tuple[str, int, str, str], Used] = {}
    for day, page in days:
        for line in page.lines:
            place = (
                day.isoformat() if By.DAY in by else "",
                line.hour if By.HOUR in by else -1,
                line.key if By.KEY in by else "",
                line.model if By.MODEL in by else "",
            )
            known = sums.get(place)
            sums[place] = line.used if known is None else known.plus(line.used)
    return [
        Row(
            used,
            day=day if By.DAY in by else None,
            hour=hour if By.HOUR in by else None,
            key=key if By.KEY in by else None,
            model=model if By.MODEL in by else None,
        )
        for (day, hour, key, model), used in sorted(sums.items())
    ]
