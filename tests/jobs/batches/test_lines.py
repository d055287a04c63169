"""A file is cut into the same lines however it comes, from any line on, and within bounds."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from murmurate.jobs.batches.lines import (
    NUMBER_MAX,
    Asked,
    Inspection,
    Line,
    LineTooLongError,
    Splitter,
    asked_of,
    lines_of,
)
from murmurate.jobs.batches.state import Problem

WHOLE = b'{"custom_id": "c", "method": "POST", "url": "/x", "body": {"a": 1}, "more": 2}'


def cut(body: bytes, size: int, *, number: int = 0, offset: int = 0) -> list[Line]:
    async def pieces() -> AsyncGenerator[bytes]:
        for start in range(offset, len(body), size):
            yield body[start : start + size]

    async def story() -> list[Line]:
        lines = lines_of(pieces(), number=number, offset=offset, bytes_max=100)
        return [line async for line in lines]

    return asyncio.run(story())


@given(st.lists(st.binary(max_size=20).map(lambda it: it.replace(b"\n", b"")), max_size=8))
def test_lines_are_the_same_however_they_come_and_from_each_of_them_on(said: list[bytes]) -> None:
    body = b"\n".join(said)
    whole = cut(body, 1000)
    rows = list(enumerate(body.split(b"\n"), start=1))
    assert [(it.number, it.raw) for it in whole] == [(n, raw) for n, raw in rows if raw.strip()]
    assert cut(body, 1) == cut(body, 3) == whole
    for place, line in enumerate(whole):
        behind = cut(body, 5, number=line.number, offset=line.end)
        assert behind == whole[place + 1 :]


@pytest.mark.parametrize("body", [b"x" * 101, b"x" * 101 + b"\n", b"a\n" + b"x" * 500])
def test_a_line_has_a_bound(body: bytes) -> None:
    with pytest.raises(LineTooLongError) as found:
        cut(body, 50)
    assert found.value.problem.line == (2 if body.startswith(b"a") else 1)


def test_a_line_over_the_bound_is_seen_also_where_it_comes_whole() -> None:
    with pytest.raises(LineTooLongError):
        list(Splitter(bytes_max=3).receive(b"abcd\n"))
    assert [it.raw for it in Splitter(bytes_max=3).receive(b"abc\n")] == [b"abc"]


def test_a_line_asks_for_something() -> None:
    asked = asked_of(Line(1, 0, WHOLE), endpoint="/x")
    assert isinstance(asked, Asked)
    assert (asked.custom_id, bytes(asked.body)) == ("c", b'{"a": 1}')


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (b'"method": "POST", ', b"", "invalid_request"),
        (b'"custom_id": "c"', b'"custom_id": 3', "invalid_request"),
        (b'"c"', b'"' + b"c" * 513 + b'"', "invalid_custom_id"),
        (b"POST", b"PUT", "invalid_method"),
        (b"/x", b"/y", "invalid_url"),
        (b'{"a": 1}', b"[]", "invalid_body"),
        (b"}", b"", "invalid_json_line"),
        (b'"c"', b'"\xff"', "invalid_json_line"),
        (b'{"a": 1}', b'{"a":' * 5000 + b"1" + b"}" * 5000, "invalid_json_line"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(old: bytes, new: bytes, code: str) -> None:
    problem = asked_of(Line(7, 0, WHOLE.replace(old, new)), endpoint="/x")
    assert isinstance(problem, Problem)
    assert (problem.code, problem.line) == (code, 7)


def test_empty_lines_have_numbers_and_a_bound_too() -> None:
    seen = Inspection(endpoint="/x", lines_max=10)
    seen.see(Line(NUMBER_MAX, 0, WHOLE))
    assert (seen.problems, seen.goes_on) == ([], True)
    seen.see(Line(NUMBER_MAX + 1, 0, WHOLE.replace(b'"c"', b'"d"')))
    assert [it.code for it in seen.problems] == ["too_many_lines"]
