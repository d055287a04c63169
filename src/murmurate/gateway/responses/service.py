"""`POST /v1/responses`: plain, streamed, and in the background."""

from collections.abc import Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass

from murmurate.core.clock import Clock
from murmurate.core.errors import BadRequestError, MurmurateError
from murmurate.core.ids import Ids
from murmurate.core.ports import EventLog, Model, Span
from murmurate.core.types import Caller, Delta, Lane, Request
from murmurate.gateway.exchange import EVENTS, Exchange
from murmurate.gateway.measured import Measured
from murmurate.gateway.ports import Meter, Runs
from murmurate.gateway.requests import Question, Requests, name_session, session_of
from murmurate.gateway.responses.body import BATCH_TIERS, ResponseBody, check
from murmurate.gateway.responses.conversations import Conversations, Talk, added
from murmurate.gateway.responses.following import Following
from murmurate.gateway.responses.input import items_of
from murmurate.gateway.responses.items import Item, messages_of
from murmurate.gateway.responses.output import DONE, Output, frames
from murmurate.gateway.responses.resource import Resource
from murmurate.gateway.responses.store import Kept, Store, entry_of, run_of
from murmurate.gateway.responses.terms import allowed_of, opened, sampling_of, tools_of
from murmurate.gateway.scopes import Scope, check_scope
from murmurate.gateway.validate import decode


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, the response that will answer it, and the items that were given to it."""

    request: Request
    response: Resource
    input: tuple[Item, ...]


class Responses:
    """Answers in items, and stores what it answered."""

    def __init__(
        self,
        model: Model,
        *,
        store: Store,
        conversations: Conversations,
        runs: Runs,
        following: Following,
        requests: Requests,
        body_bytes_max: int,
        clock: Clock,
        ids: Ids,
        meter: Meter,
        log: EventLog,
    ) -> None:
        self._answer = Measured(model, clock=clock, meter=meter).answer
        self._store = store
        self._conversations = conversations
        self._runs = runs
        self._following = following
        self._requests = requests
        self._body_bytes_max = body_bytes_max
        self._clock = clock
        self._ids = ids
        self._log = log

    async def create(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """Ask an agent or a model in items; plain, streamed or in the background.

        After OpenAI's Responses API and Open Responses; see docs/howto/responses.md. With
        `"background": true` the key also needs the scope `runs`.
        """
        body = decode(await exchange.body(self._body_bytes_max), ResponseBody)
        if body.background:
            check_scope(caller, Scope.RUNS)
        asked = await self._asked(exchange, caller, body, span)
        span.note(model=body.model, lane=asked.request.lane.value)
        if body.background:
            await self._submit(exchange, asked, follow=bool(body.stream))
            return
        answer = self._stream if body.stream else self._whole
        await exchange.while_connected(answer(exchange, asked, span))

    async def _asked(
        self, exchange: Exchange, caller: Caller, body: ResponseBody, span: Span
    ) -> Asked:
        """Check the body, and put what it continues in front of it."""
        check(body)
        await self._requests.check_model(exchange, caller, body.model)
        session = self._requests.session(exchange)
        for field in ("previous_response_id", "conversation"):
            if session is not None and getattr(body, field) is not None:
                raise BadRequestError(
                    f"{field}: the request continues a session already", param=field
                )
        response = opened(body, self._ids.new("resp"), self._clock.unix_ms() // 1000)
        given = items_of(body.input, response.id.partition("_")[2])
        before, talk = await self._before(caller.tenant, response)
        items = await self._store.resolved(caller.tenant, given, near=before)
        if talk is not None:
            self._conversations.check_room(talk, items)
        question = Question(
            model=body.model,
            messages=messages_of(
                body.instructions,
                [*before, *items],
                continues=session is not None and not session.new,
            ),
            tools=tools_of(body),
            sampling=sampling_of(body),
            lane=Lane.BATCH if body.service_tier in BATCH_TIERS else None,
            session=session,
        )
        request = self._requests.asking(exchange, caller, question, span)
        return Asked(request, response, tuple(items))

    async def _before(self, tenant: str, response: Resource) -> tuple[Sequence[Item], Talk | None]:
        """Return the items that a response continues, and the conversation it belongs to."""
        may_cut = response.truncation == "auto"
        if response.conversation is None:
            last = response.previous_response_id
            return await self._store.history(tenant, last, may_cut=may_cut), None
        talk = await self._conversations.read(tenant, response.conversation.id)
        return self._conversations.history(talk, may_cut=may_cut), talk

    async def _submit(self, exchange: Exchange, asked: Asked, *, follow: bool) -> None:
        """Begin a run, and store the response that it works on in the same append."""
        tenant, response = asked.request.tenant, asked.response
        beside = [entry_of(tenant, Kept(response, asked.input))]
        await self._runs.submit(asked.request, run_id=run_of(response.id), beside=beside)
        name_session(exchange, session_of(asked.request))
        if follow:
            await self._following.follow(exchange, tenant, response)
        else:
            await exchange.answer_json(200, response)

    async def _whole(self, exchange: Exchange, asked: Asked, span: Span) -> None:
        output = _output_of(asked)
        async with aclosing(self._answer(exchange, asked.request, span)) as deltas:
            async for delta in deltas:
                output.take(delta)
        response = output.whole(self._clock.unix_ms() // 1000)
        await self._keep(asked, response)
        name_session(exchange, session_of(asked.request))
        await exchange.answer_json(200, response)

    async def _stream(self, exchange: Exchange, asked: Asked, span: Span) -> None:
        """Send events as they come. Status 200 goes out only with the first delta in hand.

        The last event tells of a response that is stored.
        """
        output = _output_of(asked)
        async with aclosing(self._answer(exchange, asked.request, span)) as deltas:
            delta: Delta | None = await anext(deltas)
            name_session(exchange, session_of(asked.request))
            exchange.last_words = output.last_words
            await exchange.open(EVENTS)
            await exchange.write(frames(output.opening()))
            try:
                while delta is not None:
                    if events := output.take(delta):
                        await exchange.write(frames(events))
                    delta = await anext(deltas, None)
                response = output.whole(self._clock.unix_ms() // 1000)
                await self._keep(asked, response)
            except MurmurateError as error:
                span.note(error=error.code)
                self._log.event("stream.broken", code=error.code)
                with suppress(MurmurateError):  # the client hears of the error that came first
                    await self._keep(asked, output.broken(error))
                await exchange.write(output.last_words(error))
            else:
                await exchange.write(frames(output.ending(response)) + DONE)
        await exchange.end()

    async def _keep(self, asked: Asked, response: Resource) -> None:
        """Store a response that has ended, and what it adds to its conversation, in one append.

        One that has failed adds nothing: it may be asked again.
        """
        tenant = asked.request.tenant
        entries = [entry_of(tenant, Kept(response, asked.input))] if response.store else []
        if response.conversation is not None and response.status != "failed":
            turn = [*asked.input, *response.output]
            entries.append(added(tenant, response.conversation.id, turn))
        if entries:
            await self._store.keep(entries)


def _output_of(asked: Asked) -> Output:
    return Output(asked.response, allowed=allowed_of(asked.response))
