"""What a server lists is read with or without its further facts; `tests/cli` asks real servers."""

import asyncio

import msgspec
import pytest
from aiohttp import web

from murmurate.adapters.openai_probe import BODY_BYTES_MAX, Probe, Reply, listed
from murmurate.config import Remote
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
