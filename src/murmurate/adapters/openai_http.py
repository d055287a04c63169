"""Any engine behind HTTP: our own workers on a socket, or a server elsewhere at its URL."""

import asyncio
import errno
import math
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress

import aiohttp

from murmurate.adapters.dialects import WIRES, Assembler
from murmurate.adapters.http_stream import Response, Upstream, is_plain
from murmurate.adapters.openai_wire import Events
from murmurate.adapters.remote import (
    KEEPALIVE_S,
    connector_to,
    headers_for,
    open_session,
    refusal_of,
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

NO_STREAMS = {"text/html", "text/plain", "application/json"}
"""What proxies and web servers answer with; a stream that only bears a wrong name is read."""

OUT_OF_CREDIT = "credit balance is too low"
"""What Anthropic says, with 400."""

AGAIN = {408, 409, 425}
"""What OpenAI's and Anthropic's own clients try again, though it is said to be the client's."""

BUSY = {429, 503, 529}
"""529 is Anthropic's word for 503."""

EVENTS = "text/event-stream"
DRAIN_S = 0.05
DRAIN_BYTES_MAX = 4096

Answered = aiohttp.ClientResponse | Response
"""What a request comes to, by either way."""


class OpenAIHttp:
    """An engine behind HTTP: on a Unix `socket`, or at the `remote`'s URL such as https://h/v1.

    Connections are made when needed, as many as there are requests: the router limits those. A
    request that could not be sent is tried again for `patience_s` (`connect_s`, unless it says
    otherwise); one that was sent, never, except that one of our own engines died before it said a
    word: then once (were it the request that kills the engine, it kills two).
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
        patience_s: float | None = None,
        label: str | None = None,
    ) -> None:
        """`label` names it in traces, where several servers stand for one model."""
        self._name = name
        self._remote = remote
        self._base = remote.url.rstrip("/")
        self._health = "http://engine/health" if socket else f"{self._base}/models"
        self._socket = socket
        self._first_token_s = first_token_s
        self._stall_s = stall_s
        self._connect_s = connect_s
        self._patience_s = connect_s if patience_s is None else patience_s
        self._wire = WIRES[remote.dialect]
        self._facts = {"model": name} if label is None else {"model": name, "upstream": label}
        self._clock = clock
        self._tracer = tracer
        self._new_id = new_id
        self._tls = tls_context(remote)
        self._session: aiohttp.ClientSession | None = None
        self._upstream: Upstream | None = None

    async def answer(
        self, request: Request, *, within_s: float = math.inf
    ) -> AsyncGenerator[Delta]:
        """Stream the engine's answer. Closing the generator hangs up at once, so the engine stops.

        Not while llama.cpp reads a prompt, though: it then looks after each batch and second only.
        """
        with self._tracer.span(request.trace, "engine", **self._facts) as span:
            sent_s, first = self._clock.now_s(), True
            due = _Due(within_s)
            response = await self._send(self._wire.encode(request, self._name), due)
            content = response.content
            patience = Patience(lambda: content.set_exception(TimeoutError()))
            try:
                events = Events()
                read = self._wire.assembler(
                    self._name, self._new_id, redacted=self._remote.redacted
                )
                while not read.done:
                    patience.starts(due.at_s)
                    chunk = await self._read(content, due)
                    patience.stops()
                    if not chunk:
                        break
                    seen = read.events
                    for payload in events.feed(chunk):
                        for delta in read.feed(payload):
                            if first:
                                first = self._note_first(span, sent_s)
                            yield delta
                    if read.events > seen:  # a bare ping is no progress
                        due.within(self._stall_s)
                for delta in await self._last(response, read):
                    if first:
                        first = self._note_first(span, sent_s)
                    _note(span, delta)
                    yield delta
            finally:
                patience.end()
                response.close()

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

    async def _send(self, body: bytes, due: "_Due") -> Answered:
        """Send the request as soon as there is somebody to take it; its first token is due then."""
        give_up_s = self._clock.now_s() + min(self._patience_s, due.wait_s)
        died = False
        while True:
            due.within(self._first_token_s)
            try:
                return await self._attempt(body, due)
            except EngineUnreachableError as error:
                if error.retry_s is None or self._clock.now_s() >= give_up_s:
                    raise
            except _DiedError:
                if died:
                    raise
                died = True
                give_up_s = self._clock.now_s() + self._patience_s
            await self._clock.sleep(CONNECT_PAUSE_S)

    async def _attempt(self, body: bytes, due: "_Due") -> Answered:
        """Return a response with status 200; an error with `retry_s` says that nothing was done."""
        url = f"{self._base}{self._wire.path}"
        try:
            response = await self._post(url, body, due.at_s)
        except aiohttp.ClientSSLError as cause:
            raise EngineUnreachableError(
                f"{self._name} cannot be reached ({why_unreachable(cause)})"
            ) from cause
        except aiohttp.ConnectionTimeoutError as cause:
            raise self._unreachable(cause) from cause
        except TimeoutError as cause:
            raise self._silent(due) from cause
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

    async def _last(self, response: Answered, read: Assembler) -> Sequence[Delta]:
        """Return what ends an answer; its connection can be used again then."""
        kind = response.content_type
        if not read.events and not read.done and kind in NO_STREAMS:
            raise EngineFailedError(f"{self._name} answered with {kind} instead of a stream")
        if self._socket is None:
            await _drain(response)
        return read.end()

    def _note_first(self, span: Span, sent_s: float) -> bool:
        """Note how long the first delta took; return that the next one is not the first."""
        span.note(ttft_ms=round((self._clock.now_s() - sent_s) * 1000, 3))
        return False

    async def _read(self, content: aiohttp.StreamReader | Response, due: "_Due") -> bytes:
        """Return the next bytes, or none at the end of the body."""
        try:
            return await content.readany()
        except TimeoutError as cause:
            raise self._silent(due) from cause
        except aiohttp.ClientError as cause:
            raise self._broke_off(cause) from cause

    async def _refusal(self, response: Answered) -> MurmurateError:
        """Return the error that stands for a status other than 200."""
        body = await refusal_of(response.content, bytes_max=REFUSAL_BYTES_MAX, seconds=REFUSAL_S)
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
        if status == 402 or said.code == "insufficient_quota" or OUT_OF_CREDIT in said.message:
            return EngineUnreachableError(f"{name}: the account's quota is used up ({status})")
        if status in BUSY:
            retry_s = retry_after_s(response.headers, unix_ms=self._clock.unix_ms())
            return OverloadedError(f"{name} is busy ({status}): {said.detail}", retry_s=retry_s)
        if 400 <= status < 500 and status not in AGAIN:
            return said.too_long(name) or BadRequestError(f"{name}: {said.detail}")
        return EngineFailedError(f"{name} answered {status}: {said.detail}")

    def _unreachable(self, cause: Exception) -> EngineUnreachableError:
        why = why_unreachable(cause)
        return EngineUnreachableError(f"{self._name} cannot be reached ({why})", retry_s=1)

    def _silent(self, due: "_Due") -> EngineFailedError:
        if due.at_s == due.ends_s:
            return EngineFailedError(f"{self._name} was not done in time (models.*.total_s)")
        return EngineFailedError(f"{self._name} was silent for {due.wait_s:g} s")

    def _broke_off(self, cause: Exception, *, before_a_word: bool = False) -> EngineFailedError:
        kind = _DiedError if before_a_word else EngineFailedError
        return kind(f"{self._name} broke off ({type(cause).__name__})")


class _Due:
    """When the next word of an answer is due, by the loop's time, and when all of it is."""

    def __init__(self, within_s: float) -> None:
        self._now_s = asyncio.get_running_loop().time
        self.ends_s = self._now_s() + within_s
        self.at_s = self.ends_s
        self.wait_s = within_s

    def within(self, wait_s: float) -> None:
        self.wait_s = wait_s
        self.at_s = min(self._now_s() + wait_s, self.ends_s)


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
