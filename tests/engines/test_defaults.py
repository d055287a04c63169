"""The configured temperature, where a request names none."""

import asyncio
from contextlib import aclosing

import pytest

from murmurate.core.types import Sampling, Text
from murmurate.engines.defaults import WithTemperature
from tests.fakes import DONE, Saying, answered, ask


@pytest.mark.parametrize(("asked", "drawn"), [(None, 0.5), (0.0, 0.0), (1.5, 1.5)])
def test_a_temperature_is_filled_in_only_where_there_is_none(
    asked: float | None, drawn: float
) -> None:
    below = Saying(Text("a"), DONE)
    request = ask(sampling=Sampling(seed=3, temperature=asked))
    assert answered(WithTemperature(below, 0.5), request) == [Text("a"), DONE]
    assert below.asked[0].sampling == Sampling(seed=3, temperature=drawn)


def test_closing_early_closes_the_engine() -> None:
    async def story() -> None:
        below = Saying(Text("a"), DONE)
        async with aclosing(WithTemperature(below, 0.5).answer(ask())) as deltas:
            await anext(deltas)
        assert below.closed_early == 1

    asyncio.run(story())
