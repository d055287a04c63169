"""Chat completions and embeddings: from a body to the `Model` below, and its deltas back."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from murmurate.core.clock import Clock
from murmurate.core.errors import ModelUnknownError, MurmurateError
from murmurate.core.ids import Ids
from murmurate.core.ports import Embedder, EventLog, Model, Span
from murmurate.core.types import Caller, Delta, Diverted, Finished, Request, Usage
from murmurate.gateway.chat import ChatBody, Encoder, error_event
from murmurate.gateway.embeddings import EmbeddingsBody, encode, texts_of
from murmurate.gateway.exchange import EVENTS, Exchange
from murmurate.gateway.policy import EMBED, Gate
from murmurate.gateway.ports import Ledger, Meter
from murmurate.gateway.requests import Requests, name_model, name_session, session_of
from murmurate.gateway.validate import decode


class Completions:
    """`POST /v1/chat/completions`, plain and streamed."""

    def __init__(
        self,
        model: Model,
        *,
        requests: Requests,
        body_bytes_max: int,
        clock: Clock,
        ids: Ids,
        meter: Meter,
        log: EventLog,
    ) -> None:
        self._model = model
        self._requests = requests
        self._body_bytes_max = body_bytes_max
        self._clock = clock
        self._ids = ids
        self._meter = meter
        self._log = log

    async def chat(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """Ask an agent or a model, plain or streamed (`"stream": true`)."""
        body = decode(await exchange.body(self._body_bytes_max), ChatBody)
        request = await self._requests.of(exchange, caller, body, span)
        span.note(model=body.model, lane=request.lane.value)
        wants_usage = body.stream_options is not None and body.stream_options.include_usage
        encoder = Encoder(
            self._ids.new("chatcmpl"), body.model, self._clock.unix_ms() // 1000, usage=wants_usage
        )
        answer = self._stream if body.stream else self._whole
        await exchange.while_connected(answer(exchange, request, encoder, span))

    async def _stream(
        self, exchange: Exchange, request: Request, encoder: Encoder, span: Span
    ) -> None:
        """Send deltas as they come. Status 200 goes out only with the first one in hand."""
        usage: Usage | None = None
        async with aclosing(self._deltas(exchange, request, span)) as deltas:
            delta: Delta | None = await anext(deltas)
            name_session(exchange, session_of(request))
            await exchange.open(EVENTS)
            await exchange.write(encoder.first())
            try:
                while delta is not None:
                    if isinstance(delta, Usage):
                        usage = delta
                    elif chunk := encoder.chunk(delta):
                        await exchange.write(chunk)
                    delta = await anext(deltas, None)
            except MurmurateError as error:
                span.note(error=error.code)
                self._log.event("stream.broken", code=error.code)
                await exchange.write(error_event(error))
            else:
                await exchange.write(encoder.last(usage))
        await exchange.end()

    async def _whole(
        self, exchange: Exchange, request: Request, encoder: Encoder, span: Span
    ) -> None:
        async with aclosing(self._deltas(exchange, request, span)) as deltas:
            answer = [delta async for delta in deltas]
        name_session(exchange, session_of(request))
        await exchange.answer(200, encoder.whole(answer))

    async def _deltas(
        self, exchange: Exchange, request: Request, span: Span
    ) -> AsyncGenerator[Delta]:
        """Pass the answer on, noting the first delta's time, the tokens, and whose it is."""
        began_s = self._clock.now_s()
        first = True
        async with aclosing(self._model.answer(request)) as deltas:
            async for delta in deltas:
                if first and isinstance(delta, Diverted):
                    name_model(exchange, delta)
                    continue
                if first:
                    first = False
                    seconds = self._clock.now_s() - began_s
                    self._meter.first_token(request.model, seconds)
                    span.note(first_ms=round(seconds * 1000, 1))
                match delta:
                    case Usage():
                        span.note(tokens_in=delta.tokens_in, tokens_out=delta.tokens_out)
                    case Finished():
                        span.note(finish=delta.reason.value)
                    case Diverted():  # in a later step of an agent; a stream's head is gone by then
                        name_model(exchange, delta)
                    case _:
                        pass
                yield delta


class Embeddings:
    """`POST /v1/embeddings`."""

    def __init__(
        self,
        embedders: Mapping[str, Embedder],
        *,
        gate: Gate,
        ledger: Ledger,
        body_bytes_max: int,
    ) -> None:
        self._embedders = embedders
        self._gate = gate
        self._ledger = ledger
        self._body_bytes_max = body_bytes_max

    async def embeddings(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """Turn texts into vectors.

        The embedder is `minilm` (384 numbers, English), or the model of `[embeddings]`.
        """
        body = decode(await exchange.body(self._body_bytes_max), EmbeddingsBody)
        texts = texts_of(body)
        embedder = embedder_of(self._embedders, body.model)
        await self._gate.check(caller, EMBED, body.model)
        span.note(model=body.model, texts=len(texts))
        place = (caller.tenant, caller.key_id, body.model)
        self._ledger.asked(*place)

        async def embed() -> None:
            made = await embedder.embed(texts)
            self._ledger.used(*place, Usage(made.tokens, 0))
            await exchange.answer(200, encode(body, made.vectors, made.tokens))

        await exchange.while_connected(embed())


def embedder_of(embedders: Mapping[str, Embedder], model: str) -> Embedder:
    """Return the embedder of that name, or `ModelUnknownError`."""
    embedder = embedders.get(model)
    if embedder is None:
        known = ", ".join(embedders) or "none is installed"
        raise ModelUnknownError(
            f"no embedding model {model!r} is served here; there are: {known}", param="model"
        )
    return embedder
