"""Items: the pieces of input and output in the Responses API's form, and what a model sees of them.

They are encoded as they are: a struct here is the JSON of the specification. Pure.
"""

from base64 import b64decode, urlsafe_b64encode
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from murmurate.core.errors import BadRequestError
from murmurate.core.types import (
    CallPart,
    Frozen,
    Message,
    Origin,
    OriginKind,
    Part,
    ResultPart,
    Role,
    TextPart,
)

Status = Literal["in_progress", "completed", "incomplete"]
Speaker = Literal["user", "assistant", "system", "developer"]


class FileCitation(Frozen, frozen=True, tag="file_citation"):
    """Where a quoted passage stands; `index` is the character of the answer that it belongs to.

    What follows `index` is ours beside OpenAI's fields.
    """

    file_id: str
    filename: str
    index: int
    start_index: int
    end_index: int
    first_line: int
    last_line: int
    page: int | None
    quote: str
    score: float


class InputText(Frozen, frozen=True, tag="input_text"):
    """Text that the client gave."""

    text: str


class OutputText(Frozen, frozen=True, tag="output_text"):
    """Text that the model said."""

    text: str
    annotations: tuple[FileCitation, ...] = ()
    logprobs: tuple[()] = ()


class Refusal(Frozen, frozen=True, tag="refusal"):
    """What a model said instead of an answer; none of ours says it, others' come back as input."""

    refusal: str


class SummaryText(Frozen, frozen=True, tag="summary_text"):
    """A summary of what a model thought."""

    text: str


class ReasoningText(Frozen, frozen=True, tag="reasoning_text"):
    """What a model thought."""

    text: str


Content = InputText | OutputText | Refusal


class MessageItem(Frozen, frozen=True, tag="message"):
    """Somebody says something."""

    id: str
    status: Status
    role: Speaker
    content: tuple[Content, ...]

    @property
    def text(self) -> str:
        """All its words."""
        return "".join(p.refusal if isinstance(p, Refusal) else p.text for p in self.content)


class CallItem(Frozen, frozen=True, tag="function_call"):
    """The model asks for one of the client's functions."""

    id: str
    call_id: str
    name: str
    arguments: str
    status: Status


class ResultItem(Frozen, frozen=True, tag="function_call_output"):
    """What the client's function came to."""

    id: str
    call_id: str
    output: str | tuple[InputText, ...]
    status: Status

    @property
    def text(self) -> str:
        """All its words."""
        if isinstance(self.output, str):
            return self.output
        return "".join(part.text for part in self.output)


class ReasoningItem(Frozen, frozen=True, tag="reasoning"):
    """What another model thought: kept and given back, and not said to ours."""

    id: str
    summary: tuple[SummaryText, ...]
    content: tuple[ReasoningText, ...] = ()
    encrypted_content: str | None = None


class CompactionItem(Frozen, frozen=True, tag="compaction"):
    """What was said before, in short; see `compaction.py`. It is encoded, and not encrypted."""

    id: str
    encrypted_content: str

    @classmethod
    def of(cls, item_id: str, summary: str) -> "CompactionItem":
        """Return the item of a summary."""
        return cls(item_id, urlsafe_b64encode(summary.encode()).decode())

    @property
    def text(self) -> str:
        """The summary, or `ValueError`: none of ours wrote it."""
        return b64decode(self.encrypted_content, altchars=b"-_", validate=True).decode()


Item = MessageItem | CallItem | ResultItem | ReasoningItem | CompactionItem


def messages_of(
    instructions: str | None, items: Iterable[Item], *, continues: bool = False
) -> tuple[Message, ...]:
    """Return the conversation as a model sees it, or `BadRequestError` where it makes no sense.

    Where it `continues` a stored session, a result may answer a call that is stored there.
    """
    calls: dict[str, CallPart] = {}
    waiting: dict[str, CallPart] = {}
    messages: list[Message] = []
    if instructions:
        messages.append(Message(Role.SYSTEM, (TextPart(instructions, Origin(OriginKind.SYSTEM)),)))
    for item in items:
        match item:
            case MessageItem():
                messages.append(_said(item))
            case CallItem():
                call = calls[item.call_id] = CallPart(item.call_id, item.name, item.arguments)
                waiting[item.call_id] = call
                _add_call(messages, call)
            case ResultItem():
                if item.call_id not in calls and not continues:
                    raise BadRequestError(
                        f"input: no function call has the call_id {item.call_id[:100]!r} that a"
                        " function_call_output names",
                        param="input",
                    )
                waiting.pop(item.call_id, None)
                messages.append(_heard(item, calls))
            case CompactionItem():
                messages.append(_shortened(item))
            case ReasoningItem():
                continue
    _check_end(messages, waiting)
    return tuple(messages)


def _check_end(messages: Sequence[Message], waiting: Mapping[str, CallPart]) -> None:
    """Refuse a conversation that leaves the model nothing to say, or calls without results."""
    if waiting:
        raise BadRequestError(
            f"input: there is no function_call_output for the call {next(iter(waiting))[:100]!r}",
            param="input",
        )
    if not messages or messages[-1].role not in {Role.USER, Role.TOOL}:
        raise BadRequestError(
            "input: expected a user's message or a function_call_output at the end", param="input"
        )


def _said(item: MessageItem) -> Message:
    role = Role.SYSTEM if item.role == "developer" else Role(item.role)
    kinds = {
        Role.SYSTEM: OriginKind.SYSTEM,
        Role.USER: OriginKind.USER,
        Role.ASSISTANT: OriginKind.MODEL,
    }
    return Message(role, (TextPart(item.text, Origin(kinds[role])),) if item.text else ())


def _heard(item: ResultItem, calls: Mapping[str, CallPart]) -> Message:
    name = calls[item.call_id].name if item.call_id in calls else None
    part = ResultPart(item.call_id, item.text, Origin(OriginKind.TOOL, name))
    return Message(Role.TOOL, (part,))


def _shortened(item: CompactionItem) -> Message:
    """A model wrote it, perhaps of what stands in documents: it never speaks for anybody else."""
    words = f"What was said before, in short:\n{item.text}"
    return Message(Role.ASSISTANT, (TextPart(words, Origin(OriginKind.MODEL)),))


def _add_call(messages: list[Message], call: CallPart) -> None:
    """Add a call to what the assistant said just before: for a model both are one message."""
    parts: tuple[Part, ...] = (call,)
    if messages and messages[-1].role is Role.ASSISTANT:
        parts = (*messages.pop().parts, call)
    messages.append(Message(Role.ASSISTANT, parts))


def since_question(items: Sequence[Item]) -> Sequence[Item]:
    """Return what is left of a conversation whose beginning was cut off: from a question on.

    No result loses its call that way; where nobody asks any more, nothing is left.
    """
    for index, item in enumerate(items):
        if isinstance(item, MessageItem) and item.role == "user":
            return items[index:]
    return ()


def encoded(items: Iterable[Item]) -> list[msgspec.Raw]:
    """Return each item's JSON."""
    return [msgspec.Raw(msgspec.json.encode(item)) for item in items]
