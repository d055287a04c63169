"""What clients know: each turn that they sent, and whether its answer was acknowledged."""

from collections import defaultdict
from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """What became of a turn, as its client saw it."""

    ACKNOWLEDGED = "acknowledged"
    """Its finish_reason was seen: it is stored."""
    REFUSED = "refused"
    """An error was seen: it is not stored."""
    UNKNOWN = "unknown"
    """The client left or the server died: it may be stored."""


@dataclass(slots=True, kw_only=True)
class Turn:
    """One turn of a stored session. `session` is None where its new id never arrived."""

    tenant: str
    session: str | None
    said: tuple[str, ...]
    asked: int
    """How many of these were the user's, and not a tool's."""
    sent_s: float
    outcome: Outcome = Outcome.UNKNOWN
    answer: str = ""
    calls: tuple[str, ...] = ()
    ended_s: float = 0.0


class Book:
    """All turns, by session."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []

    def note(self, turn: Turn) -> None:
        """Write down a turn when it has ended."""
        self.turns.append(turn)

    def acknowledged(self, session: str) -> list[Turn]:
        """Return the turns of a session that are stored for sure."""
        return [t for t in self.turns if t.session == session and t.outcome is Outcome.ACKNOWLEDGED]

    def may_exist(self, session: str) -> bool:
        """Say whether a turn of the session may be stored."""
        return any(t.session == session and t.outcome is not Outcome.REFUSED for t in self.turns)

    def sessions(self, *, not_of: str) -> list[str]:
        """Return the known sessions of the other tenants."""
        return sorted({t.session for t in self.turns if t.session and t.tenant != not_of})

    def by_session(self) -> dict[tuple[str, str | None], list[Turn]]:
        """Return the turns by tenant and session."""
        found: dict[tuple[str, str | None], list[Turn]] = defaultdict(list)
        for turn in self.turns:
            found[turn.tenant, turn.session].append(turn)
        return found
