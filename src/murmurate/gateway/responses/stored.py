"""What can be asked of a stored response: itself, its input, its end, that it be forgotten."""

from contextlib import suppress

from murmurate.core.clock import Clock
from murmurate.core.errors import BadRequestError, RunOverError
from murmurate.core.ports import Span
from murmurate.core.types import Caller
from murmurate.gateway.exchange import Exchange
from murmurate.gateway.ports import Runs
from murmurate.gateway.responses.following import Following
from murmurate.gateway.responses.pages import asked_page, whole_of
from murmurate.gateway.responses.resource import ENDED, Resource
from murmurate.gateway.responses.store import Store, run_of

CANCEL_LOOKS = 10
"""A cancellation is heard within half a second: so often, each 0.2 s, we look whether it was."""
CANCEL_LOOK_S = 0.2


class Stored:
    """The routes of stored responses."""

    def __init__(self, store: Store, *, runs: Runs, following: Following, clock: Clock) -> None:
        self._store = store
        self._runs = runs
        self._following = following
        self._clock = clock

    async def show(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """Show a stored response as it is now.

        With `?stream=true` one in the background is followed to its end, from the event behind
        `starting_after`.
        """
        del span
        response_id = _id(exchange)
        if _flag(exchange, "stream"):
            after = whole_of(exchange, "starting_after", default=-1, most=2**31)
            accepted = (await self._store.find_accepted(caller.tenant, response_id)).response
            if not accepted.background:
                raise BadRequestError(
                    f"stream: {response_id} was not made in the background: ask for it without",
                    param="stream",
                )
            await self._following.follow(exchange, caller.tenant, accepted, after=after)
            return
        kept = await self._store.find(caller.tenant, response_id)
        await exchange.answer_json(200, kept.response)

    async def forget(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """Delete a stored response, its input, and the run that worked on it."""
        del span
        response_id = _id(exchange)
        await self._store.forget(caller.tenant, response_id)
        await exchange.answer_json(
            200, {"id": response_id, "object": "response.deleted", "deleted": True}
        )

    async def cancel(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """End a response in the background; one that has ended is shown as it is."""
        del span
        await exchange.while_connected(self._cancel(exchange, caller.tenant, _id(exchange)))

    async def _cancel(self, exchange: Exchange, tenant: str, response_id: str) -> None:
        response = (await self._store.find(tenant, response_id)).response
        if not response.background:
            raise BadRequestError(
                f"{response_id} was not made in the background: close its connection to end it",
                param="response_id",
            )
        if response.status not in ENDED:
            with suppress(RunOverError):
                await self._runs.cancel(tenant, run_of(response_id))
            response = await self._ended(tenant, response_id)
        await exchange.answer_json(200, response)

    async def _ended(self, tenant: str, response_id: str) -> Resource:
        """Return the response when it has ended, or as it is when that takes too long."""
        for _ in range(CANCEL_LOOKS):
            response = (await self._store.find(tenant, response_id)).response
            if response.status in ENDED:
                return response
            await self._clock.sleep(CANCEL_LOOK_S)
        return (await self._store.find(tenant, response_id)).response

    async def input_items(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """List what was given to a stored response itself, without what it continues.

        `limit` (1 to 100, 20), `after` (an item's id) and `order` (`desc`, or `asc` as given).
        """
        del span
        kept = await self._store.find_accepted(caller.tenant, _id(exchange))
        await exchange.answer_json(200, asked_page(exchange, kept.input))


def _id(exchange: Exchange) -> str:
    return exchange.path.split("/")[3]


def _flag(exchange: Exchange, name: str) -> bool:
    given = exchange.query().get(name) or "false"
    if given in {"false", "true"}:
        return given == "true"
    raise BadRequestError(f"{name} = {given[:20]!r}: expected true or false", param=name)
