"""A body that does not fit is refused with the field's name."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from murmurate.core.errors import BadRequestError
from murmurate.gateway.validate import CONTAINERS_MAX, decode, duplicate


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
        (b'{"name":"\x00"}', None, "not valid JSON"),
        (b'\xef\xbb\xbf{"name":"a"}', None, "not valid JSON"),
        (b'{"name":"a","inner":[{"count":NaN}]}', None, "not valid JSON"),
        (b'{"name":"a","inner":[{"count":1e999}]}', "inner[0].count", "out of range"),
        (b'{"name":"a","inner":[{"count":1,"x":1e999}]}', None, "out of range"),
        (b'{"name":"a","inner":[{"count":1,"x":"\xff"}]}', None, "not valid JSON"),
        (b'{"name":"a","name":"b"}', None, "the key 'name' twice"),
        (b'{"name":"a","\\u006eame":"b"}', None, "the key 'name' twice"),
        (b'{"name":"a","inner":[{"count":1,"x":{"y":1,"y":1}}]}', None, "the key 'y' twice"),
        (b'{"name":"a","inner":[{"count":1,"\\u003a":1,":":2}]}', None, "the key ':' twice"),
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
        decode(b'{"name":"a","inner":' + b"[" * 50_000, dict[str, object])


def test_a_null_character_is_text_like_any_other() -> None:
    assert decode(b'{"name":"a\\u0000"}', Body) == Body("a\0")


def test_colons_in_texts_are_no_keys() -> None:
    body = rb'{"name":"\u003a \\u003A a:b \"c\":1, \"c\":2","inner":[]}'
    assert decode(body, Body).name == r': \u003A a:b "c":1, "c":2'


def test_a_body_of_nothing_but_lists_is_refused_before_it_is_read() -> None:
    many = b"[]," * CONTAINERS_MAX
    with pytest.raises(BadRequestError, match="more than 100000 objects and lists"):
        decode(b'{"name":"a","inner":[{"count":1,"x":[' + many + b"[]]}]}", Body)


def test_the_bound_on_lists_comes_before_anything_else_is_said_of_a_body() -> None:
    with pytest.raises(BadRequestError, match="more than 100000 objects and lists"):
        decode(b"[" * (CONTAINERS_MAX + 1) + b"nonsense", Body)


def test_a_text_without_an_end_hides_no_brackets_from_the_parser_and_takes_no_time() -> None:
    body = b'{"name":"' + rb"\"" * 1_000_000 + b"[" * (CONTAINERS_MAX + 1)
    with pytest.raises(BadRequestError, match="not valid JSON"):
        decode(body, Body)


def test_brackets_in_texts_are_no_lists() -> None:
    text = '[{"\\' * CONTAINERS_MAX
    assert decode(msgspec.json.encode({"name": text}), Body).name == text


JSON = st.recursive(
    st.none() | st.integers(-(2**70), 2**70) | st.text(':"\\u03aA{}é', max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(":ab\\", max_size=2), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(JSON, st.booleans())
def test_no_body_without_a_repeated_key_is_taken_for_one(value: Any, escaped: bool) -> None:
    assert duplicate(json.dumps(value, ensure_ascii=escaped).encode()) is None


@given(st.text(max_size=4), JSON, JSON, JSON)
def test_no_repeated_key_is_missed(key: str, first: Any, second: Any, beside: Any) -> None:
    shown = json.dumps(key)
    pairs = f"{shown}: {json.dumps(first)}, {shown}: {json.dumps(second)}"
    assert duplicate(f"[{{{pairs}}}, {json.dumps(beside)}]".encode()) == key
