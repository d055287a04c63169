"""Asks another server what it is: is it there, does it take the key, what has it."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from urllib.parse import urlsplit

import aiohttp
import msgspec

from murmurate.adapters.dialects import WIRES
from murmurate.adapters.openai_wire import UpstreamError
from murmurate.adapters.remote import (
    connector_to,
    open_session,
    said_by,
    tls_context,
    why_unreachable,
)
from murmurate.config import Remote
from murmurate.core.errors import EngineUnreachableError
from murmurate.core.types import Frozen

BODY_BYTES_MAX = 4 * 1024 * 1024
CONNECT_S = 5.0


class Reply(Frozen, frozen=True):
    """What a server answered, and after how long. Of a refusal, `said` is its own words."""

    status: int
    ms: float
    body: bytes = b""
    said: UpstreamError = UpstreamError()


class _Meta(msgspec.Struct, frozen=True):
    n_ctx: int | None = None
    n_ctx_train: int | None = None


class _Listed(msgspec.Struct, frozen=True):
    id: str
    # Each server has its own word for it: vLLM, OpenRouter, Groq, Mistral, llama.cpp.
    max_model_len: int | None = None
    context_length: int | None = None
    context_window: int | None = None
    max_context_length: int | None = None
    meta: _Meta | None = None

    @property
    def context_tokens(self) -> int | None:
        """The model's context, where the server says it."""
        meta = self.meta or _Meta()
        sizes = (self.max_model_len, self.context_length, self.context_window)
        found = (*sizes, self.max_context_length, meta.n_ctx, meta.n_ctx_train)
        return next((size for size in found if size), None)


class _Listing(msgspec.Struct, frozen=True):
    data: list[_Listed]


class _Generation(msgspec.Struct, frozen=True):
    n_ctx: int


class _Props(msgspec.Struct, frozen=True):
    default_generation_settings: _Generation


class Probe:
    """One server; hold it in `async with`, and bound the time of its calls.

    Every call raises `EngineUnreachableError` with the step that failed where nobody can be asked.
    """

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._session = open_session(
            remote,
            connector=connector_to(tls_context(remote)),
            connect_s=CONNECT_S,
            accept="application/json",
        )

    async def __aenter__(self) -> "Probe":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def models(self) -> Reply:
        """Return the answer of `GET /models`."""
        way = urlsplit(self._remote.proxy or self._remote.url)
        await look_up(way.hostname or "")
        return await self._reply("GET", f"{self._remote.url}/models")

    async def one_token(self, model: str) -> Reply:
        """Return the answer to a question of one word, answered with one token."""
        body = {
            "model": model,
            "messages": [{"role": "user", "content": "Hi"}],
            "max_tokens": 1,
        }
        return await self._reply(
            "POST", f"{self._remote.url}{WIRES[self._remote.dialect].path}", body
        )

    async def props_tokens(self) -> int | None:
        """Return the context that llama.cpp's own `/props` tells; None of any other server."""
        reply = await self._reply("GET", f"{self._remote.url.removesuffix('/v1')}/props")
        try:
            return msgspec.json.decode(reply.body, type=_Props).default_generation_settings.n_ctx
        except msgspec.DecodeError:
            return None

    async def _reply(self, method: str, url: str, body: object = None) -> Reply:
        data = None if body is None else msgspec.json.encode(body)
        began_s = time.perf_counter()
        try:
            async with self._session.request(
                method, url, data=data, allow_redirects=False
            ) as response:
                read = await response.content.read(BODY_BYTES_MAX)
                while chunk := await response.content.read(BODY_BYTES_MAX - len(read)):
                    read += chunk
                status = response.status
        except (aiohttp.ClientError, TimeoutError) as cause:
            raise EngineUnreachableError(why_unreachable(cause)) from cause
        ms = (time.perf_counter() - began_s) * 1000
        said = UpstreamError() if status == 200 else said_by(self._remote, read)
        return Reply(status, ms, read, said)


async def look_up(host: str, *, ask: Callable[[str, int], object] = socket.getaddrinfo) -> None:
    """Find the host's address, or raise `EngineUnreachableError` for the step DNS.

    In a thread that nobody waits for at the exit: a resolver without an answer may take a minute,
    and can't be told to stop.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[OSError | None] = loop.create_future()

    def tell(error: OSError | None) -> None:
        if not done.done():
            done.set_result(error)

    def run() -> None:
        error: OSError | None = None
        try:
            ask(host, 0)
        except OSError as cause:
            error = cause
        with suppress(RuntimeError):  # the loop is closed: nobody wants to know any more
            loop.call_soon_threadsafe(tell, error)

    threading.Thread(target=run, name="look-up", daemon=True).start()
    error = await done
    if error is None:
        return
    if error.errno == socket.EAI_AGAIN:
        raise EngineUnreachableError("DNS: no name server answers") from error
    raise EngineUnreachableError("DNS: its name is not known") from error


def listed(reply: Reply) -> dict[str, int | None] | None:
    """Return the models of a listing, with their context where it is told; None: it is none."""
    try:
        found = msgspec.json.decode(reply.body, type=_Listing)
    except msgspec.DecodeError:
        return None
    return {model.id: model.context_tokens for model in found.data}
