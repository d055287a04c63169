"""Another model answers where one can't: `fallbacks` in the configuration, in order, once each."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing

import msgspec

from murmurate.core.errors import MurmurateError
from murmurate.core.ports import Model, Tracer
from murmurate.core.types import Delta, Diverted, Finished, Frozen, Request
from murmurate.router.failures import Failure, failure_of


class Chain(Frozen, frozen=True):
    """The models that stand in for one, and for which failures. Theirs are not followed further."""

    models: Sequence[str]
    failures: frozenset[Failure]


class Fallbacks:
    """A `Model` that asks the chain of a request's model until one of them begins an answer.

    Whoever reads the answer is told by `Diverted`, and the answer is not to be cached: the next one
    should be that of the model that was asked for.
    """

    def __init__(self, below: Model, *, chains: Mapping[str, Chain], tracer: Tracer) -> None:
        self._below = below
        self._chains = chains
        self._tracer = tracer
        self.used = dict.fromkeys(chains, 0)
        """How often another one answered, by the model that was asked for."""

    def answer(self, request: Request) -> AsyncGenerator[Delta]:
        """Stream the answer of the model, or of one that stands in for it.

        When all fail, the error is that of the model that was asked for.
        """
        chain = self._chains.get(request.model)
        return self._below.answer(request) if chain is None else self._answer(request, chain)

    async def _answer(self, request: Request, chain: Chain) -> AsyncGenerator[Delta]:
        begun = False
        try:
            async with aclosing(self._below.answer(request)) as deltas:
                async for delta in deltas:
                    begun = True
                    yield delta
        except MurmurateError as error:
            if begun or failure_of(error) not in chain.failures:
                raise
            failed = error
        else:
            return
        for model in chain.models:
            begun = False
            try:
                async with aclosing(self._stood_in(request, model, failed)) as deltas:
                    async for delta in deltas:
                        begun = True
                        yield delta
            except MurmurateError:
                if begun:
                    raise
            else:
                return
        raise failed

    async def _stood_in(
        self, request: Request, model: str, failed: MurmurateError
    ) -> AsyncGenerator[Delta]:
        """Stream another model's answer, behind the word that it is another's."""
        facts = {"model": model, "instead_of": request.model, "cause": failed.code}
        with self._tracer.span(request.trace, "fallback", **facts) as span:
            asked = msgspec.structs.replace(request, model=model, trace=span.ref)
            async with aclosing(self._below.answer(asked)) as deltas:
                first = await anext(deltas)
                self.used[request.model] += 1
                yield Diverted(model)
                yield first
                async for delta in deltas:
                    if isinstance(delta, Finished):
                        yield Finished(delta.reason, repeatable=False)
                    else:
                        yield delta
