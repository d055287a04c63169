"""Prices: exact sums of whole picos."""

from murmurate.accounts.prices import Price
from murmurate.core.types import Usage


def test_a_million_tokens_cost_the_price() -> None:
    price = Price.of_a_million(0.15, 0.6, 0.075)
    assert price.cost(Usage(1_000_000, 0)) == 150_000_000_000
    assert price.cost(Usage(0, 1_000_000)) == 600_000_000_000
    assert price.cost(Usage(1_000_000, 0, tokens_cached=1_000_000)) == 75_000_000_000


def test_cached_tokens_are_part_of_those_read() -> None:
    price = Price.of_a_million(2.0, 8.0, 0.5)
    assert price.cost(Usage(10, 3, tokens_cached=4)) == 6 * 2_000_000 + 4 * 500_000 + 3 * 8_000_000
    # An upstream that says it had more of them cached than it read is not paid for that.
    assert price.cost(Usage(10, 0, tokens_cached=99)) == 10 * 500_000


def test_cached_tokens_cost_as_much_where_nothing_is_said() -> None:
    price = Price.of_a_million(2.0, 8.0)
    assert price.cost(Usage(10, 0, tokens_cached=4)) == 10 * 2_000_000


def test_the_smallest_price_is_not_lost() -> None:
    assert Price.of_a_million(0.000001, 0).cost(Usage(1, 0)) == 1
