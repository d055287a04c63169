"""The values that travel down the chain. All frozen; none knows how to do I/O."""

from enum import StrEnum
from typing import Any

import msgspec


class Frozen(msgspec.Struct, frozen=True):
    """Base of all values: immutable, comparable, encodable."""


class Lane(StrEnum):
    """How urgently a request must be answered."""

    URGENT = "urgent"
    BATCH = "batch"


class Role(StrEnum):
    """Who speaks in a message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class OriginKind(StrEnum):
    """Where a piece of content comes from; permissions are decided by it."""

    USER = "user"
    SYSTEM = "system"
    TOOL = "tool"
    DOCUMENT = "document"
    MODEL = "model"


class Origin(Frozen, frozen=True):
    """The source of a content part: `name` says which tool, document or model."""

    kind: OriginKind
    name: str | None = None


class TextPart(Frozen, frozen=True, tag="text"):
    """Plain text."""

    text: str
    origin: Origin


class CallPart(Frozen, frozen=True, tag="call"):
    """The model asks for a tool. `arguments` is a JSON object as text, as the model said it."""

    id: str
    name: str
    arguments: str


class ResultPart(Frozen, frozen=True, tag="result"):
    """What a tool answered to the call of that id."""

    call_id: str
    text: str
    origin: Origin


Part = TextPart | CallPart | ResultPart


class Message(Frozen, frozen=True):
    """One turn of a conversation, in parts."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """All its plain text."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))


class Tool(Frozen, frozen=True):
    """A tool as a model sees it. `parameters` is a JSON schema as text."""

    name: str
    description: str
    parameters: str


class Sampling(Frozen, frozen=True):
    """How the model draws its tokens; None leaves the choice to the model's own configuration.

    `options` are further engine options (JSON values by name) that travel to the engine unread.
    """

    tokens_max: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    options: dict[str, Any] = {}


class TraceRef(Frozen, frozen=True):
    """The place in a trace (W3C ids) where the next span hangs, and whose it is.

    A trace id can come from a client and proves nothing, so the tenant travels beside it, from the
    root span down. So does what the wall clock showed: it may be set while a request is under way.
    """

    trace_id: str
    span_id: str | None = None
    tenant: str | None = None
    wall_ns: int | None = None
    """What to add to the clock's own time for the time since 1970."""


class SessionRef(Frozen, frozen=True):
    """The stored session that a request continues, or, when new, starts."""

    id: str
    new: bool = False


class Once(Frozen, frozen=True):
    """A key under which something is asked once, however often it is sent."""

    key: str
    asks: str
    """A fingerprint of what is asked: the same key with another one is a mistake."""


class Request(Frozen, frozen=True, kw_only=True):
    """One question to a model, already authenticated, admitted and validated."""

    id: str
    tenant: str
    model: str
    key: str = ""
    """The key that asks; empty where none does, as for a schedule."""
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    sampling: Sampling = Sampling()
    lane: Lane = Lane.URGENT
    scopes: tuple[str, ...] = ()
    session: SessionRef | None = None
    trace: TraceRef


class Text(Frozen, frozen=True, tag="text"):
    """A piece of the answer's text."""

    text: str


class ToolCall(Frozen, frozen=True, tag="tool_call"):
    """A whole tool call; never a fragment, so nobody above has to join any."""

    id: str
    name: str
    arguments: str


class Citation(Frozen, frozen=True):
    """Where a quoted passage stands: characters and lines of the document's extracted text.

    `page` counts from 1; None where the document has no pages.
    """

    document: str
    path: str
    start: int
    end: int
    line_first: int
    line_last: int
    quote: str
    score: float
    page: int | None = None


class Cited(Frozen, frozen=True, tag="cited"):
    """The passages that the answer rests on."""

    citations: tuple[Citation, ...]


class Usage(Frozen, frozen=True, tag="usage"):
    """Tokens of one model call; an agent's answer carries the sum of its calls."""

    tokens_in: int
    tokens_out: int
    tokens_cached: int = 0

    def plus(self, other: "Usage") -> "Usage":
        """Return the sum."""
        return Usage(
            self.tokens_in + other.tokens_in,
            self.tokens_out + other.tokens_out,
            self.tokens_cached + other.tokens_cached,
        )


class FinishReason(StrEnum):
    """Why the answer ended."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"


class Finished(Frozen, frozen=True, tag="finished"):
    """The last delta of every answer.

    One that is not `repeatable` must not be cached: it changed something, or a tool failed on the
    way and may not fail again.
    """

    reason: FinishReason
    repeatable: bool = True


Delta = Text | ToolCall | Cited | Usage | Finished


class Passage(Frozen, frozen=True):
    """A retrieved piece of a document.

    `score` says its place in the search: 1 for the first, 1/2 for the second; `confidence`
    (0 to 1) is the measured chance that the passage answers the question, which thresholds are
    set on. A passage never crosses the end of a page; `page` is None where the document has none.
    """

    document: str
    collection: str
    path: str
    text: str
    start: int
    end: int
    line_first: int
    line_last: int
    score: float
    confidence: float
    page: int | None = None


class Caller(Frozen, frozen=True):
    """Who a key belongs to, what it may do, and where its requests wait when they don't say."""

    key_id: str
    tenant: str
    scopes: tuple[str, ...] = ("*",)
    lane: Lane = Lane.URGENT
