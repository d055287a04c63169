"""Deltas become items and the events that tell of them, in the order of the specification. Pure.

A message opens with the first words and closes before whatever is no part of it; a call is whole
when it comes, so all its events come at once. Every event has the next number.
"""

from collections.abc import Collection, Iterable
from typing import Any

import msgspec

from murmurate.core.errors import EngineFailedError, MurmurateError
from murmurate.core.types import (
    Citation,
    Cited,
    Delta,
    Diverted,
    Finished,
    FinishReason,
    Frozen,
    Text,
    ToolCall,
    Usage,
)
from murmurate.gateway.responses.items import (
    CallItem,
    FileCitation,
    Item,
    MessageItem,
    OutputText,
    Status,
)
from murmurate.gateway.responses.resource import Incomplete, Resource, failed_of, tokens_of

DONE = b"data: [DONE]\n\n"
"""How every stream ends, after the specification."""


class Event(Frozen, frozen=True):
    """Something that happened to a response."""

    sequence_number: int


class Told(Event, frozen=True):
    """The whole response, at a turn of its life."""

    response: Resource


class Created(Told, frozen=True, tag="response.created"):
    """It was accepted."""


class Queued(Told, frozen=True, tag="response.queued"):
    """It waits for a server."""


class InProgress(Told, frozen=True, tag="response.in_progress"):
    """It is worked on."""


class Completed(Told, frozen=True, tag="response.completed"):
    """It is there."""


class Unfinished(Told, frozen=True, tag="response.incomplete"):
    """It ended before its end, or was cancelled."""


class Failed(Told, frozen=True, tag="response.failed"):
    """It can't be had."""


class ItemAdded(Event, frozen=True, tag="response.output_item.added"):
    """An item begins."""

    output_index: int
    item: Item


class ItemDone(Event, frozen=True, tag="response.output_item.done"):
    """An item is whole."""

    output_index: int
    item: Item


class PartEvent(Event, frozen=True):
    """Something that happened within an item."""

    item_id: str
    output_index: int
    content_index: int


class PartAdded(PartEvent, frozen=True, tag="response.content_part.added"):
    """A part of a message begins."""

    part: OutputText


class PartDone(PartEvent, frozen=True, tag="response.content_part.done"):
    """A part of a message is whole."""

    part: OutputText


class TextDelta(PartEvent, frozen=True, tag="response.output_text.delta"):
    """More words."""

    delta: str
    logprobs: tuple[()] = ()


class TextDone(PartEvent, frozen=True, tag="response.output_text.done"):
    """All words."""

    text: str
    logprobs: tuple[()] = ()


class AnnotationAdded(PartEvent, frozen=True, tag="response.output_text.annotation.added"):
    """The words rest on a passage."""

    annotation_index: int
    annotation: FileCitation


class ArgumentsDelta(Event, frozen=True, tag="response.function_call_arguments.delta"):
    """More of a call's arguments; here, all of them."""

    item_id: str
    output_index: int
    delta: str


class ArgumentsDone(Event, frozen=True, tag="response.function_call_arguments.done"):
    """All of a call's arguments."""

    item_id: str
    output_index: int
    arguments: str
    name: str


class Trouble(Event, frozen=True, tag="error"):
    """An error in mid-stream: nested after Open Responses, and flat as OpenAI has it."""

    code: str | None
    message: str
    param: str | None
    error: dict[str, Any]


def frames(events: Iterable[Event]) -> bytes:
    """Return events as server-sent events; the name of each is its type."""
    return b"".join(
        b"event: %b\ndata: %b\n\n" % (_name(event), msgspec.json.encode(event)) for event in events
    )


def trouble_of(number: int, error: MurmurateError) -> Event:
    """Return the event of an error."""
    told = {"type": error.kind, "code": error.code, "message": error.detail}
    payload = {**told, "param": error.param}
    return Trouble(number, error.code, error.detail, error.param, payload)


def _name(event: Event) -> bytes:
    return str(event.__struct_config__.tag).encode()


