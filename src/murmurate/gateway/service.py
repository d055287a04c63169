"""The gateway: an ASGI application that admits, dispatches and accounts for every request.

`__call__` is what surrounds a request; what a route does with it stands in `completions.py` (the
data path) and `management.py`.
"""

import math
import re
import traceback
from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager

from murmurate.core.clock import Clock
from murmurate.core.errors import (
    ForbiddenError,
    KeyInvalidError,
    MethodNotAllowedError,
    MurmurateError,
    OverloadedError,
    RateLimitedError,
    RunWaitingError,
    ShuttingDownError,
)
from murmurate.core.ids import Ids
from murmurate.core.ports import EventLog, Tracer
from murmurate.core.types import Caller, Frozen, TraceRef
from murmurate.gateway import exchange as asgi
from murmurate.gateway.audit import Trail
from murmurate.gateway.auth import challenge, check_not_in_url, check_place
from murmurate.gateway.chat import error_body, error_event, error_line
from murmurate.gateway.exchange import (
    BODIES_BYTES_MAX,
    BODY_S_MAX,
    COMPRESS_BYTES_MIN,
    EVENTS,
    LINES,
    WRITE_S_MAX,
    ClientGoneError,
    Exchange,
    Receive,
    Room,
    Send,
)
from murmurate.gateway.keyring import Keys, Ticket, secret_in
from murmurate.gateway.policy import Gate, PolicyDeniedError
from murmurate.gateway.ports import Meter
from murmurate.gateway.quota import Bucket, Rate, full, take
from murmurate.gateway.registry import KEYS_MAX
from murmurate.gateway.routes import Handler, Route, Routes
from murmurate.gateway.scopes import Scope, check_scope
from murmurate.gateway.surface import Handlers, open_routes
from murmurate.gateway.tokenring import Tokens
from murmurate.gateway.tokens import is_token

BUCKETS_MAX = 2 * KEYS_MAX
BUCKET_KEPT_S = 60.0
"""How long a bucket is kept, where there are too many; by then most are full again."""
AUDITED = frozenset({Scope.ADMIN, Scope.OPERATOR, Scope.INGEST, Scope.APPROVE})
"""What administrators do: tries that are refused are counted in the trail."""
CLIENT_GONE = 499
"""nginx's code for a client that closed the connection."""

_TRACEPARENT = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")


class Limits(Frozen, frozen=True):
    """What the gateway takes: requests at a time, per second for one key, and how slow ones."""

    requests_max: int
    rate: Rate
    body_s: float = BODY_S_MAX
    write_s: float = WRITE_S_MAX
    bodies_bytes_max: int = BODIES_BYTES_MAX
    compress_bytes_min: int = COMPRESS_BYTES_MIN


