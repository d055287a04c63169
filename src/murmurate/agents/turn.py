"""What an agent says to its model, and what it reads from the conversation. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from murmurate.core.types import (
    CallPart,
    Citation,
    Cited,
    Delta,
    Diverted,
    Finished,
    FinishReason,
    Message,
    Origin,
    OriginKind,
    Part,
    ResultPart,
    Role,
    Text,
    TextPart,
    ToolCall,
    Usage,
)

UNKNOWN_EN = "I don't know: nothing in the documents answers this."
UNKNOWN_ZH = "我不知道：文档中没有这个问题的答案。"


@dataclass(slots=True)
class Reply:
    """What one model call came to, gathered delta by delta."""

    text: str = ""
    citations: tuple[Citation, ...] = ()
    calls: list[ToolCall] = field(default_factory=list[ToolCall])
    usage: Usage = field(default_factory=lambda: Usage(0, 0))
    reason: FinishReason = FinishReason.STOP
    repeatable: bool = True

    def take(self, delta: Delta) -> Delta | None:
        """Note the delta; return it when the user should see it at once."""
        match delta:
            case Text(text):
                self.text += text
                return delta
            case Cited(citations):
                self.citations += citations
                return delta
            case ToolCall():
                self.calls.append(delta)
            case Usage():
                self.usage = self.usage.plus(delta)
            case Diverted():
                return delta
            case Finished(reason, repeatable):
                self.reason = reason
                self.repeatable = repeatable
        return None

    def kept(self) -> bytes:
        """Return it as a journal keeps it."""
        deltas: list[Delta] = [Text(self.text)] if self.text else []
        deltas += [Cited(self.citations)] if self.citations else []
        return msgspec.json.encode(
            [*deltas, *self.calls, self.usage, Finished(self.reason, self.repeatable)]
        )


def deltas_of(kept: bytes) -> list[Delta]:
    """Return the deltas of a reply that a journal has kept."""
    return msgspec.json.decode(kept, type=list[Delta])


def opening(
    instructions: str, messages: Sequence[Message], *, chars_max: int
) -> tuple[Message, ...]:
    """Return the system message and the newest messages that fit into `chars_max` characters.

    The user's last message and what follows it always stay, and history is cut only before a user's
    message, so that no tool result loses its call.
    """
    systems = [instructions] if instructions else []
    systems += [message.text for message in messages if message.role is Role.SYSTEM]
    spoken = [message for message in messages if message.role is not Role.SYSTEM]
    kept = newest(spoken, chars_max=chars_max)
    if not systems:
        return kept
    part = TextPart("\n\n".join(systems), Origin(OriginKind.SYSTEM))
    return (Message(Role.SYSTEM, (part,)), *kept)


def newest(messages: Sequence[Message], *, chars_max: int) -> tuple[Message, ...]:
    """Return the longest tail that starts with a user's message and fits.

    What came since the user's last message stays whatever its length: it is the question, and the
    results of the tools that were called for it.
    """
    asked = [index for index, message in enumerate(messages) if message.role is Role.USER]
    start = asked[-1] if asked else 0
    chars = 0
    for index in range(len(messages) - 1, -1, -1):
        chars += sum(length(part) for part in messages[index].parts)
        if chars > chars_max and index < start:
            break
        if messages[index].role is Role.USER:
            start = index
    return tuple(messages[start:])


def length(part: Part) -> int:
    """Return the characters of a part."""
    return len(part.arguments) if isinstance(part, CallPart) else len(part.text)


def question_of(messages: Sequence[Message]) -> str:
    """Return the user's last message."""
    for message in reversed(messages):
        if message.role is Role.USER:
            return message.text
    return ""


def said(text: str, calls: Sequence[ToolCall], model: str) -> Message:
    """Return what the model said as a message of the conversation."""
    parts: list[Part] = [TextPart(text, Origin(OriginKind.MODEL, model))] if text else []
    parts += [CallPart(call.id, call.name, call.arguments) for call in calls]
    return Message(Role.ASSISTANT, tuple(parts))


def heard(call: ToolCall, text: str, origin: Origin) -> Message:
    """Return a tool's result as a message of the conversation."""
    return Message(Role.TOOL, (ResultPart(call.id, text, origin),))


def quoted(citation: Citation) -> str:
    """Return a quotation as the user reads it: the words, then where they stand."""
    first, last = citation.line_first, citation.line_last
    lines = f"line {first}" if first == last else f"lines {first}-{last}"
    page = "" if citation.page is None else f"page {citation.page}, "
    return f"{citation.quote}\n\n(quoted from {citation.path}, {page}{lines})"


def unknown(question: str) -> str:
    """Return "I don't know" in the language of the question."""
    return UNKNOWN_ZH if any("\u4e00" <= char <= "\u9fff" for char in question) else UNKNOWN_EN
