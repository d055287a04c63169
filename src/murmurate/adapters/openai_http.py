"""Any engine that speaks OpenAI's HTTP protocol: our own workers on a socket, or a remote URL."""

import asyncio
import errno
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager, suppress

import aiohttp

from murmurate.adapters.http_stream import Response, Upstream, is_plain
from murmurate.adapters.openai_wire import Assembler, Events, encode
from murmurate.adapters.remote import (
    KEEPALIVE_S,
    connector_to,
    headers_for,
    open_session,
    retry_after_s,
    said_by,
    tls_context,
    why_unreachable,
)
from murmurate.config import Remote
from murmurate.core.clock import Clock
from murmurate.core.errors import (
    BadRequestError,
    EngineFailedError,
    EngineUnreachableError,
    MurmurateError,
    OverloadedError,
)
from murmurate.core.ports import Span, Tracer
from murmurate.core.types import Delta, Request, Usage
from murmurate.core.waiting import Patience, within

CONNECT_S = 5.0
"""How long a request waits for an engine that is being restarted (0.1 s for a small model)."""

CONNECT_PAUSE_S = 0.02
HEALTH_S = 1.0
REFUSAL_S = 5.0
REFUSAL_BYTES_MAX = 64 * 1024
LLAMA_LOADING = "Loading model"
"""What llama.cpp says, with 503, between opening its socket and having its weights."""

EVENTS = "text/event-stream"
DRAIN_S = 0.05
DRAIN_BYTES_MAX = 4096

Answered = aiohttp.ClientResponse | Response
"""What a request comes to, by either way."""