class Gateway:
    """HTTP in, HTTP out. Everything it needs comes in through ports."""

    def __init__(
        self,
        handlers: Handlers,
        *,
        routes: Sequence[Route],
        keys: Keys,
        tokens: Tokens,
        gate: Gate,
        trail: Trail,
        limits: Limits,
        hosts: Collection[str],
        clock: Clock,
        ids: Ids,
        tracer: Tracer,
        meter: Meter,
        log: EventLog,
    ) -> None:
        self._keys = keys
        self._tokens = tokens
        self._gate = gate
        self._trail = trail
        self._limits = limits
        self._hosts = hosts
        self._clock = clock
        self._ids = ids
        self._tracer = tracer
        self._meter = meter
        self._log = log
        self._buckets: dict[str, Bucket] = {}
        self._room = Room(limits.bodies_bytes_max)
        self._in_flight = 0
        self._draining = False
        self._open = open_routes(handlers.management)
        self._routes = Routes(routes)

    @property
    def routes(self) -> tuple[Route, ...]:
        """What a client with a key can ask for."""
        return self._routes.all

    @property
    def open_paths(self) -> tuple[str, ...]:
        """What everybody can ask for."""
        return tuple(self._open)

    def drain(self) -> None:
        """Refuse new requests from now on; those under way go on."""
        self._draining = True

    async def __call__(self, scope: asgi.Scope, receive: Receive, send: Send) -> None:
        """Serve one request: every error becomes an answer, every answer is counted."""
        limits = self._limits
        exchange = Exchange(
            scope,
            receive,
            send,
            body_s=limits.body_s,
            write_s=limits.write_s,
            compress_bytes_min=limits.compress_bytes_min,
            room=self._room,
        )
        route = self._route(exchange.path)
        began_s = self._clock.now_s()
        self._in_flight += 1
        self._meter.in_flight(1)
        try:
            await self._answer(exchange)
        except ClientGoneError:
            exchange.status = CLIENT_GONE
        finally:
            exchange.close()
            self._in_flight -= 1
            self._meter.in_flight(-1)
            self._account(exchange, route, self._clock.now_s() - began_s)

    async def _answer(self, exchange: Exchange) -> None:
        """Admit and dispatch; an error before the first byte is a plain error response."""
        try:
            await self._dispatch(exchange)
        except ClientGoneError:
            raise
        except MurmurateError as raised:
            error = raised
        except Exception as fault:  # noqa: BLE001 - a bug of ours must not look like a dead server
            place = traceback.extract_tb(fault.__traceback__)[-1]  # never the text: it may quote
            self._log.event(
                "request.fault", type=type(fault).__name__, file=place.filename, line=place.lineno
            )
            error = MurmurateError("a fault of this server; see its log")
        else:
            return
        # Not inside the handlers above: an error raised there would carry the fault's text along.
        await self._refuse(exchange, error)

    async def _dispatch(self, exchange: Exchange) -> None:
        if public := self._open.get(exchange.path):
            _check_method(exchange, "GET", "HEAD")
            await public(exchange)
            return
        check_place(exchange.header(b"host"), exchange.header(b"origin"), self._hosts)
        ticket = await self._ticket(exchange)
        route = self._find(exchange)
        try:
            check_scope(ticket.caller, route.scope)
            self._admit(ticket.caller)
            exchange.action = route.action
            if not route.names_model:
                await self._gate.check(ticket.caller, route.action)
            await self._traced(exchange, ticket, route.handler)
        except ForbiddenError as error:
            if route.scope in AUDITED or isinstance(error, PolicyDeniedError):
                self._trail.refuse(ticket.caller, f"{route.method} {route.path}", error.code)
            raise

    async def _ticket(self, exchange: Exchange) -> Ticket:
        """Return who asks, by key or token; neither has a place in a URL, which everybody logs."""
        check_not_in_url(exchange.query())
        authorization = exchange.header(b"authorization")
        if self._tokens and is_token(secret := secret_in(authorization)):
            return await self._tokens.admit(secret)
        return self._keys.admit(authorization)

    def _held(self, ticket: Ticket) -> AbstractAsyncContextManager[None]:
        """Return what ends a request with the key or token that it came with."""
        of_token = ticket.caller.ends_ms is not None
        return self._tokens.held(ticket) if of_token else self._keys.held(ticket)

    async def _traced(self, exchange: Exchange, ticket: Ticket, handler: Handler) -> None:
        """Run the handler as the root of a trace whose id the client gets to know.

        It runs as long as the key is good, and ends in the middle of its work when that is over.
        """
        caller = ticket.caller
        parent = _parent(exchange.header(b"traceparent")) or TraceRef(self._ids.trace_id())
        exchange.headers.append((b"x-murmurate-trace", parent.trace_id.encode()))
        place = {"tenant": caller.tenant, "path": exchange.path}
        with self._tracer.span(parent, "gateway", **place) as span:
            async with self._held(ticket):
                await handler(exchange, caller, span)
            span.note(status=exchange.status)

    async def _refuse(self, exchange: Exchange, error: MurmurateError) -> None:
        """Send the error, unless the response has begun: then it can only break off."""
        if exchange.ended:
            return
        if exchange.status:
            await self._break_off(exchange, error)
            return
        if error.retry_s is not None:
            seconds = str(max(1, math.ceil(error.retry_s))).encode()
            exchange.headers.append((b"retry-after", seconds))
        if isinstance(error, KeyInvalidError):
            exchange.headers.append((b"www-authenticate", challenge(error)))
        if isinstance(error, RunWaitingError):
            # OpenAI's clients ask again at a 409: each time would begin one more run that waits.
            exchange.headers.append((b"x-should-retry", b"false"))
        await exchange.answer_json(error.http_status, error_body(error))

    async def _break_off(self, exchange: Exchange, error: MurmurateError) -> None:
        """End a stream whose key has ended with that error, in the stream's form.

        Handlers put the errors of their own work into their streams themselves.
        """
        if not isinstance(error, KeyInvalidError):
            raise error
        self._log.event("stream.broken", code=error.code)
        if exchange.streams not in {EVENTS, LINES}:
            exchange.cut()
        form = error_event if exchange.streams == EVENTS else error_line
        await exchange.write((exchange.last_words or form)(error))
        await exchange.end()

    def _admit(self, caller: Caller) -> None:
        """Refuse at once what can't be served: draining, too many at a time, too fast."""
        if self._draining:
            raise ShuttingDownError("this server is shutting down", retry_s=1)
        if self._in_flight > self._limits.requests_max:
            raise OverloadedError(
                f"{self._limits.requests_max} requests are under way: the most this server takes",
                retry_s=1,
            )
        rate, now_s = self._keys.rate(caller.key_id, self._limits.rate), self._clock.now_s()
        bucket = self._buckets.get(caller.key_id) or full(rate, now_s)
        self._buckets[caller.key_id], wait_s = take(bucket, rate, now_s)
        if len(self._buckets) > BUCKETS_MAX:  # some are of keys that were forgotten, or of tokens
            since_s = now_s - BUCKET_KEPT_S
            self._buckets = {i: it for i, it in self._buckets.items() if it.at_s >= since_s}
        if wait_s:
            raise RateLimitedError(
                f"this key may ask {rate.per_s * 60:g} times a minute; again in {wait_s:.1f} s",
                retry_s=wait_s,
            )

    def _find(self, exchange: Exchange) -> Route:
        """Return the route of method and path, or say what is wrong with either."""
        methods = self._routes.methods(exchange.path)
        _check_method(exchange, *methods)
        return methods[exchange.method]

    def _route(self, path: str) -> str:
        """Return the path as a label: bounded in number, whatever clients ask for."""
        return path if path in self._open else self._routes.label(path)

    def _account(self, exchange: Exchange, route: str, seconds: float) -> None:
        """Count the request and write its line."""
        self._meter.request(route, exchange.status, seconds)
        if route in self._open:
            return
        trace = dict(exchange.headers).get(b"x-murmurate-trace", b"").decode()
        ms = round(seconds * 1000, 1)
        self._log.event("request.done", route=route, status=exchange.status, ms=ms, trace=trace)


def _check_method(exchange: Exchange, *methods: str) -> None:
    if exchange.method not in methods:
        exchange.headers.append((b"allow", ", ".join(methods).encode()))
        takes = " or ".join(methods)
        raise MethodNotAllowedError(f"{exchange.path} takes {takes}, not {exchange.method}")


def _parent(traceparent: bytes | None) -> TraceRef | None:
    """Return the caller's place in its own trace (W3C Trace Context), when it is well-formed."""
    found = _TRACEPARENT.fullmatch(traceparent or b"")
    if found is None or not int(found[1], 16) or not int(found[2], 16):
        return None
    return TraceRef(found[1].decode(), found[2].decode())
