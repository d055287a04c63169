"""Lists of items in pages, as the query of a URL asks for them."""

from collections.abc import Sequence

from murmurate.core.errors import BadRequestError
from murmurate.gateway.exchange import Exchange
from murmurate.gateway.responses.items import Item

LISTED = 20
LISTED_MAX = 100


def asked_page(exchange: Exchange, items: Sequence[Item]) -> dict[str, object]:
    """Return the page of items that `limit`, `after` and `order` ask for; the newest come first."""
    limit = whole_of(exchange, "limit", default=LISTED, least=1, most=LISTED_MAX)
    order = exchange.query().get("order") or "desc"
    if order not in {"asc", "desc"}:
        raise BadRequestError(f"order = {order[:20]!r}: expected asc or desc", param="order")
    return page(items if order == "asc" else items[::-1], exchange.query().get("after"), limit)


def page(items: Sequence[Item], after: str | None, limit: int) -> dict[str, object]:
    """Return a page of items in OpenAI's form. `BadRequestError`: there is no item `after`."""
    start = 0
    if after is not None:
        start = next((n for n, item in enumerate(items, 1) if item.id == after), 0)
        if not start:
            raise BadRequestError(f"after: there is no item {after[:64]!r}", param="after")
    shown = items[start : start + limit]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0].id if shown else None,
        "last_id": shown[-1].id if shown else None,
        "has_more": start + limit < len(items),
    }


def whole_of(exchange: Exchange, name: str, *, default: int, most: int, least: int = 0) -> int:
    """Return a whole number of the query, or `default` where it has none."""
    given = exchange.query().get(name)
    if given is None:
        return default
    if not given.isascii() or not given.isdigit() or not least <= int(given[:12]) <= most:
        raise BadRequestError(
            f"{name} = {given[:20]!r}: expected a number from {least} to {most}", param=name
        )
    return int(given)
