"""Runs: work that goes on whatever becomes of the client, and of the server that began it."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from enum import Enum
from typing import Annotated

import msgspec
from msgspec import Meta

from murmurate.core.errors import BadRequestError, MurmurateError
from murmurate.core.ports import Span
from murmurate.core.types import Caller, Once
from murmurate.gateway.chat import ChatBody, error_event
from murmurate.gateway.exchange import EVENTS, Exchange
from murmurate.gateway.ports import Replays, RunEvent, Runs
from murmurate.gateway.requests import Requests, name_session, session_of
from murmurate.gateway.validate import decode

LISTED = 50
ACCEPTED = 202
DEADLINE_S_MAX = 30 * 86_400
ID_CHARS_MAX = 64
KEY_BYTES_MAX = 255
SILENCE_S = 15.0


class End(Enum):
    """What comes behind the last event."""

    END = "end"


END = End.END


class RunBody(ChatBody, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST /api/runs`: a chat's, and how it is worked on and who hears of its end."""

    priority: Annotated[int, Meta(ge=-10, le=10)] = 0
    deadline_s: Annotated[float, Meta(gt=0, le=DEADLINE_S_MAX)] | None = None
    webhook: Annotated[str, Meta(max_length=2048)] | None = None


class ReplayBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /api/runs/{id}/replay`."""

    model: str | None = None


class Background:
    """The routes of runs."""

    def __init__(
        self, runs: Runs, *, replays: Replays, requests: Requests, body_bytes_max: int
    ) -> None:
        self._runs = runs
        self._replays = replays
        self._requests = requests
        self._body_bytes_max = body_bytes_max

    async def submit(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """Begin a run in the background.

        The body is that of a chat, and `priority` (-10 to 10; higher comes first), `deadline_s`
        (it fails with `run.deadline` if it has not ended by then; at most 30 days) and `webhook`
        (a URL that is told of its end; see docs/howto/webhooks.md). It is durable when its id is
        returned with status 202; any server goes on with it. With an `Idempotency-Key` it is begun
        once: sent again within a day, the same key and body get the same id.
        """
        sent = await exchange.body(self._body_bytes_max)
        body = decode(sent, RunBody)
        request = await self._requests.of(exchange, caller, body, span)
        once = _once(exchange, sent)
        known = None if once is None else await self._runs.sent_before(caller.tenant, once)
        if known is not None:
            run_id, session = known.run, known.session
        else:
            run_id = await self._runs.submit(
                request,
                priority=body.priority,
                deadline_s=body.deadline_s,
                webhook=body.webhook,
                once=once,
            )
            session = session_of(request)
        span.note(model=body.model, run=run_id)
        name_session(exchange, session)
        await exchange.answer_json(ACCEPTED, {"id": run_id, "status": "queued"})

    async def listing(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """List the newest 50 runs, the newest first, with their status.

        Of the URL: `batch`, whose lines are then listed; they are not among the others.
        """
        del span
        batch = exchange.query().get("batch")
        found = await self._runs.listing(caller.tenant, limit=LISTED, batch=batch)
        await exchange.answer_json(200, {"runs": found})

    async def show(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """Show a run: its status, the outcome of each step, and its answer."""
        del span
        await exchange.answer_json(200, await self._runs.show(caller.tenant, _id(exchange)))

    async def events(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """Follow a run: what has happened and what happens, until it is over.

        Server-sent events; the name of each says what happened, such as `run.step`. While nothing
        happens, a comment comes every 15 seconds.
        """
        del span
        await exchange.while_connected(self._follow(exchange, caller))

    async def cancel(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """End a run; whoever works on it stops within about half a second."""
        del span
        await self._runs.cancel(caller.tenant, _id(exchange))
        await exchange.answer_json(ACCEPTED, {"id": _id(exchange)})

    async def resume(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """Go on with a run that failed or was cancelled, from its last step."""
        del span
        await self._runs.resume(caller.tenant, _id(exchange))
        await exchange.answer_json(ACCEPTED, {"id": _id(exchange)})

    async def replay(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """Do a run again that is over, against the code, configuration and models of today.

        Nothing of it is stored, and no tool is called: each call gets the outcome that the run
        recorded, and one without a record ends the replay. The body is `{"model"}`, who is asked
        instead of the agent's own model, or empty. The answer says of each step, and of the answer,
        whether it is the same.
        """
        body = decode(await exchange.body(self._body_bytes_max) or b"{}", ReplayBody)
        span.note(run=_id(exchange)[:ID_CHARS_MAX])
        if body.model is not None:
            await self._requests.check_policy(exchange, caller, body.model)
        await exchange.while_connected(self._replayed(exchange, caller, body, span))

    async def _replayed(
        self, exchange: Exchange, caller: Caller, body: ReplayBody, span: Span
    ) -> None:
        replayed = await self._replays.replay(
            caller.tenant, _id(exchange), model=body.model, trace=span.ref
        )
        await exchange.answer_json(200, replayed)

    async def _follow(self, exchange: Exchange, caller: Caller) -> None:
        async with (
            aclosing(self._runs.events(caller.tenant, _id(exchange))) as events,
            aclosing(or_silence(events)) as news,
        ):
            event = await anext(news, END)
            await exchange.open(EVENTS)
            try:
                while event is not END:
                    await exchange.write(_written(event))
                    event = await anext(news, END)
            except MurmurateError as error:
                await exchange.write(error_event(error))
        await exchange.end()


async def or_silence(
    events: AsyncGenerator[RunEvent], *, silence_s: float = SILENCE_S
) -> AsyncGenerator[RunEvent | None]:
    """Pass events on, and None whenever none has come for so long."""
    while True:
        coming = asyncio.ensure_future(anext(events, END))
        try:
            while not (await asyncio.wait({coming}, timeout=silence_s))[0]:
                yield None
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
        event = coming.result()
        if isinstance(event, End):
            return
        yield event


def _written(event: RunEvent | None) -> bytes:
    if event is None:
        return b": nothing new\n\n"  # so that nobody on the way takes the connection for dead
    return b"event: %b\ndata: %b\n\n" % (event.kind.encode(), msgspec.json.encode(event))


def _once(exchange: Exchange, sent: bytes) -> Once | None:
    """Return the `Idempotency-Key` and what it stands for. `BadRequestError`: it can't be one.

    A body with the same content counts as the same, however it is written.
    """
    key = exchange.header(b"idempotency-key")
    if key is None:
        return None
    if not 0 < len(key) <= KEY_BYTES_MAX:
        raise BadRequestError(f"Idempotency-Key: expected 1 to {KEY_BYTES_MAX} characters")
    content = msgspec.json.encode(msgspec.json.decode(sent), order="sorted")
    terms = [exchange.header(name) or b"" for name in (b"x-murmurate-session", b"x-murmurate-lane")]
    asks = hashlib.sha256(b"\0".join([*terms, content])).hexdigest()
    return Once(key.decode("latin-1"), asks)


def _id(exchange: Exchange) -> str:
    return exchange.path.split("/")[3]