class Output:
    """The output of one response, growing delta by delta."""

    def __init__(
        self, response: Resource, *, first: int = 0, allowed: Collection[str] | None = None
    ) -> None:
        """`first` is the number of the first event; only `allowed` functions may be called."""
        self._response = response
        self._suffix = response.id.partition("_")[2]
        self._number = first
        self._allowed = allowed
        self._items: list[Item] = []
        self._words: list[str] | None = None
        """The open message's; None while none is open."""
        self._chars = 0
        self._citations: list[FileCitation] = []
        self._usage: Usage | None = None
        self._reason = FinishReason.STOP

    def opening(self) -> list[Event]:
        """Return the events with which every answer begins."""
        return [Created(self._next(), self._response), InProgress(self._next(), self._response)]

    def take(self, delta: Delta) -> list[Event]:
        """Take the next delta; return what it means to the client.

        `EngineFailedError`: a call of a function that the client did not allow.
        """
        match delta:
            case Text(text):
                events = self._message()
                assert self._words is not None
                self._words.append(text)
                self._chars += len(text)
                return [*events, TextDelta(self._next(), *self._part, text)]
            case Cited(citations):
                return [*self._message(), *(self._cited(it) for it in citations)]
            case ToolCall():
                return [*self._closed("completed"), *self._called(delta)]
            case Diverted():
                return []  # told in the response's headers
            case Usage():
                self._usage = delta if self._usage is None else self._usage.plus(delta)
                return []
            case Finished(reason):
                return self._finished(reason)

    def whole(self, completed_at: int) -> Resource:
        """Return the response after its last delta."""
        short = self._reason is FinishReason.LENGTH
        return msgspec.structs.replace(
            self._so_far(),
            status="incomplete" if short else "completed",
            completed_at=None if short else completed_at,
            incomplete_details=Incomplete("max_output_tokens") if short else None,
        )

    def broken(self, error: MurmurateError) -> Resource:
        """Return the response as far as it came before the error."""
        number = self._number
        self._closed("incomplete")  # nobody is told of that: the error says it
        self._number = number
        return failed_of(self._so_far(), error)

    def ending(self, response: Resource) -> list[Event]:
        """Return the event that tells the response's end."""
        kinds: dict[str, type[Told]] = {"completed": Completed, "failed": Failed}
        return [kinds.get(response.status, Unfinished)(self._next(), response)]

    def trouble(self, error: MurmurateError) -> Event:
        """Return the event of an error; what it ends is told by `ending`."""
        return trouble_of(self._next(), error)

    def last_words(self, error: MurmurateError) -> bytes:
        """Return how a stream ends that breaks off."""
        return frames([self.trouble(error), *self.ending(self.broken(error))]) + DONE

    @property
    def _part(self) -> tuple[str, int, int]:
        """The place of the open message's only part."""
        index = len(self._items)
        return f"msg_{self._suffix}_{index}", index, 0

    def _so_far(self) -> Resource:
        usage = None if self._usage is None else tokens_of(self._usage)
        return msgspec.structs.replace(self._response, output=tuple(self._items), usage=usage)

    def _message(self) -> list[Event]:
        """Open a message where none is open."""
        if self._words is not None:
            return []
        self._words, self._chars, self._citations = [], 0, []
        item_id, index, _ = self._part
        added = ItemAdded(self._next(), index, MessageItem(item_id, "in_progress", "assistant", ()))
        return [added, PartAdded(self._next(), *self._part, OutputText(""))]

    def _closed(self, status: Status) -> list[Event]:
        """Close the open message, if there is one."""
        if self._words is None:
            return []
        part = OutputText("".join(self._words), tuple(self._citations))
        place = self._part
        item = MessageItem(place[0], status, "assistant", (part,))
        self._items.append(item)
        self._words = None
        return [
            TextDone(self._next(), *place, part.text),
            PartDone(self._next(), *place, part),
            ItemDone(self._next(), place[1], item),
        ]

    def _cited(self, citation: Citation) -> Event:
        annotation = FileCitation(
            file_id=citation.document,
            filename=citation.path,
            index=self._chars,
            start_index=citation.start,
            end_index=citation.end,
            first_line=citation.line_first,
            last_line=citation.line_last,
            page=citation.page,
            quote=citation.quote,
            score=round(citation.score, 4),
        )
        self._citations.append(annotation)
        number = len(self._citations) - 1
        return AnnotationAdded(self._next(), *self._part, number, annotation)

    def _called(self, call: ToolCall) -> list[Event]:
        if self._allowed is not None and call.name not in self._allowed:
            raise EngineFailedError(
                f"the model called {call.name[:64]!r}, which `tool_choice` does not allow"
            )
        index = len(self._items)
        begun = CallItem(f"fc_{self._suffix}_{index}", call.id, call.name, "", "in_progress")
        done = msgspec.structs.replace(begun, arguments=call.arguments, status="completed")
        self._items.append(done)
        return [
            ItemAdded(self._next(), index, begun),
            ArgumentsDelta(self._next(), begun.id, index, call.arguments),
            ArgumentsDone(self._next(), begun.id, index, call.arguments, call.name),
            ItemDone(self._next(), index, done),
        ]

    def _finished(self, reason: FinishReason) -> list[Event]:
        """Close what is open. An answer without a word is an empty message, as in a chat."""
        self._reason = reason
        events = [] if self._items else self._message()
        short = reason is FinishReason.LENGTH
        return [*events, *self._closed("incomplete" if short else "completed")]

    def _next(self) -> int:
        self._number += 1
        return self._number - 1