class OpenAIHttp:
    """An engine behind HTTP: on a Unix `socket`, or at the `remote`'s URL such as https://h/v1.

    Connections are made when needed, as many as there are requests: the router limits those. A
    request that could not be sent is tried again for `connect_s`; one that was sent, never, except
    that one of our own engines died before it said a word: then once (were it the request that
    kills the engine, it kills two).
    """

    def __init__(
        self,
        *,
        name: str,
        remote: Remote,
        socket: str | None,
        first_token_s: float,
        stall_s: float,
        clock: Clock,
        tracer: Tracer,
        new_id: Callable[[], str],
        connect_s: float = CONNECT_S,
    ) -> None:
        self._name = name
        self._remote = remote
        self._base = remote.url.rstrip("/")
        self._health = "http://engine/health" if socket else f"{self._base}/models"
        self._socket = socket
        self._first_token_s = first_token_s
        self._stall_s = stall_s
        self._connect_s = connect_s
        self._clock = clock
        self._tracer = tracer
        self._new_id = new_id
        self._tls = tls_context(remote)
        self._session: aiohttp.ClientSession | None = None
        self._upstream: Upstream | None = None

    async def answer(self, request: Request) -> AsyncGenerator[Delta]:
        """Stream the engine's answer. Closing the generator hangs up at once, so the engine stops.

        Not while llama.cpp reads a prompt, though: it then looks after each batch and second only.
        """
        with self._tracer.span(request.trace, "engine", model=self._name) as span:
            sent_s = self._clock.now_s()
            first = True
            async with (
                self._sent(encode(request, self._name)) as (response, deadline_s),
                aclosing(self._deltas(response, deadline_s)) as deltas,
            ):
                async for delta in deltas:
                    if first:
                        first = False
                        span.note(ttft_ms=round((self._clock.now_s() - sent_s) * 1000, 3))
                    _note(span, delta)
                    yield delta

    async def health(self) -> bool:
        """Say within a second whether the engine answers (and, at a URL, takes the key)."""
        try:
            async with (
                asyncio.timeout(HEALTH_S),
                self._opened().get(self._health, allow_redirects=False) as response,
            ):
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def close(self) -> None:
        """Close all connections; answers still under way fail."""
        if self._upstream is not None:
            self._upstream.close()
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        """Return the session, made inside the loop that uses it."""
        if self._session is None:
            self._session = open_session(
                self._remote,
                connector=self._connector(),
                connect_s=self._connect_s,
                accept=EVENTS,
            )
        return self._session

    async def _post(self, url: str, body: bytes, deadline_s: float) -> Answered:
        """Ask by the way that is open to this upstream; redirects are not followed."""
        if self._socket is not None or not is_plain(self._remote):
            async with asyncio.timeout_at(deadline_s):
                return await self._opened().post(url, data=body, allow_redirects=False)
        if self._upstream is None:
            self._upstream = Upstream(
                self._base,
                headers_for(self._remote, accept=EVENTS),
                connect_s=self._connect_s,
                keep_s=KEEPALIVE_S,
            )
        return await self._upstream.post(url, body, deadline_s=deadline_s)

    def _connector(self) -> aiohttp.BaseConnector:
        """A local connection costs microseconds and is never reused, so it is never a stale one."""
        if self._socket is not None:
            return aiohttp.UnixConnector(self._socket, limit=0, force_close=True)
        return connector_to(self._tls)

    @asynccontextmanager
    async def _sent(self, body: bytes) -> AsyncGenerator[tuple[Answered, float]]:
        """Hold the response to a request; yields it and the loop's time of the first token's end.

        Leaving the block closes the connection, unless the response was read to its end.
        """
        response, deadline_s = await self._send(body)
        try:
            yield response, deadline_s
        finally:
            response.close()

    async def _send(self, body: bytes) -> tuple[Answered, float]:
        """Send the request as soon as there is somebody to take it."""
        give_up_s = self._clock.now_s() + self._connect_s
        died = False
        while True:
            deadline_s = asyncio.get_running_loop().time() + self._first_token_s
            try:
                return await self._attempt(body, deadline_s), deadline_s
            except EngineUnreachableError as error:
                if error.retry_s is None or self._clock.now_s() >= give_up_s:
                    raise
            except _DiedError:
                if died:
                    raise
                died = True
                give_up_s = self._clock.now_s() + self._connect_s
            await self._clock.sleep(CONNECT_PAUSE_S)

    async def _attempt(self, body: bytes, deadline_s: float) -> Answered:
        """Return a response with status 200; an error with `retry_s` says that nothing was done."""
        url = f"{self._base}/chat/completions"
        try:
            response = await self._post(url, body, deadline_s)
        except aiohttp.ClientSSLError as cause:
            raise EngineUnreachableError(
                f"{self._name} cannot be reached ({why_unreachable(cause)})"
            ) from cause
        except aiohttp.ConnectionTimeoutError as cause:
            raise self._unreachable(cause) from cause
        except TimeoutError as cause:
            raise self._silent(self._first_token_s) from cause
        except aiohttp.ClientHttpProxyError as cause:
            raise EngineUnreachableError(
                f"{self._name} cannot be reached ({why_unreachable(cause)})"
            ) from cause
        except aiohttp.ClientError as cause:
            if _not_sent(cause):
                raise self._unreachable(cause) from cause
            raise self._broke_off(cause, before_a_word=self._socket is not None) from cause
        if response.status == 200:
            return response
        try:
            raise await self._refusal(response)
        finally:
            response.close()

    async def _deltas(self, response: Answered, deadline_s: float) -> AsyncGenerator[Delta]:
        """Read the stream to its end mark. Only payloads count as progress, not bare pings."""
        events = Events()
        assembler = Assembler(self._name, self._new_id, redacted=self._remote.redacted)
        wait_s = self._first_token_s
        loop, content = asyncio.get_running_loop(), response.content
        patience = Patience(lambda: content.set_exception(TimeoutError()))
        try:
            while not assembler.done:
                patience.starts(deadline_s)
                chunk = await self._read(content, wait_s)
                patience.stops()
                if not chunk:
                    break
                payloads = events.feed(chunk)
                for payload in payloads:
                    for delta in assembler.feed(payload):
                        yield delta
                if payloads:
                    wait_s = self._stall_s
                    deadline_s = loop.time() + wait_s
        finally:
            patience.end()
        if self._socket is None:
            await _drain(response)
        for delta in assembler.end():
            yield delta

    async def _read(self, content: aiohttp.StreamReader | Response, wait_s: float) -> bytes:
        """Return the next bytes, or none at the end of the body."""
        try:
            return await content.readany()
        except TimeoutError as cause:
            raise self._silent(wait_s) from cause
        except aiohttp.ClientError as cause:
            raise self._broke_off(cause) from cause

    async def _refusal(self, response: Answered) -> MurmurateError:
        """Return the error that stands for a status other than 200."""
        try:
            async with asyncio.timeout(REFUSAL_S):
                body = await response.content.read(REFUSAL_BYTES_MAX)
        except (aiohttp.ClientError, TimeoutError):
            body = b""
        said = said_by(self._remote, body)
        status, name = response.status, self._name
        if said.message == LLAMA_LOADING:
            return EngineUnreachableError(f"{name} is still loading its weights", retry_s=1)
        if status in (401, 403):
            return EngineUnreachableError(f"{name} refuses its key ({status}); check models.*.key")
        if status == 404:
            return EngineUnreachableError(
                f"{name} is not there (404); check models.*.url and models.*.upstream_name"
            )
        if status == 402 or said.code == "insufficient_quota":
            return EngineUnreachableError(f"{name}: the account's quota is used up ({status})")
        if status in (429, 503):
            retry_s = retry_after_s(response.headers, unix_ms=self._clock.unix_ms())
            return OverloadedError(f"{name} is busy ({status}): {said.detail}", retry_s=retry_s)
        if 400 <= status < 500:
            return said.too_long(name) or BadRequestError(f"{name}: {said.detail}")
        return EngineFailedError(f"{name} answered {status}: {said.detail}")

    def _unreachable(self, cause: Exception) -> EngineUnreachableError:
        why = why_unreachable(cause)
        return EngineUnreachableError(f"{self._name} cannot be reached ({why})", retry_s=1)

    def _silent(self, wait_s: float) -> EngineFailedError:
        return EngineFailedError(f"{self._name} was silent for {wait_s:g} s")

    def _broke_off(self, cause: Exception, *, before_a_word: bool = False) -> EngineFailedError:
        kind = _DiedError if before_a_word else EngineFailedError
        return kind(f"{self._name} broke off ({type(cause).__name__})")


class _DiedError(EngineFailedError):
    """Our own engine's process ended between taking a request and its answer's first byte."""


def _not_sent(cause: aiohttp.ClientError) -> bool:
    """Say whether the upstream can't have had the whole request.

    A Unix socket whose queue of connections is full answers EAGAIN, which asyncio takes for a
    connection under way: it is found out to be none only when the request is written.
    """
    if isinstance(cause, aiohttp.ClientConnectorError):
        return True
    return isinstance(cause, aiohttp.ClientOSError) and (
        cause.errno == errno.ENOTCONN
        or isinstance(cause.__cause__, aiohttp.ClientConnectionResetError)
    )


async def _drain(response: Answered) -> None:
    """Read the few bytes behind the end mark, without which the connection can't be used again."""
    with suppress(TimeoutError, aiohttp.ClientError):
        await within(DRAIN_S, response.content.read(DRAIN_BYTES_MAX))


def _note(span: Span, delta: Delta) -> None:
    if isinstance(delta, Usage):
        span.note(
            tokens_in=delta.tokens_in,
            tokens_out=delta.tokens_out,
            tokens_cached=delta.tokens_cached,
        )
