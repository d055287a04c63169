"""What was used, and what it cost."""

from datetime import UTC, date, datetime, timedelta

from murmurate.core.clock import Clock
from murmurate.core.errors import BadRequestError, ForbiddenError
from murmurate.core.ports import Span
from murmurate.core.types import Caller
from murmurate.gateway.exchange import Exchange
from murmurate.gateway.ports import Ledger
from murmurate.gateway.scopes import is_operator

DAYS_DEFAULT = 30
BY_DEFAULT = "day,model"
PARAMETERS = ("since", "until", "by", "tenant")


class Usages:
    """The route of the book."""

    def __init__(self, ledger: Ledger, *, currency: str, clock: Clock) -> None:
        self._ledger = ledger
        self._currency = currency
        self._clock = clock

    async def sums(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """Return what the tenant has used: requests, calls of engines, tokens, and their cost.

        Parameters of the query: `since` and `until` (days, UTC, both included; the last 30), `by`
        (of `day`, `hour`, `key`, `model`, with commas; `day,model`), and for operators `tenant`.
        Costs are in picos, millionths of a millionth, of `currency`.
        """
        del span
        asked = exchange.query()
        for name in asked:
            if name not in PARAMETERS:
                raise BadRequestError(
                    f"{name[:64]}: expected one of {', '.join(PARAMETERS)}", param=name[:64]
                )
        today = datetime.fromtimestamp(self._clock.unix_ms() / 1000, UTC).date()
        until = _day("until", asked["until"]) if "until" in asked else today
        first = until - timedelta(days=DAYS_DEFAULT - 1)
        since = _day("since", asked["since"]) if "since" in asked else first
        tenant = asked.get("tenant", caller.tenant)
        if tenant != caller.tenant and not is_operator(caller):
            raise ForbiddenError("tenant: only a key with the scope 'operator' may name another")
        by = [part for part in asked.get("by", BY_DEFAULT).split(",") if part]
        rows = await self._ledger.sums(tenant, since, until, by)
        days = {"since": since.isoformat(), "until": until.isoformat()}
        await exchange.answer_json(
            200, {"tenant": tenant, "currency": self._currency, **days, "rows": rows}
        )


def _day(name: str, text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise BadRequestError(
            f"{name} = {text[:64]!r}: expected a day such as 2026-11-21", param=name
        ) from None
