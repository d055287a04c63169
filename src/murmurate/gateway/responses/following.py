"""A response in the background as a stream: its events as far as they are, then the others.

Words are not stored one by one, so each item comes whole, when the run is over. The events of a
response are the same, with the same numbers, however often it is followed.
"""

from contextlib import aclosing

import msgspec

from murmurate.core.errors import EngineFailedError, MurmurateError
from murmurate.gateway.exchange import EVENTS, Exchange
from murmurate.gateway.ports import Runs, RunView
from murmurate.gateway.responses.output import (
    DONE,
    Created,
    Event,
    InProgress,
    Output,
    Queued,
    frames,
    trouble_of,
)
from murmurate.gateway.responses.resource import Resource
from murmurate.gateway.responses.store import current, deltas_of, run_of
from murmurate.gateway.responses.terms import allowed_of

FIRST = 3
"""The number of the event behind created, queued and in progress."""


class Following:
    """Sends the events of a response until it has ended."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    async def follow(
        self, exchange: Exchange, tenant: str, accepted: Resource, *, after: int = -1
    ) -> None:
        """Stream the events with a number above `after`; a client that leaves ends nothing."""
        await exchange.while_connected(self._follow(exchange, tenant, accepted, after))

    async def _follow(
        self, exchange: Exchange, tenant: str, accepted: Resource, after: int
    ) -> None:
        run_id = run_of(accepted.id)
        working = msgspec.structs.replace(accepted, status="in_progress")
        async with aclosing(self._runs.events(tenant, run_id)) as news:
            await anext(news)  # its beginning, or `NotFoundError` before status 200
            exchange.last_words = _last_words
            await exchange.open(EVENTS)
            await _write(exchange, [Created(0, accepted), Queued(1, accepted)], after)
            in_progress: list[Event] = [InProgress(2, working)]
            try:
                async for _ in news:
                    await _write(exchange, in_progress, after)
                    in_progress = []
                run = await self._runs.show(tenant, run_id)
                await _write(exchange, ending_of(accepted, run), after)
            except MurmurateError as error:
                await exchange.write(_last_words(error))
            else:
                await exchange.write(DONE)
        await exchange.end()


def ending_of(accepted: Resource, run: RunView) -> list[Event]:
    """Return the events of what a run came to: its items, then how it ended."""
    output = Output(accepted, first=FIRST, allowed=allowed_of(accepted))
    events: list[Event] = []
    if run.answer is not None:
        try:
            for delta in deltas_of(run.answer):
                events += output.take(delta)
        except EngineFailedError as error:
            events.append(output.trouble(error))
    return [*events, *output.ending(current(accepted, run))]


def _last_words(error: MurmurateError) -> bytes:
    """Return how a stream ends that breaks off; its response goes on, so nothing has failed."""
    return frames([trouble_of(FIRST, error)]) + DONE


async def _write(exchange: Exchange, events: list[Event], after: int) -> None:
    if unseen := [event for event in events if event.sequence_number > after]:
        await exchange.write(frames(unseen))
