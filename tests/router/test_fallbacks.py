"""Another model stands in, with fake models below."""

import asyncio
from collections.abc import AsyncGenerator, Mapping

import pytest

from murmurate.core.errors import (
    BadRequestError,
    EngineFailedError,
    EngineUnreachableError,
    MurmurateError,
    OverloadedError,
    PromptTooLongError,
)
from murmurate.core.types import Delta, Diverted, Finished, FinishReason, Request, Text
from murmurate.router.failures import Failure
from murmurate.router.fallbacks import Chain, Fallbacks
from tests.engines.fakes import FakeModel, FakeTracer, all_of, ask

DONE = Finished(FinishReason.STOP)
ALL = frozenset(Failure) - {Failure.REFUSED}


class ByName:
    """Passes each request to the model of its name, as a router does."""

    def __init__(self, models: Mapping[str, FakeModel]) -> None:
        self.models = models

    def answer(self, request: Request) -> AsyncGenerator[Delta]:
        return self.models[request.model].answer(request)


def of(
    first: FakeModel,
    *others: FakeModel,
    failures: frozenset[Failure] = ALL,
    tracer: FakeTracer | None = None,
) -> Fallbacks:
    names = [f"other{number}" for number in range(len(others))]
    below = ByName({"tiny": first, **dict(zip(names, others, strict=True))})
    return Fallbacks(below, chains={"tiny": Chain(names, failures)}, tracer=tracer or FakeTracer())


@pytest.mark.parametrize(
    "error",
    [
        EngineUnreachableError("down"),
        OverloadedError("full"),
        EngineFailedError("500"),
        PromptTooLongError("900 of 512"),
    ],
)
def test_the_next_model_answers_says_so_and_is_not_cached(error: MurmurateError) -> None:
    tracer = FakeTracer()
    first, other = FakeModel(error), FakeModel(Text("hi"), DONE)
    fallbacks = of(first, other, tracer=tracer)
    answer = asyncio.run(all_of(fallbacks, ask()))
    assert answer == [Diverted("other0"), Text("hi"), Finished(FinishReason.STOP, False)]
    assert tracer.facts == [{"model": "other0", "instead_of": "tiny", "cause": error.code}]
    assert other.asked[0].model == "other0"
    assert fallbacks.used == {"tiny": 1}
    assert (first.closed, other.closed) == (1, 1)


def test_a_model_that_answers_is_passed_on_as_it_is() -> None:
    first, other = FakeModel(Text("hi"), DONE), FakeModel()
    assert asyncio.run(all_of(of(first, other), ask())) == [Text("hi"), DONE]
    assert not other.asked


def test_each_is_asked_once_in_order_and_the_error_is_that_of_the_model_asked_for() -> None:
    models = [FakeModel(EngineFailedError(f"error {number}")) for number in range(3)]
    with pytest.raises(EngineFailedError, match="error 0"):
        asyncio.run(all_of(of(*models), ask()))
    assert [len(model.asked) for model in models] == [1, 1, 1]


def test_a_failure_that_is_not_named_or_a_wrong_request_goes_to_the_client() -> None:
    other = FakeModel(Text("hi"), DONE)
    refused = of(FakeModel(BadRequestError("bad")), other)
    with pytest.raises(BadRequestError):
        asyncio.run(all_of(refused, ask()))
    only = of(FakeModel(EngineFailedError("500")), other, failures=frozenset({Failure.TOO_LONG}))
    with pytest.raises(EngineFailedError):
        asyncio.run(all_of(only, ask()))
    assert not other.asked


def test_behind_its_first_delta_an_answer_is_nobody_elses() -> None:
    other = FakeModel(Text("no"), DONE)
    broken = of(FakeModel(Text("be"), EngineFailedError("broke off")), other)
    with pytest.raises(EngineFailedError, match="broke off"):
        asyncio.run(all_of(broken, ask()))
    assert not other.asked
    stood_in = FakeModel(Text("be"), EngineFailedError("other broke off"))
    with pytest.raises(EngineFailedError, match="other broke off"):
        asyncio.run(all_of(of(FakeModel(EngineFailedError("500")), stood_in, other), ask()))
    assert not other.asked
