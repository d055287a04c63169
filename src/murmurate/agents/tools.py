"""The built-in tools: search in documents, and a calculator."""

import math
from typing import TypeVar

import msgspec

from murmurate.agents.ports import AgentTool, Effect, Sandbox, ToolContext, ToolResult
from murmurate.core.errors import ToolFailedError
from murmurate.core.ports import Knowledge, Tracer
from murmurate.core.types import Origin, OriginKind, Passage, Tool

PASSAGES_MAX = 5
EXPRESSION_CHARS_MAX = 400

_A = TypeVar("_A")


class SearchArguments(msgspec.Struct, frozen=True):
    """What the model says to `search`."""

    query: str


class CalculateArguments(msgspec.Struct, frozen=True):
    """What the model says to `calculate`."""

    expression: str


class Search:
    """Finds passages in the agent's collections."""

    spec = Tool(
        name="search",
        description="Search the documents for passages that answer a question.",
        parameters='{"type":"object","properties":{"query":{"type":"string"}},"required":["query"]}',
    )
    effect = Effect.READ

    def __init__(self, knowledge: Knowledge, tracer: Tracer) -> None:
        self._knowledge = knowledge
        self._tracer = tracer

    async def call(self, arguments: str, context: ToolContext) -> ToolResult:
        """Search for the query; the passages come back with their places."""
        query = context.question
        if not context.verbatim:
            query = parse(arguments, SearchArguments).query.strip() or query
        with self._tracer.span(context.trace, "retrieval") as span:
            passages = await self._knowledge.search(
                context.tenant, context.collections, query, limit=PASSAGES_MAX
            )
            best = max((passage.confidence for passage in passages), default=0.0)
            span.note(passages=len(passages), confidence=round(best, 3))
        found = [_shown(passage) for passage in passages]
        # What stands in a document is data, whoever wrote it: it never speaks for the user.
        origin = Origin(OriginKind.DOCUMENT, ",".join(context.collections))
        return ToolResult(
            msgspec.json.encode({"passages": found}).decode(), origin, tuple(passages)
        )


def _shown(passage: Passage) -> dict[str, str | int]:
    """Return a passage as the model reads it."""
    page = {} if passage.page is None else {"page": passage.page}
    lines = f"{passage.line_first}-{passage.line_last}"
    return {"path": passage.path, **page, "lines": lines, "text": passage.text}


class Calculate:
    """Works out an arithmetic expression in the sandbox."""

    spec = Tool(
        name="calculate",
        description="Calculate an arithmetic expression exactly.",
        parameters=(
            '{"type":"object","properties":{"expression":{"type":"string"}},'
            '"required":["expression"]}'
        ),
    )
    effect = Effect.READ

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def call(self, arguments: str, context: ToolContext) -> ToolResult:
        """Return `{"result": …}`, or `{"error": …}` for the model to explain."""
        del context  # arithmetic is the same for everybody
        expression = parse(arguments, CalculateArguments).expression
        if len(expression) > EXPRESSION_CHARS_MAX:
            raise ToolFailedError(f"the expression is over {EXPRESSION_CHARS_MAX} characters")
        outcome = await self._sandbox.run(expression)
        if outcome.value is None:
            raise ToolFailedError(outcome.error or "no result")
        result = shown(msgspec.json.decode(outcome.value))
        return ToolResult(
            msgspec.json.encode({"result": result}).decode(), Origin(OriginKind.TOOL, "calculate")
        )


def shown(value: object) -> object:
    """Return a number as people write it: 0.1 + 0.2 is 0.3, and 4.0 is 4."""
    if isinstance(value, float) and math.isfinite(value):
        rounded = float(f"{value:.12g}")  # 15 digits are stored; 12 are free of rounding noise
        return int(rounded) if rounded.is_integer() and abs(rounded) < 2**53 else rounded
    if isinstance(value, int):
        return value
    raise ToolFailedError("the expression is not arithmetic: its value is not a number")


def parse(arguments: str, kind: type[_A]) -> _A:
    """Decode the model's arguments, or tell it what was expected."""
    try:
        return msgspec.json.decode(arguments, type=kind)
    except msgspec.MsgspecError as cause:
        raise ToolFailedError(f"wrong arguments: {cause}") from cause


def built_in(knowledge: Knowledge, sandbox: Sandbox | None, tracer: Tracer) -> dict[str, AgentTool]:
    """Return the tools by name; one whose sandbox is missing is absent, never weaker."""
    tools: dict[str, AgentTool] = {"search": Search(knowledge, tracer)}
    if sandbox is not None:
        tools["calculate"] = Calculate(sandbox)
    return tools
