"""Reading within bounds, and noticing a client that leaves."""

import asyncio
import gzip
from collections.abc import MutableMapping, Sequence
from typing import Any

import pytest

from murmurate.core.errors import (
    BodyTooLargeError,
    MediaTypeError,
    OverloadedError,
    RequestTimeoutError,
)
from murmurate.gateway.exchange import EVENTS, LINES, ClientGoneError, Exchange, Room
from tests.fakes import run_skipping_time, until
from tests.gateway.client import Call


def exchange(call: Call, headers: Sequence[tuple[bytes, bytes]] = ()) -> Exchange:
    scope = {"method": "POST", "path": "/", "headers": headers}
    return Exchange(scope, call.receive, call.send)


def test_a_body_in_pieces_comes_back_whole() -> None:
    call = Call([b"ab", b"", b"c"])
    assert asyncio.run(exchange(call).body(3)) == b"abc"


def test_an_announced_length_over_the_bound_is_refused_before_reading() -> None:
    call = Call([b"abcd"])
    with pytest.raises(BodyTooLargeError, match="has 4 bytes; the most is 3"):
        asyncio.run(exchange(call, [(b"content-length", b"4")]).body(3))
    assert call.unread == [b"abcd"]


@pytest.mark.parametrize("announced", [b"1", b"x", b"-5"])
def test_reading_stops_at_the_bound_whatever_was_announced(announced: bytes) -> None:
    call = Call([b"ab", b"cd", b"ef"])
    with pytest.raises(BodyTooLargeError, match="over the limit of 3"):
        asyncio.run(exchange(call, [(b"content-length", announced)]).body(3))
    assert call.unread == [b"ef"]


@pytest.mark.parametrize(
    "kind", [b"application/json", b"Application/JSON; charset=UTF-8", b'text/json;charset="utf-8"']
)
def test_json_may_be_called_so(kind: bytes) -> None:
    headers = [(b"content-type", kind), (b"content-encoding", b"identity")]
    assert asyncio.run(exchange(Call([b"{}"]), headers).body(3)) == b"{}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"content-type", b"text/plain"),
        (b"content-type", b"application/x-www-form-urlencoded"),
        (b"content-type", b"multipart/form-data; boundary=x"),
        (b"content-type", b"application/jsonp"),
        (b"content-type", b"application/json; charset=utf-16"),
        (b"content-type", b"application/json, text/plain"),
        (b"content-type", b""),
        (b"content-type", b"\xff\xfe"),
        (b"content-encoding", b"gzip"),
        (b"content-encoding", b"identity, br"),
    ],
)
def test_a_body_that_says_it_is_no_json_is_refused_unread(name: bytes, value: bytes) -> None:
    call = Call([b"{}"])
    with pytest.raises(MediaTypeError, match=r"content-(type|encoding)"):
        asyncio.run(exchange(call, [(name, value)]).body(3))
    assert call.unread == [b"{}"]


def test_bodies_under_way_share_a_room_until_their_requests_are_over() -> None:
    room = Room(5)

    def shares(call: Call) -> Exchange:
        scope = {"method": "POST", "path": "/", "headers": []}
        return Exchange(scope, call.receive, call.send, room=room)

    first, second, third = (
        shares(Call([b"abc"])),
        shares(Call([b"ab", b"c"])),
        shares(Call([b"ab"])),
    )
    assert asyncio.run(first.body(10)) == b"abc"
    with pytest.raises(OverloadedError, match="the bodies under way take 5 bytes") as full:
        asyncio.run(second.body(10))
    assert full.value.retry_s == 1
    second.close()
    assert asyncio.run(third.body(10)) == b"ab"
    for exchange in (first, third, third):
        exchange.close()
    assert asyncio.run(shares(Call([b"abcde"])).body(10)) == b"abcde"


def test_a_client_that_leaves_before_its_body_is_whole_is_gone() -> None:
    async def story() -> None:
        call = Call([b"ab", b"cd"])
        call.leave()
        await exchange(call).body(10)

    with pytest.raises(ClientGoneError):
        asyncio.run(story())


def test_a_whole_answer_has_its_length_and_the_exchanges_headers() -> None:
    call = Call([b""])
    answering = exchange(call)
    answering.headers.append((b"x-a", b"1"))
    asyncio.run(answering.answer_json(200, {"é": 1}))
    assert call.answer.headers == {
        "content-type": "application/json",
        "content-length": "8",
        "x-a": "1",
    }
    assert call.answer.json() == {"é": 1}
    assert answering.status == 200


def test_a_streamed_answer_is_not_for_caches() -> None:
    async def story(streaming: Exchange) -> None:
        await streaming.open(LINES)
        await streaming.write(b"1\n")
        await streaming.write(b"2\n")
        await streaming.end()

    call = Call([b""])
    asyncio.run(story(exchange(call)))
    assert call.answer.headers["cache-control"] == "no-cache"
    assert call.answer.chunks == [b"1\n", b"2\n"]
    assert call.answer.ended


def test_a_request_without_a_client_address_came_over_a_socket_file() -> None:
    assert exchange(Call([])).client == ""
    assert exchange(Call([]), [(b"host", b"a")]).header(b"host") == b"a"
    assert exchange(Call([])).header(b"host") is None


def test_work_is_done_while_the_client_stays() -> None:
    done: list[int] = []

    async def work() -> None:
        await asyncio.sleep(0)
        done.append(1)

    asyncio.run(exchange(Call([])).while_connected(work()))
    assert done == [1]


def test_work_that_fails_raises_its_own_error() -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        asyncio.run(exchange(Call([])).while_connected(work()))


