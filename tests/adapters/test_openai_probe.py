"""What a server lists is read with or without its further facts; `tests/cli` asks real servers."""

import asyncio
import socket
import threading

import msgspec
import pytest
from aiohttp import web

from murmurate.adapters.openai_probe import BODY_BYTES_MAX, Probe, Reply, listed, look_up
from murmurate.config import Remote
from murmurate.core.errors import EngineUnreachableError
from tests.adapters.remote_server import server


@pytest.mark.parametrize(
    ("model", "context_tokens"),
    [
        ({"id": "m"}, None),
        ({"id": "m", "max_model_len": 5}, 5),
        ({"id": "m", "max_model_len": None, "context_length": 6}, 6),
        ({"id": "m", "meta": None, "context_window": 7}, 7),
        ({"id": "m", "meta": {"n_ctx": 8, "n_ctx_train": 9}}, 8),
        ({"id": "m", "meta": {"n_ctx_train": 9}}, 9),
    ],
)
def test_the_context_is_found_under_each_servers_own_word(
    model: dict[str, object], context_tokens: int | None
) -> None:
    reply = Reply(200, 1.0, msgspec.json.encode({"data": [model]}))
    assert listed(reply) == {"m": context_tokens}


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"data": [{}]}', b'{"data": 7}'])
def test_what_is_no_listing_is_none(body: bytes) -> None:
    assert listed(Reply(200, 1.0, body)) is None


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (socket.gaierror(socket.EAI_NONAME, "x"), "DNS: its name is not known"),
        (socket.gaierror(socket.EAI_AGAIN, "x"), "DNS: no name server answers"),
        (None, None),
    ],
)
def test_a_name_is_known_or_not_or_nobody_says(error: OSError | None, words: str | None) -> None:
    def ask(host: str, port: int) -> object:
        assert (host, port) == ("h", 0)
        if error is not None:
            raise error
        return []

    if words is None:
        asyncio.run(look_up("h", ask=ask))
    else:
        with pytest.raises(EngineUnreachableError, match=words):
            asyncio.run(look_up("h", ask=ask))


def test_a_resolver_without_an_answer_is_not_waited_for() -> None:
    answer = threading.Event()

    def ask(host: str, port: int) -> object:
        answer.wait()
        return []

    async def run() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await look_up("h", ask=ask)

    asyncio.run(run())  # returns while the thread still waits
    assert not answer.is_set()
    answer.set()


def test_an_answer_without_end_is_read_up_to_its_bound() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 1_000_000)

    async def run() -> Reply:
        async with server(endless) as url, Probe(Remote(url)) as probe:
            return await probe.models()

    assert len(asyncio.run(run()).body) == BODY_BYTES_MAX
