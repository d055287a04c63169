"""When something is due again and again: a cron expression in a time zone. Pure.

Where clocks are set forward, a fixed time that does not exist that day comes at once after the gap;
where they are set back, a fixed time that comes twice counts once. Expressions with a `*` (or a
step) in minutes or hours follow the time that really passes. That is what Debian's cron does.
"""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

FIELDS = 5


class Cron:
    """The times of a schedule."""

    def __init__(self, expression: str, zone: str, *, now_ms: int = 0) -> None:
        """Raise `ValueError` where the zone is not known, or no time would ever come after now."""
        try:
            self._zone = ZoneInfo(zone)
        except (KeyError, ValueError, OSError):
            raise ValueError(
                f"{zone!r} is no time zone; expected a name such as Europe/Berlin or UTC"
            ) from None
        self._expression = expression
        if len(expression.split()) != FIELDS:
            raise ValueError("expected five fields: minute, hour, day of month, month, day of week")
        self.after(now_ms)

    def after(self, at_ms: int) -> int:
        """Return the first time after that one, both in milliseconds since 1970."""
        start = datetime.fromtimestamp(at_ms / 1000, UTC).astimezone(self._zone)
        try:
            # In an hour that comes twice, cronsim 2.8 may begin with a time that is already over.
            for moment in CronSim(self._expression, start):
                due_ms = int(moment.timestamp()) * 1000
                if due_ms > at_ms:
                    return due_ms
        except CronSimError as cause:
            raise ValueError(str(cause)) from None
        raise ValueError("no such time will ever come")