def test_work_for_a_client_that_has_left_is_stopped_and_cleaned_up() -> None:
    stopped: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            stopped.append("clean")

    async def story() -> None:
        call = Call([b"late piece"])
        working = asyncio.ensure_future(exchange(call).while_connected(work()))
        await asyncio.sleep(0)
        call.leave()
        with pytest.raises(ClientGoneError):
            await working
        assert stopped == ["clean"]

    asyncio.run(story())


def test_a_request_that_is_cancelled_takes_its_work_with_it() -> None:
    stopped: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append("clean")

    async def story() -> None:
        working = asyncio.ensure_future(exchange(Call([])).while_connected(work()))
        for _ in range(3):
            await asyncio.sleep(0)
        working.cancel()
        await until(working.done)
        assert working.cancelled()
        assert stopped == ["clean"]

    asyncio.run(story())


def test_a_client_that_never_finishes_its_body_is_refused() -> None:
    async def never() -> MutableMapping[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def story() -> None:
        with pytest.raises(RequestTimeoutError):
            await Exchange(scope(), never, sent_nowhere).body(100)

    run_skipping_time(story())


def test_a_client_that_stops_reading_counts_as_gone() -> None:
    async def stuck(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def story() -> None:
        exchange = Exchange(scope(), no_more, stuck)
        await exchange.open(EVENTS)
        with pytest.raises(ClientGoneError):
            await exchange.write(b"data: x")

    run_skipping_time(story())


async def sent_nowhere(message: MutableMapping[str, Any]) -> None:
    """Drop it."""


async def no_more() -> MutableMapping[str, Any]:
    """Say nothing."""
    await asyncio.Event().wait()
    raise AssertionError


def scope() -> MutableMapping[str, Any]:
    return {"type": "http", "method": "POST", "path": "/", "headers": []}


def pieces_exchange(*news: MutableMapping[str, Any], **options: Any) -> Exchange:
    """Return an exchange whose body comes so, and then never ends."""
    left = list(news)

    async def receive() -> MutableMapping[str, Any]:
        if not left:
            await asyncio.Event().wait()
        return left.pop(0)

    async def send(message: MutableMapping[str, Any]) -> None:
        raise AssertionError(message)

    scope = {"method": "POST", "path": "/", "headers": options.pop("headers", [])}
    return Exchange(scope, receive, send, **options)


def piece(body: bytes, *, more: bool = True) -> MutableMapping[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


async def taken(exchange: Exchange, bytes_max: int = 4, whole_s: float = 60.0) -> list[bytes]:
    return [it async for it in exchange.pieces(bytes_max, whole_s=whole_s)]


def test_a_body_can_be_read_in_pieces() -> None:
    exchange = pieces_exchange(piece(b"ab"), piece(b""), piece(b"cd", more=False))
    assert asyncio.run(taken(exchange)) == [b"ab", b"cd"]


def test_pieces_have_the_bounds_of_a_body() -> None:
    with pytest.raises(BodyTooLargeError, match="over the limit of 4"):
        asyncio.run(taken(pieces_exchange(piece(b"abc"), piece(b"de"))))
    announced = pieces_exchange(headers=[(b"content-length", b"5")])
    with pytest.raises(BodyTooLargeError, match="has 5 bytes"):
        asyncio.run(taken(announced))
    with pytest.raises(ClientGoneError):
        asyncio.run(taken(pieces_exchange(piece(b"a"), {"type": "http.disconnect"})))


@pytest.mark.parametrize(("body_s", "whole_s"), [(0.001, 60.0), (60.0, 0.001)])
def test_a_body_that_stands_still_or_takes_too_long_is_given_up(
    body_s: float, whole_s: float
) -> None:
    exchange = pieces_exchange(piece(b"a"), body_s=body_s)
    with pytest.raises(RequestTimeoutError):
        asyncio.run(taken(exchange, whole_s=whole_s))


def test_the_query_is_read_from_the_url() -> None:
    exchange = pieces_exchange()
    exchange._query = b"after=a%20b&limit=3&limit=4&purpose="
    assert exchange.query() == {"after": "a b", "limit": "4", "purpose": ""}


LARGE = b'{"a": "b"}' * 100


def answered(body: bytes, accepted: bytes | None) -> tuple[dict[str, str], bytes]:
    """Return the headers and the body that a client gets, with a bound of 500 bytes."""
    headers = [] if accepted is None else [(b"accept-encoding", accepted)]
    scope = {"method": "GET", "path": "/", "headers": headers}
    call = Call([])
    asyncio.run(Exchange(scope, call.receive, call.send, compress_bytes_min=500).answer(200, body))
    return call.answer.headers, call.answer.body


def test_a_large_answer_is_compressed_where_the_client_takes_that() -> None:
    headers, body = answered(LARGE, b"gzip")
    assert gzip.decompress(body) == LARGE
    assert headers["content-encoding"] == "gzip"
    assert headers["content-length"] == str(len(body))
    assert headers["vary"] == "accept-encoding"


def test_a_very_large_answer_is_compressed_beside_the_loop() -> None:
    headers, body = answered(LARGE * 1000, b"gzip")
    assert gzip.decompress(body) == LARGE * 1000
    assert headers["content-encoding"] == "gzip"


def test_others_get_it_as_it_is() -> None:
    headers, body = answered(LARGE, None)
    assert body == LARGE
    assert "content-encoding" not in headers
    assert headers["vary"] == "accept-encoding"  # a cache between must know


def test_a_small_answer_is_never_compressed() -> None:
    headers, body = answered(LARGE[:499], b"gzip")
    assert body == LARGE[:499]
    assert set(headers) == {"content-type", "content-length"}
