"""What tokens cost. Pure."""

from murmurate.accounts.usage import PICOS
from murmurate.core.types import Frozen, Usage

TOKENS = 1_000_000
"""Prices are for so many tokens."""


class Price(Frozen, frozen=True):
    """What a model's tokens cost: picos of the currency for each."""

    tokens_in: int = 0
    tokens_cached: int = 0
    tokens_out: int = 0

    @classmethod
    def of_a_million(
        cls, tokens_in: float, tokens_out: float, tokens_cached: float | None = None
    ) -> "Price":
        """Return the price that says what a million tokens cost; cached ones as much as others."""
        cached = tokens_in if tokens_cached is None else tokens_cached
        each = [round(price * PICOS / TOKENS) for price in (tokens_in, cached, tokens_out)]
        return cls(*each)

    def cost(self, usage: Usage) -> int:
        """Return what they cost, in picos."""
        cached = min(usage.tokens_cached, usage.tokens_in)
        read = (usage.tokens_in - cached) * self.tokens_in + cached * self.tokens_cached
        return read + usage.tokens_out * self.tokens_out
