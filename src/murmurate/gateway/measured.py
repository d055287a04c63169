"""An answer on its way to the client, measured: when it began, and what it took."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from murmurate.core.clock import Clock
from murmurate.core.ports import Model, Span
from murmurate.core.types import Delta, Diverted, Finished, Request, Usage
from murmurate.gateway.exchange import Exchange
from murmurate.gateway.ports import Meter
from murmurate.gateway.requests import name_model


class Measured:
    """Asks a model, and notes of its answers what metrics and traces tell."""

    def __init__(self, model: Model, *, clock: Clock, meter: Meter) -> None:
        self._model = model
        self._clock = clock
        self._meter = meter

    async def answer(
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
