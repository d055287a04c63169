"""Chat completions and embeddings: from a body to the `Model` below, and its deltas back."""

from collections.abc import Mapping
from contextlib import aclosing

from murmurate.core.clock import Clock
from murmurate.core.errors import ModelUnknownError, MurmurateError
from murmurate.core.ids import Ids
from murmurate.core.ports import Embedder, EventLog, Model, Span
from murmurate.core.types import Caller, Delta, Request, Usage
from murmurate.gateway.chat import ChatBody, Encoder, error_event
from murmurate.gateway.embeddings import EmbeddingsBody, encode, texts_of
from murmurate.gateway.exchange import EVENTS, Exchange
from murmurate.gateway.measured import Measured
from murmurate.gateway.ports import Meter
from murmurate.gateway.requests import Requests, name_session
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
        self._answer = Measured(model, clock=clock, meter=meter).answer
        self._requests = requests
        self._body_bytes_max = body_bytes_max
        self._clock = clock
        self._ids = ids
        self._log = log

    async def chat(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """Ask an agent or a model, plain or streamed (`"stream": true`)."""
        body = decode(await exchange.body(self._body_bytes_max), ChatBody)
        request = self._requests.of(exchange, caller, body, span)
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
        async with aclosing(self._answer(request, span)) as deltas:
            delta: Delta | None = await anext(deltas)
            name_session(exchange, request)
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
        async with aclosing(self._answer(request, span)) as deltas:
            answer = [delta async for delta in deltas]
        name_session(exchange, request)
        await exchange.answer(200, encoder.whole(answer))


class Embeddings:
    """`POST /v1/embeddings`."""

    def __init__(self, embedders: Mapping[str, Embedder], *, body_bytes_max: int) -> None:
        self._embedders = embedders
        self._body_bytes_max = body_bytes_max

    async def embeddings(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """Turn texts into vectors.

        The embedder is `minilm` (384 numbers, English), or the model of `[embeddings]`.
        """
        del caller
        body = decode(await exchange.body(self._body_bytes_max), EmbeddingsBody)
        texts = texts_of(body)
        embedder = self._embedders.get(body.model)
        if embedder is None:
            known = ", ".join(self._embedders) or "none is installed"
            raise ModelUnknownError(
                f"no embedding model {body.model!r} is served here; there are: {known}",
                param="model",
            )
        span.note(model=body.model, texts=len(texts))

        async def embed() -> None:
            made = await embedder.embed(texts)
            await exchange.answer(200, encode(body, made.vectors, made.tokens))

        await exchange.while_connected(embed())
