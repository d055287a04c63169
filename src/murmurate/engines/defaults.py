"""A model's own choice of temperature, for requests that don't make one."""

from collections.abc import AsyncGenerator

import msgspec

from murmurate.core.ports import Model
from murmurate.core.types import Delta, Request


class WithTemperature:
    """A `Model` that fills in the configured temperature."""

    def __init__(self, below: Model, temperature: float) -> None:
        self._below = below
        self._temperature = temperature

    def answer(self, request: Request) -> AsyncGenerator[Delta]:
        """Pass the request down with a temperature in it."""
        if request.sampling.temperature is None:
            sampling = msgspec.structs.replace(request.sampling, temperature=self._temperature)
            request = msgspec.structs.replace(request, sampling=sampling)
        return self._below.answer(request)
