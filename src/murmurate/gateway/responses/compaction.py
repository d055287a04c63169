"""`POST /v1/responses/compact`: a long conversation becomes its questions and a summary.

A model writes the summary; it comes back as a `compaction` item that later requests begin with.
"""

from collections.abc import Iterable, Sequence
from contextlib import aclosing
from typing import Annotated

import msgspec
from msgspec import Meta

from murmurate.core.clock import Clock
from murmurate.core.errors import BadRequestError, EngineFailedError
from murmurate.core.ids import Ids
from murmurate.core.ports import Model, Span
from murmurate.core.types import (
    Caller,
    Delta,
    Message,
    Origin,
    OriginKind,
    Role,
    Sampling,
    Text,
    TextPart,
    Usage,
)
from murmurate.gateway.exchange import Exchange
from murmurate.gateway.measured import Measured
from murmurate.gateway.ports import Meter
from murmurate.gateway.requests import Question, Requests
from murmurate.gateway.responses.body import ITEMS_MAX, Id, ItemBody, Key
from murmurate.gateway.responses.input import items_of
from murmurate.gateway.responses.items import (
    CallItem,
    CompactionItem,
    Item,
    MessageItem,
    ReasoningItem,
    ResultItem,
)
from murmurate.gateway.responses.resource import tokens_of
from murmurate.gateway.responses.store import Store
from murmurate.gateway.validate import decode

SUMMARY_TOKENS_MAX = 1024
TASK = (
    "Summarise the conversation that the user shows you. Keep names, numbers, decisions, results of"
    " tools and what is still to be done. Answer with the summary alone."
)


class CompactBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /v1/responses/compact`."""

    model: str
    input: str | Annotated[list[ItemBody], Meta(max_length=ITEMS_MAX)] | None = None
    instructions: str | None = None
    previous_response_id: Id | None = None
    prompt_cache_key: Key | None = None


class Compaction:
    """Asks a model for summaries."""

    def __init__(
        self,
        model: Model,
        *,
        store: Store,
        requests: Requests,
        body_bytes_max: int,
        clock: Clock,
        ids: Ids,
        meter: Meter,
    ) -> None:
        self._answer = Measured(model, clock=clock, meter=meter).answer
        self._store = store
        self._requests = requests
        self._body_bytes_max = body_bytes_max
        self._clock = clock
        self._ids = ids

    async def compact(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """Shorten a conversation to its questions and a summary of all of it.

        The body is `{"model", "input", "previous_response_id", "instructions"}`; of an agent, its
        model writes the summary. Nothing is stored.
        """
        body = decode(await exchange.body(self._body_bytes_max), CompactBody)
        model = await self._requests.model_of(exchange, caller, body.model)
        compaction_id = self._ids.new("resp")
        given = items_of(body.input, compaction_id.partition("_")[2])
        before = await self._store.history(caller.tenant, body.previous_response_id, may_cut=False)
        items = [*before, *await self._store.resolved(caller.tenant, given, near=before)]
        if not items:
            raise BadRequestError("input: there is nothing to compact", param="input")
        question = Question(
            model=model,
            messages=task_of(body.instructions, items),
            sampling=Sampling(tokens_max=SUMMARY_TOKENS_MAX),
        )
        request = self._requests.asking(exchange, caller, question, span)
        span.note(model=model, lane=request.lane.value)

        async def answer() -> None:
            async with aclosing(self._answer(exchange, request, span)) as deltas:
                said = [delta async for delta in deltas]
            made = compacted(items, said, compaction_id, self._clock.unix_ms() // 1000)
            await exchange.answer_json(200, made)

        await exchange.while_connected(answer())


def task_of(instructions: str | None, items: Iterable[Item]) -> tuple[Message, ...]:
    """Return what the model is asked: the conversation is text to it, and not its own."""
    task = TASK if not instructions else f"{TASK}\n\n{instructions}"
    told = "\n".join(line for item in items if (line := _told(item)))
    return (
        Message(Role.SYSTEM, (TextPart(task, Origin(OriginKind.SYSTEM)),)),
        Message(Role.USER, (TextPart(told, Origin(OriginKind.USER)),)),
    )


def _told(item: Item) -> str | None:
    match item:
        case MessageItem():
            return f"{item.role}: {item.text}"
        case CallItem():
            return f"tool {item.name} is called with {item.arguments}"
        case ResultItem():
            return f"the tool answers: {item.text}"
        case CompactionItem():
            return f"before: {item.text}"
        case ReasoningItem():
            return None


def compacted(
    items: Sequence[Item], said: Iterable[Delta], compaction_id: str, created_at: int
) -> dict[str, object]:
    """Return the compaction in the specification's form. `EngineFailedError`: nothing was said."""
    summary, usage = "", Usage(0, 0)
    for delta in said:
        if isinstance(delta, Text):
            summary += delta.text
        elif isinstance(delta, Usage):
            usage = usage.plus(delta)
    if not summary.strip():
        raise EngineFailedError("the model wrote no summary: try another model")
    asked = [item for item in items if isinstance(item, MessageItem) and item.role == "user"]
    suffix = compaction_id.partition("_")[2]
    return {
        "id": compaction_id,
        "object": "response.compaction",
        "created_at": created_at,
        "output": [*asked, CompactionItem.of(f"cmp_{suffix}_0", summary)],
        "usage": tokens_of(usage),
    }
