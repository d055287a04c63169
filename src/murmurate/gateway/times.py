"""Times as people write them: `30d`, `2027-01-31`; and as we show them. Pure."""

import re
from datetime import UTC, datetime, timedelta

from murmurate.core.errors import BadRequestError

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_DURATION = re.compile(r"([0-9]{1,9})([smhdw])")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def duration_ms(text: str, *, param: str, max_ms: int) -> int:
    """Read `90s`, `15m`, `1h`, `30d` or `2w`; `BadRequestError` names `param`."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise BadRequestError(
            f"{param}: {text[:64]!r} is no duration; expected one such as 1h or 30d", param=param
        )
    ms = int(found[1]) * _UNITS_S[found[2]] * 1000
    if ms > max_ms:
        raise BadRequestError(f"{param}: {text} is over {max_ms // 86_400_000} days", param=param)
    return ms


def moment_ms(text: str, *, now_ms: int, param: str, max_ms: int) -> int:
    """Read a time to come: a duration from now, a day (its end, UTC), or a time with its zone."""
    if _DURATION.fullmatch(text):
        moment = now_ms + duration_ms(text, param=param, max_ms=max_ms)
    else:
        moment = _unix_ms(text, param)
    if moment <= now_ms:
        raise BadRequestError(f"{param}: {text} has passed already", param=param)
    if moment - now_ms > max_ms:
        days = max_ms // 86_400_000
        raise BadRequestError(f"{param}: {text} is more than {days} days away", param=param)
    return moment


def past_ms(text: str, *, now_ms: int, param: str, max_ms: int) -> int:
    """Read a time that has passed: a duration until now, a day (its begin, UTC), or a time."""
    if _DURATION.fullmatch(text):
        return now_ms - duration_ms(text, param=param, max_ms=max_ms)
    return _unix_ms(f"{text}T00:00:00Z" if _DAY.fullmatch(text) else text, param)


def shown(unix_ms: int) -> str:
    """Return a time in ISO 8601, UTC, to the second."""
    return datetime.fromtimestamp(unix_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _unix_ms(text: str, param: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
        if _DAY.fullmatch(text):
            moment = moment.replace(tzinfo=UTC) + timedelta(days=1)
        if moment.tzinfo is None:
            raise BadRequestError(f"{param}: {text} has no zone: write {text}Z", param=param)
        return int(moment.timestamp() * 1000)
    except (ValueError, OverflowError) as cause:
        raise BadRequestError(
            f"{param}: {text[:64]!r} is no time; expected 30d, 2027-01-31 or 2027-01-31T12:00:00Z",
            param=param,
        ) from cause
