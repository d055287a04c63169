"""Completions and embeddings: from a body to the `Model` below, and its deltas back."""

from collections.abc import Mapping
from contextlib import aclosing

from murmurate.core.clock import Clock
from murmurate.core.errors import ModelUnknownError, MurmurateError
from murmurate.core.ids import Ids
from murmurate.core.ports import Embedder, EventLog, Model, Span
from murmurate.core.types import Caller, Delta, Request, Usage
from murmurate.gateway.chat import ChatBody, Encoder, StreamOptions, error_event
from murmurate.gateway.embeddings import EmbeddingsBody, encode, texts_of
from murmurate.gateway.exchange import EVENTS, Exchange
from murmurate.gateway.legacy import CompletionBody, TextEncoder, prompt_of, sampling_of
from murmurate.gateway.measured import Measured
from murmurate.gateway.policy import EMBED, Gate
from murmurate.gateway.ports import Ledger, Meter
from murmurate.gateway.requests import Question, Requests, name_session, session_of
from murmurate.gateway.validate import decode


class Completions:
    """`POST /v1/chat/completions` and `POST /v1/completions`, plain and streamed."""

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
        request = await self._requests.of(exchange, caller, body, span)
        span.note(model=body.model, lane=request.lane.value)
        encoder = Encoder(
            self._ids.new("chatcmpl"),
            body.model,
            self._now_s,
            usage=wants_usage(body.stream_options),
        )
        answer = self._stream if body.stream else self._whole
        await exchange.while_connected(answer(exchange, request, encoder, span))

    async def complete(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """Ask with a `prompt`, as before there were chats; plain or streamed.

        The prompt goes through the model's chat template, as a user's message: it is answered, and
        not continued. One prompt and one answer at a time, of 16 tokens unless `max_tokens` says
        otherwise.
        """
        body = decode(await exchange.body(self._body_bytes_max), CompletionBody)
        await self._requests.check_model(exchange, caller, body.model)
        question = Question(
            model=body.model,
            messages=(prompt_of(body),),
            sampling=sampling_of(body),
            session=self._requests.session(exchange),
        )
        request = self._requests.asking(exchange, caller, question, span)
        span.note(model=body.model, lane=request.lane.value)
        encoder = TextEncoder(
            self._ids.new("cmpl"), body.model, self._now_s, usage=wants_usage(body.stream_options)
        )
        answer = self._stream if body.stream else self._whole
        await exchange.while_connected(answer(exchange, request, encoder, span))

    @property
    def _now_s(self) -> int:
        return self._clock.unix_ms() // 1000

    async def _stream(
        self, exchange: Exchange, request: Request, encoder: Encoder | TextEncoder, span: Span
    ) -> None:
        """Send deltas as they come. Status 200 goes out only with the first one in hand."""
        usage: Usage | None = None
        async with aclosing(self._answer(exchange, request, span)) as deltas:
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
        self, exchange: Exchange, request: Request, encoder: Encoder | TextEncoder, span: Span
    ) -> None:
        async with aclosing(self._answer(exchange, request, span)) as deltas:
            answer = [delta async for delta in deltas]
        name_session(exchange, session_of(request))
        await exchange.answer(200, encoder.whole(answer))


def wants_usage(options: StreamOptions | None) -> bool:
    """Tell whether a stream shall end with its usage."""
    return options is not None and options.include_usage


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
