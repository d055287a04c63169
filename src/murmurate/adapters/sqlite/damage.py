"""What is known to be damaged or lost in a log, so that it is said once and never forgotten."""

from collections.abc import Callable
from enum import StrEnum

from murmurate.core.types import Frozen

KNOWN_MAX = 1000
"""How many damaged places are kept; a file with more needs a backup, not a longer list."""
SHOWN_MAX = 20


class Reason(StrEnum):
    """What is wrong with a place of a stream."""

    DAMAGED = "damaged"
    """The entry is there, but does not match its checksum."""
    LOST = "lost"
    """The entry should be there, but is not."""
    SNAPSHOT = "snapshot"
    """The snapshot of that seq is damaged or not there."""
    HEAD = "head"
    """The stream's count is damaged or not there."""
    RECOUNTED = "recounted"
    """The stream's count was made anew from what was found: the rest may be lost or forgotten."""
    UNREADABLE = "unreadable"
    """SQLite cannot read the pages on which the rest of the stream stands."""


MENDED_AT_START = {Reason.LOST, Reason.SNAPSHOT, Reason.HEAD, Reason.UNREADABLE}
"""Where a salvage may still find what a query does not."""


class Damage(Frozen, frozen=True):
    """The entries `seq` to `last` of a stream that cannot be read any more, and why.

    Of a recounted stream, they are those that were found.
    """

    tenant: str
    stream: str
    seq: int
    last: int
    reason: Reason

    def __str__(self) -> str:
        where = f"stream {self.stream} of {self.tenant}"
        match self.reason:
            case Reason.DAMAGED:
                return f"entry {self.seq} of {where} is damaged"
            case Reason.LOST if self.last > self.seq:
                return f"entries {self.seq} to {self.last} of {where} are lost"
            case Reason.LOST:
                return f"entry {self.seq} of {where} is lost"
            case Reason.SNAPSHOT:
                return f"the snapshot {self.seq} of {where} is damaged or lost"
            case Reason.HEAD:
                return f"the count of {where} is damaged or lost"
            case Reason.RECOUNTED:
                outside = f"entries outside {self.seq} to {self.last}"
                return f"{where} may have lost its snapshot, and {outside}"
            case Reason.UNREADABLE:
                return f"{where} can't be read from entry {self.seq} on"


class DamageBook:
    """The damaged places of one log. Each is told to `on_damage` once, when it is found."""

    def __init__(self, known: list[Damage], on_damage: Callable[[Damage], None]) -> None:
        self._known = {(d.tenant, d.stream, d.seq): d for d in known}
        self._on_damage = on_damage

    @property
    def known(self) -> tuple[Damage, ...]:
        """All of them, in the order in which they were found."""
        return tuple(self._known.values())

    def note(self, damage: Damage) -> bool:
        """Add one; return whether it is news and there was room for it."""
        key = (damage.tenant, damage.stream, damage.seq)
        if self._covers(damage) or len(self._known) >= KNOWN_MAX:
            return False
        self._known[key] = damage
        self._on_damage(damage)
        return True

    def forget(self, tenant: str, stream: str, before: int | None) -> None:
        """Drop what a forgotten part of a stream took with it."""
        self._known = {
            key: damage
            for key, damage in self._known.items()
            if key[:2] != (tenant, stream) or (before is not None and damage.last >= before)
        }

    def _covers(self, damage: Damage) -> bool:
        return any(
            (known.tenant, known.stream) == (damage.tenant, damage.stream)
            and known.seq <= damage.seq <= known.last
            and (known.reason is not Reason.RECOUNTED or known == damage)
            for known in self._known.values()
        )
