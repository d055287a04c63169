"""Conversations: items kept under one id until somebody deletes them, in the log.

`conversation/ID` begins with what it was made of; then come the items of each turn, and what was
changed. Nothing is rewritten: an item that was deleted is no longer told, and goes with its
conversation.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from enum import StrEnum
from typing import Literal

import msgspec

from murmurate.core.errors import BadRequestError, LogCorruptError, NotFoundError
from murmurate.core.ports import Entry, Log, Stored
from murmurate.core.types import Frozen
from murmurate.gateway.responses.items import Item, encoded, since_question

ITEMS_MAX = 10_000
BYTES_MAX = 16 * 1024 * 1024
"""How much a conversation may hold; then it takes nothing more."""
TOLD_BYTES_MAX = 4 * 1024 * 1024
"""How much of it a response goes on from."""


class Kind(StrEnum):
    """The kinds of a conversation's entries."""

    BEGUN = "conversation.begun"
    ITEMS = "conversation.items"
    UPDATED = "conversation.updated"
    DROPPED = "conversation.dropped"


class Begun(Frozen, frozen=True):
    """What it was made of."""

    metadata: dict[str, str]
    items: tuple[Item, ...]


class Added(Frozen, frozen=True):
    """What somebody said."""

    items: tuple[Item, ...]


class Updated(Frozen, frozen=True):
    """Other metadata."""

    metadata: dict[str, str]


class Dropped(Frozen, frozen=True):
    """An item was deleted."""

    item: str


class Conversation(Frozen, frozen=True, kw_only=True):
    """A conversation as clients see it."""

    id: str
    object: Literal["conversation"] = "conversation"
    created_at: int
    metadata: dict[str, str]


class Talk(Frozen, frozen=True):
    """A conversation and what was said in it, in order; `size` counts what is stored of it."""

    conversation: Conversation
    items: tuple[Item, ...]
    size: int


class Conversations:
    """Keeps conversations. What is another tenant's is `NotFoundError`."""

    def __init__(
        self,
        log: Log,
        *,
        items_max: int = ITEMS_MAX,
        bytes_max: int = BYTES_MAX,
        told_bytes_max: int = TOLD_BYTES_MAX,
    ) -> None:
        self._log = log
        self._items_max = items_max
        self._bytes_max = bytes_max
        self._told_bytes_max = told_bytes_max

    async def begin(self, tenant: str, conversation_id: str, begun: Begun) -> None:
        """Make a conversation."""
        await self._append(tenant, conversation_id, Kind.BEGUN, begun)

    async def read(self, tenant: str, conversation_id: str) -> Talk:
        """Return a conversation with all its items."""
        async with aclosing(self._log.read(tenant, stream_of(conversation_id))) as entries:
            talk = await folded(conversation_id, entries)
        if talk is None:
            raise NotFoundError(f"there is no conversation {conversation_id[:64]!r}")
        return talk

    async def add(self, tenant: str, conversation_id: str, items: Sequence[Item]) -> None:
        """Add items at its end. `BadRequestError`: it is full, or has one of them already."""
        talk = await self.read(tenant, conversation_id)
        self.check_room(talk, items)
        known = {item.id for item in talk.items}
        for index, item in enumerate(items):
            if item.id in known:
                where = f"items[{index}].id"
                raise BadRequestError(
                    f"{where}: {conversation_id} has an item {item.id!r} already", param=where
                )
        await self._log.append([added(tenant, conversation_id, items)])

    def check_room(self, talk: Talk, items: Sequence[Item]) -> None:
        """Refuse what a conversation has no room for."""
        size = talk.size + sum(len(bytes(raw)) for raw in encoded(items))
        if len(talk.items) + len(items) > self._items_max or size > self._bytes_max:
            raise BadRequestError(
                f"conversation: {talk.conversation.id} is full: it has {len(talk.items)} items in"
                f" {talk.size} bytes, and the most is {self._items_max} in {self._bytes_max}; begin"
                " a new one",
                param="conversation",
            )

    def history(self, talk: Talk, *, may_cut: bool) -> Sequence[Item]:
        """Return what a response goes on from: all of it, or, where it may be cut, the newest."""
        size = 0
        for index in range(len(talk.items) - 1, -1, -1):
            size += len(msgspec.json.encode(talk.items[index]))
            if size <= self._told_bytes_max:
                continue
            if not may_cut:
                raise BadRequestError(
                    f"conversation: {talk.conversation.id} has more than {self._told_bytes_max}"
                    ' bytes: let it be truncated ("truncation": "auto"), or begin a new one',
                    param="conversation",
                )
            return since_question(talk.items[index + 1 :])
        return talk.items

    async def update(
        self, tenant: str, conversation_id: str, metadata: dict[str, str]
    ) -> Conversation:
        """Give it other metadata; return it."""
        talk = await self.read(tenant, conversation_id)
        await self._append(tenant, conversation_id, Kind.UPDATED, Updated(metadata))
        return msgspec.structs.replace(talk.conversation, metadata=metadata)

    async def drop(self, tenant: str, conversation_id: str, item_id: str) -> Conversation:
        """Delete an item; return the conversation."""
        talk = await self.read(tenant, conversation_id)
        item_of(talk, item_id)
        await self._append(tenant, conversation_id, Kind.DROPPED, Dropped(item_id))
        return talk.conversation

    async def forget(self, tenant: str, conversation_id: str) -> None:
        """Delete a conversation with all that was said in it."""
        await self.read(tenant, conversation_id)
        await self._log.forget(tenant, stream_of(conversation_id))

    async def _append(self, tenant: str, conversation_id: str, kind: Kind, body: Frozen) -> None:
        encoding = msgspec.json.encode(body)
        await self._log.append([Entry(tenant, stream_of(conversation_id), kind.value, encoding)])


