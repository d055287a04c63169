"""The messages of a session as the log keeps them, and how a request continues one. Pure.

An entry is immutable and never rewritten: `{id, hlc, turn, after, role, parts}`. `hlc` is a hybrid
logical clock (Kulkarni et al., "Logical Physical Clocks", 2014): wall milliseconds, a counter and
the writer, so that entries of several writers have one order that respects cause and effect.
"""

from collections.abc import Sequence

import msgspec

from murmurate.core.errors import BadRequestError
from murmurate.core.types import (
    CallPart,
    Citation,
    Cited,
    Delta,
    Frozen,
    Message,
    Origin,
    OriginKind,
    Part,
    ResultPart,
    Role,
    Text,
    TextPart,
    ToolCall,
)

KIND = "message"


class SessionMessage(Frozen, frozen=True, omit_defaults=True):
    """One stored message; `after` is the id of the message that its writer saw last."""

    id: str
    hlc: str
    turn: str
    after: str | None
    role: Role
    parts: tuple[Part, ...]
    citations: tuple[Citation, ...] = ()


def stream_of(session_id: str) -> str:
    """Return the log's stream of a session."""
    return f"session/{session_id}"


def encode(message: SessionMessage) -> bytes:
    """Return the entry's body."""
    return msgspec.json.encode(message)


def decode(body: bytes) -> SessionMessage:
    """Return the message of an entry's body."""
    return msgspec.json.decode(body, type=SessionMessage)


def next_hlc(last: str | None, now_ms: int, writer: str) -> str:
    """Return a clock value above `last`, as close to `now_ms` as that allows.

    However long the wall clock stands behind, values go on growing, as texts too.
    """
    wall_ms, counter = (0, 0) if last is None else _read_hlc(last)
    if now_ms > wall_ms:
        wall_ms, counter = now_ms, 0
    else:
        counter += 1
        wall_ms, counter = wall_ms + (counter >> 24), counter & 0xFFFFFF
    return f"{wall_ms:012x}-{counter:06x}-{writer}"


def _read_hlc(hlc: str) -> tuple[int, int]:
    wall, counter, _ = hlc.split("-", 2)
    return int(wall, 16), int(counter, 16)


def fresh(stored: Sequence[SessionMessage], messages: Sequence[Message]) -> list[Message]:
    """Return what the request adds: the messages after its last assistant turn, systems apart.

    What came before is stored already, and the stored form wins. A session that is just begun has
    stored nothing: all of its messages are new.
    """
    last = -1
    if stored:
        last = max((i for i, m in enumerate(messages) if m.role is Role.ASSISTANT), default=-1)
    return [message for message in messages[last + 1 :] if message.role is not Role.SYSTEM]


def added(stored: Sequence[SessionMessage], messages: Sequence[Message]) -> list[Message]:
    """Return the fresh messages, each tool result with the name of the tool it answers.

    `BadRequestError` for a result whose call stands neither in the session nor in the request.
    """
    names: dict[str, str] = {}
    found: list[Message] = []
    for message in (*stored, *messages):
        names.update({part.id: part.name for part in message.parts if isinstance(part, CallPart)})
    for message in fresh(stored, messages):
        parts: list[Part] = []
        for part in message.parts:
            if not isinstance(part, ResultPart):
                parts.append(part)
                continue
            if part.call_id not in names:
                raise BadRequestError(
                    f"tool_call_id = {part.call_id!r}: no call of this session has it",
                    param="messages",
                )
            origin = Origin(OriginKind.TOOL, names[part.call_id])
            parts.append(ResultPart(part.call_id, part.text, origin))
        found.append(Message(message.role, tuple(parts)))
    return found


def continued(stored: Sequence[SessionMessage], messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return the whole conversation for the model: the request's systems, the stored, the fresh."""
    systems = [message for message in messages if message.role is Role.SYSTEM]
    history = [Message(message.role, message.parts) for message in stored]
    return (*systems, *history, *added(stored, messages))


def answer_parts(deltas: Sequence[Delta], model: str) -> tuple[Part, ...]:
    """Return the answer's text and tool calls as parts."""
    text = "".join(delta.text for delta in deltas if isinstance(delta, Text))
    parts: list[Part] = [TextPart(text, Origin(OriginKind.MODEL, model))] if text else []
    parts += [CallPart(d.id, d.name, d.arguments) for d in deltas if isinstance(d, ToolCall)]
    return tuple(parts)


def answer_citations(deltas: Sequence[Delta]) -> tuple[Citation, ...]:
    """Return all citations of the answer."""
    return tuple(c for delta in deltas if isinstance(delta, Cited) for c in delta.citations)
