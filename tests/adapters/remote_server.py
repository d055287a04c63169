"""A real server on loopback that answers, or misbehaves, on purpose."""

import asyncio
import base64
import ssl
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def server(handler: Handler, *, tls: ssl.SSLContext | None = None) -> AsyncGenerator[str]:
    """Serve everything with `handler`; yield the base URL, which ends in /v1."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return await handler(request)

    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.01)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"{'https' if tls else 'http'}://{host}:{port}/v1"
    finally:
        await runner.cleanup()


def refusing(status: int, body: str, **headers: str) -> Handler:
    async def handler(_: web.Request) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=status, text=body, headers=named)

    return handler


async def silent(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    raise AssertionError("nobody waits that long")


async def aborting(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def in_turn(*handlers: Handler) -> Handler:
    """Answer with each in turn; with the last one from then on."""
    left = list(handlers)

    async def handler(request: web.Request) -> web.StreamResponse:
        return await (left.pop(0) if len(left) > 1 else left[0])(request)

    return handler


def vector_of(text: str, dimensions: int = 3) -> list[float]:
    """Return a vector that tells texts of different length apart."""
    return [float(len(text)), 1.0, *([0.0] * (dimensions - 2))]


def packed(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


class EmbeddingServer:
    """Speaks OpenAI's embeddings and lists one model; keeps what it was asked."""

    def __init__(self, *, dimensions: int = 3, model: str = "embed-3") -> None:
        self.dimensions = dimensions
        self.model = model
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.headers.append(dict(request.headers))
        if request.method == "GET":
            return web.json_response({"object": "list", "data": [{"id": self.model}]})
        body = msgspec.json.decode(await request.read())
        self.bodies.append(body)
        dimensions = body.get("dimensions", self.dimensions)
        vectors = [vector_of(text, dimensions) for text in body["input"]]
        if body.get("encoding_format") == "base64":
            vectors = [packed(vector) for vector in vectors]
        return web.json_response(answer(vectors, tokens=len(vectors)))


def answer(vectors: Sequence[object], *, tokens: int = 1) -> dict[str, Any]:
    """Return a body of vectors, the last one first: order is said by `index` alone."""
    data = [
        {"object": "embedding", "index": index, "embedding": vector}
        for index, vector in enumerate(vectors)
    ]
    return {"data": data[::-1], "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
