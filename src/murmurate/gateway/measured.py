"""An answer on its way to the client, measured: when it began, and what it took."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from murmurate.core.clock import Clock
from murmurate.core.ports import Model, Span
from murmurate.core.types import Delta, Finished, Request, Usage
from murmurate.gateway.ports import Meter


class Measured:
    """Asks a model, and notes of its answers what metrics and traces tell."""

    def __init__(self, model: Model, *, clock: Clock, meter: Meter) -> None:
        self._model = model
        self._clock = clock
        self._meter = meter

    async def answer(self, request: Request, span: Span) -> AsyncGenerator[Delta]:
        """Pass the answer on, noting the first delta's time and the tokens."""
        began_s = self._clock.now_s()
        first = True
        async with aclosing(self._model.answer(request)) as deltas:
            async for delta in deltas:
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
                    case _:
                        pass
                yield delta
