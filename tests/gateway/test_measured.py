"""An answer on its way by is measured, and is the same."""

import asyncio
from contextlib import aclosing

from murmurate.core.types import Delta, Request, Text, Usage
from murmurate.gateway.measured import Measured
from tests.fakes import DONE, TRACE, FakeClock, FakeSpan, RecordingMeter, Saying, user
from tests.gateway.test_requests import exchange


def test_the_first_delta_the_tokens_and_the_end_are_noted() -> None:
    async def story() -> None:
        said: list[Delta] = [Text("a"), Text("b"), Usage(3, 2), DONE]
        meter, span = RecordingMeter(), FakeSpan("gateway", TRACE, {})
        request = Request(id="req_1", tenant="a", model="m", messages=(user("?"),), trace=TRACE)
        measured = Measured(Saying(*said), clock=FakeClock(), meter=meter)
        async with aclosing(measured.answer(exchange(), request, span)) as deltas:
            assert [delta async for delta in deltas] == said
        assert meter.firsts == ["m"]
        assert span.attributes == {
            "first_ms": 0.0,
            "tokens_in": 3,
            "tokens_out": 2,
            "finish": "stop",
        }

    asyncio.run(story())
