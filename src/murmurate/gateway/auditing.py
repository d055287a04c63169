"""`GET /api/audit`: the trail, for admins of a tenant and for operators."""

from typing import Any

from murmurate.core.clock import Clock
from murmurate.core.errors import BadRequestError, ForbiddenError
from murmurate.core.ports import Span
from murmurate.core.types import Caller
from murmurate.gateway.audit import Asked, Audit, Trail
from murmurate.gateway.exchange import Exchange
from murmurate.gateway.keys import REGISTRY
from murmurate.gateway.scopes import is_operator
from murmurate.gateway.times import past_ms, shown

LIMIT_DEFAULT, LIMIT_MAX = 50, 200
TEXT_CHARS_MAX = 300
TEXTS = ("action", "by", "key")
NUMBERS = ("limit", "before", "after")
PARAMETERS = ("tenant", "since", *TEXTS, *NUMBERS)
SINCE_MS_MAX = 3650 * 86_400_000


class Auditing:
    """The route of the trail."""

    def __init__(self, trail: Trail, *, clock: Clock) -> None:
        self._trail = trail
        self._clock = clock

    async def listing(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """List who did what, when, from where, and how it ended, the newest first.

        Of the caller's tenant; of all tenants for operators, or of `tenant`. Parameters of the
        query: `action` (`key`, or `key.created`), `by`, `key`, `since` (`7d`, `2027-01-31`),
        `limit` (50, at most 200), `before` (an entry's `number`; the answer's `more` goes on) and
        `after` (oldest first, to follow). What was refused is counted, by the minute.
        """
        del span
        asked = self._asked(exchange.query(), caller)
        page = await self._trail.page(asked)
        entries = [_shown(number, audit) for number, audit in page.entries]
        await exchange.answer_json(200, {"entries": entries, "more": page.more})

    def _asked(self, query: dict[str, str], caller: Caller) -> Asked:
        for name in query:
            if name not in PARAMETERS:
                known = ", ".join(PARAMETERS)
                raise BadRequestError(f"{name[:64]}: expected one of {known}", param=name[:64])
        operator = is_operator(caller)
        if query.get("tenant", caller.tenant) != caller.tenant and not operator:
            raise ForbiddenError("tenant: only a key with the scope 'operator' may name another")
        numbers = {name: _number(name, query[name]) for name in NUMBERS if name in query}
        limit = numbers.get("limit", LIMIT_DEFAULT)
        if not 1 <= limit <= LIMIT_MAX:
            raise BadRequestError(f"limit = {limit}: expected 1 to {LIMIT_MAX}", param="limit")
        texts = {name: query[name][:TEXT_CHARS_MAX] for name in TEXTS if name in query}
        return Asked(
            reader=REGISTRY if operator else caller.tenant,
            tenant=query.get("tenant"),
            action=texts.get("action"),
            by=texts.get("by"),
            key=texts.get("key"),
            since_ms=past_ms(
                query["since"], now_ms=self._clock.unix_ms(), param="since", max_ms=SINCE_MS_MAX
            )
            if "since" in query
            else None,
            before=numbers.get("before"),
            after=numbers.get("after"),
            limit=limit,
        )

    def _since_ms(self, text: str) -> int:
        return past_ms(text, now_ms=self._clock.unix_ms(), param="since", max_ms=SINCE_MS_MAX)


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise BadRequestError(f"{name} = {text[:64]!r}: expected a number", param=name)
    return int(text)


def _shown(number: int, audit: Audit) -> dict[str, Any]:
    """Return an entry as people read it."""
    return {
        "number": number,
        "at": shown(audit.at_ms),
        "action": audit.action,
        "result": audit.result,
        "tenant": audit.tenant,
        "by": audit.by,
        "by_tenant": audit.by_tenant,
        "place": audit.place,
        "key": audit.key or None,
        "facts": audit.facts,
    }
