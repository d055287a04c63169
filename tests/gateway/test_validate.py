"""A body that does not fit is refused with the field's name."""

import msgspec
import pytest

from murmurate.core.errors import BadRequestError
from murmurate.gateway.validate import decode


class Inner(msgspec.Struct):
    count: int


class Body(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    inner: list[Inner] = []


def test_a_body_that_fits_comes_back_typed() -> None:
    assert decode(b'{"name":"a","inner":[{"count":1}]}', Body) == Body("a", [Inner(1)])


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        (b'{"name":5}', "name", "name: Expected `str`, got `int`"),
        (b'{"name":"a","inner":[{"count":"x"}]}', "inner[0].count", "Expected `int`, got `str`"),
        (b'{"name":"a","nane":1}', "nane", "unknown field `nane`"),
        (b"{}", "name", "missing required field `name`"),
        (b"[]", None, "Expected `object`, got `array`"),
        (b"", None, "not valid JSON"),
        (b"{", None, "not valid JSON"),
        (b'{"name":"\xff"}', None, "not valid JSON"),
        (b'{"name":"\\ud800"}', None, "not valid JSON"),
        (b'{"name":"a"} b', None, "not valid JSON"),
    ],
)
def test_a_body_that_does_not_fit_names_the_field(
    body: bytes, param: str | None, words: str
) -> None:
    with pytest.raises(BadRequestError) as raised:
        decode(body, Body)
    assert raised.value.param == param
    assert words in raised.value.detail


def test_a_body_nested_without_end_is_refused() -> None:
    with pytest.raises(BadRequestError, match="nested too deeply"):
        decode(b'{"name":"a","inner":' + b"[" * 100_000, dict[str, object])
