"""A chat request as its client means it, and the messages it is made of."""

from dataclasses import dataclass, field
from typing import Any

from tests.sim.book import Turn
from tests.sim.questions import Question
from tests.sim.world import KEYS

LOOKUP = {"type": "function", "function": {"name": "lookup", "parameters": {}}}


@dataclass(slots=True, kw_only=True)
class Chat:
    """A chat request, and what is known of its right answer."""

    key: str
    model: str
    messages: list[dict[str, Any]]
    question: Question | None = None
    lane: str | None = None
    session: str | None = None
    stream: bool = False
    temperature: float | None = None
    tools: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    statuses: frozenset[int] = frozenset({200})
    heard_min: int | None = None
    """How many of the user's messages are stored for sure; None without a session."""
    leaves_at_s: float | None = None
    owner: str | None = None
    """The tenant of a key that was made on the way."""

    @property
    def tenant(self) -> str:
        """Whose key it is."""
        return self.owner or KEYS[self.key]

    @property
    def cacheable(self) -> bool:
        """Whether the same answer may be given twice."""
        if self.temperature is not None:
            return self.temperature == 0
        return self.model in ("tiny", "assistant")


def hearing_faults(chat: Chat, heard: int) -> list[str]:
    """Without a session the model hears what the request says; with one, what is stored too."""
    if chat.heard_min is None:
        expected = asked(chat.messages)
        return [] if heard == expected else [f"the model heard {heard} messages, not {expected}"]
    least = chat.heard_min + asked(fresh(chat.messages, begins=chat.session == "new"))
    return [] if heard >= least else [f"the model heard {heard} messages of {least} or more"]


def user(text: str) -> dict[str, Any]:
    """Return a message of the user's."""
    return {"role": "user", "content": text}


def fresh(messages: list[dict[str, Any]], *, begins: bool) -> list[dict[str, Any]]:
    """Return the messages that the turn adds to its session: all, where it begins one."""
    last = -1
    if not begins:
        last = max((i for i, m in enumerate(messages) if m["role"] == "assistant"), default=-1)
    return [message for message in messages[last + 1 :] if message["role"] != "system"]


def asked(messages: list[dict[str, Any]]) -> int:
    """Count the user's messages."""
    return sum(message["role"] == "user" for message in messages)


def resent(turns: list[Turn]) -> list[dict[str, Any]]:
    """Return turns as clients send them back that don't know that they are stored."""
    return [
        message
        for turn in turns
        for message in (
            *({"role": "user", "content": text} for text in turn.said),
            {"role": "assistant", "content": turn.answer or "?"},
        )
    ]
