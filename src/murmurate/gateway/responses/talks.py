"""The routes of conversations, after OpenAI's Conversations API."""

from typing import Annotated

import msgspec
from msgspec import Meta

from murmurate.core.ids import Ids
from murmurate.core.ports import Span
from murmurate.core.types import Caller
from murmurate.gateway.exchange import Exchange
from murmurate.gateway.responses.body import ItemBody, Metadata
from murmurate.gateway.responses.conversations import Begun, Conversations, item_of
from murmurate.gateway.responses.input import items_of
from murmurate.gateway.responses.items import Item
from murmurate.gateway.responses.pages import asked_page, page
from murmurate.gateway.responses.store import Store
from murmurate.gateway.validate import decode

AT_ONCE_MAX = 20
"""How many items a request may add; OpenAI's number."""

Items = Annotated[list[ItemBody], Meta(max_length=AT_ONCE_MAX)]


class TalkBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /v1/conversations`."""

    items: Items | None = None
    metadata: Metadata | None = None


class UpdateBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /v1/conversations/{id}`."""

    metadata: Metadata | None


class ItemsBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /v1/conversations/{id}/items`."""

    items: Annotated[list[ItemBody], Meta(min_length=1, max_length=AT_ONCE_MAX)]


class Talks:
    """Makes conversations, shows them and forgets them."""

    def __init__(
        self, conversations: Conversations, *, store: Store, ids: Ids, body_bytes_max: int
    ) -> None:
        self._conversations = conversations
        self._store = store
        self._ids = ids
        self._body_bytes_max = body_bytes_max

    async def begin(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """Begin a conversation: `{"items", "metadata"}`, up to 20 items, or nothing."""
        del span
        body = decode(await exchange.body(self._body_bytes_max) or b"{}", TalkBody)
        items = await self._items(caller.tenant, body.items or [])
        conversation_id = self._ids.new("conv")
        begun = Begun(body.metadata or {}, tuple(items))
        await self._conversations.begin(caller.tenant, conversation_id, begun)
        talk = await self._conversations.read(caller.tenant, conversation_id)
        await exchange.answer_json(200, talk.conversation)

    async def show(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """Show a conversation, without its items."""
        del span
        talk = await self._conversations.read(caller.tenant, _id(exchange))
        await exchange.answer_json(200, talk.conversation)

    async def update(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """Give a conversation other `metadata`."""
        del span
        body = decode(await exchange.body(self._body_bytes_max), UpdateBody)
        updated = await self._conversations.update(
            caller.tenant, _id(exchange), body.metadata or {}
        )
        await exchange.answer_json(200, updated)

    async def forget(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """Delete a conversation with its items; responses that were made in it stay."""
        del span
        conversation_id = _id(exchange)
        await self._conversations.forget(caller.tenant, conversation_id)
        await exchange.answer_json(
            200, {"id": conversation_id, "object": "conversation.deleted", "deleted": True}
        )

    async def add(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """Add up to 20 items to a conversation: `{"items"}`."""
        del span
        body = decode(await exchange.body(self._body_bytes_max), ItemsBody)
        items = await self._items(caller.tenant, body.items)
        await self._conversations.add(caller.tenant, _id(exchange), items)
        await exchange.answer_json(200, page(items, None, len(items)))

    async def listing(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """List the items of a conversation.

        `limit` (1 to 100, 20), `after` (an item's id) and `order` (`desc`, or `asc`).
        """
        del span
        talk = await self._conversations.read(caller.tenant, _id(exchange))
        await exchange.answer_json(200, asked_page(exchange, talk.items))

    async def item(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """Show an item of a conversation."""
        del span
        talk = await self._conversations.read(caller.tenant, _id(exchange))
        await exchange.answer_json(200, item_of(talk, _item_id(exchange)))

    async def drop(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """Delete an item of a conversation; nobody is told of it any more."""
        del span
        conversation = await self._conversations.drop(
            caller.tenant, _id(exchange), _item_id(exchange)
        )
        await exchange.answer_json(200, conversation)

    async def _items(self, tenant: str, given: list[ItemBody]) -> list[Item]:
        suffix = self._ids.new("item").partition("_")[2]
        items = items_of(given, suffix, field="items")
        return await self._store.resolved(tenant, items, field="items")


def _id(exchange: Exchange) -> str:
    return exchange.path.split("/")[3]


def _item_id(exchange: Exchange) -> str:
    return exchange.path.split("/")[5]