def stream_of(conversation_id: str) -> str:
    """Return the log's stream of a conversation."""
    return f"conversation/{conversation_id}"


def added(tenant: str, conversation_id: str, items: Sequence[Item]) -> Entry:
    """Return the entry that adds items to a conversation."""
    body = msgspec.json.encode(Added(tuple(items)))
    return Entry(tenant, stream_of(conversation_id), Kind.ITEMS.value, body)


def item_of(talk: Talk, item_id: str) -> Item:
    """Return an item of a conversation, or `NotFoundError`."""
    for item in talk.items:
        if item.id == item_id:
            return item
    raise NotFoundError(f"{talk.conversation.id} has no item {item_id[:64]!r}")


async def folded(conversation_id: str, entries: AsyncGenerator[Stored]) -> Talk | None:
    """Return what the entries of a conversation amount to; None where it was never begun.

    An item that comes twice stays where it was: clients send again what they were told.
    """
    items: dict[str, Item] = {}
    conversation: Conversation | None = None
    size = 0
    async for stored in entries:
        size += len(stored.body)
        try:
            if stored.kind == Kind.BEGUN:
                begun = msgspec.json.decode(stored.body, type=Begun)
                conversation = Conversation(
                    id=conversation_id,
                    created_at=stored.at_ms // 1000,
                    metadata=begun.metadata,
                )
                items = {item.id: item for item in begun.items}
            elif conversation is not None:
                conversation = _changed(conversation, items, stored)
        except msgspec.MsgspecError as cause:
            raise LogCorruptError(
                f"entry {stored.seq} of {conversation_id} can't be read"
            ) from cause
    return conversation and Talk(conversation, tuple(items.values()), size)


def _changed(conversation: Conversation, items: dict[str, Item], stored: Stored) -> Conversation:
    match stored.kind:
        case Kind.ITEMS:
            for item in msgspec.json.decode(stored.body, type=Added).items:
                items.setdefault(item.id, item)
        case Kind.DROPPED:
            items.pop(msgspec.json.decode(stored.body, type=Dropped).item, None)
        case Kind.UPDATED:
            metadata = msgspec.json.decode(stored.body, type=Updated).metadata
            return msgspec.structs.replace(conversation, metadata=metadata)
        case _:
            pass  # a later version's word
    return conversation
