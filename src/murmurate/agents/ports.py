"""What agents need of the rest: tools, a sandbox, and how passages become a quoted answer."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Protocol

from murmurate.core.types import Citation, Frozen, Origin, Passage, Tool, TraceRef


class Effect(StrEnum):
    """What a tool does to the world. Only answers made by readers alone may be cached."""

    READ = "read"
    WRITE = "write"


class ToolContext(Frozen, frozen=True):
    """On whose behalf, and for which question, a tool runs."""

    tenant: str
    question: str
    collections: tuple[str, ...]
    verbatim: bool
    """Search for the question itself, not for what a model made of it: the answer is a quotation,
    and must answer what was asked."""
    trace: TraceRef
    key: str
    """The idempotency key of this call: after a crash it comes again with the same one. A tool that
    changes something hands it on to whatever it changes."""


class ToolResult(Frozen, frozen=True):
    """What a tool found: JSON text for the model; `passages` (None: not a search) for quoting."""

    text: str
    origin: Origin
    passages: tuple[Passage, ...] | None = None
    failed: bool = False


class AgentTool(Protocol):
    """Something an agent can do."""

    @property
    def spec(self) -> Tool:
        """How the model sees it."""
        ...

    @property
    def effect(self) -> Effect:
        """What it does to the world."""
        ...

    async def call(self, arguments: str, context: ToolContext) -> ToolResult:
        """Run with the model's arguments (JSON text). `ToolFailedError` tells the model why not."""
        ...


class SnippetOutcome(Protocol):
    """The value (JSON text) that a snippet came to, or its error."""

    @property
    def value(self) -> str | None:
        """The value, None when it failed."""
        ...

    @property
    def error(self) -> str | None:
        """What went wrong, None when it did not."""
        ...


class Sandbox(Protocol):
    """Runs a snippet of Python without files, network or unbounded time and memory."""

    async def run(self, code: str) -> SnippetOutcome:
        """Return what it came to."""
        ...


Quoter = Callable[[str, Sequence[Passage]], Citation | None]
"""Picks the words of the passages that answer the question, or None when none does."""
