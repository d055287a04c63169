"""The cache as a stage: the same question of the same tenant is answered from memory."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, contextmanager
from hashlib import blake2b

import msgspec

from murmurate.cache.exact import ExactCache
from murmurate.cache.ports import Shared
from murmurate.core.clock import Clock
from murmurate.core.ports import Model, Tracer
from murmurate.core.types import (
    CallPart,
    Delta,
    Finished,
    Lane,
    Message,
    Part,
    Request,
    ResultPart,
    Usage,
)

WAIT_S = 10.0
"""How long one waits for the answer that another one is being given; then one asks oneself."""

ANSWER_BYTES_MAX = 1024 * 1024
"""A longer answer is passed on but not kept: it would push out hundreds of others."""

Policy = Callable[[Request], str | None]
"""Returns what else the answer depends on (such as the version of the documents), or None when the
request must not be cached."""

_KEY = msgspec.json.Encoder(order="deterministic").encode
_PACK = msgspec.msgpack.Encoder().encode
_UNPACK = msgspec.msgpack.Decoder(list[Delta]).decode


class Cached:
    """Answers what it has answered before; everything else goes below and is kept when it may be.

    Kept are complete answers without side effects. An answer that breaks off leaves nothing behind.
    Who asks what another one has just asked waits for that answer (at most `WAIT_S`, and once):
    a crowd with one question costs one answer.
    """

    def __init__(
        self,
        below: Model,
        *,
        store: ExactCache,
        shared: Shared | None = None,
        clock: Clock,
        tracer: Tracer,
        policy: Policy,
    ) -> None:
        """Answers may be `shared` with other servers where they depend on nothing of this one."""
        self._below = below
        self._store = store
        self._shared = shared
        self._flights: dict[tuple[bytes, Lane], asyncio.Future[None]] = {}
        self._clock = clock
        self._tracer = tracer
        self._policy = policy

    def answer(self, request: Request) -> AsyncGenerator[Delta]:
        """Replay the kept answer, its input tokens marked as cached, or ask below."""
        extra = self._policy(request)
        if extra is None:
            return self._below.answer(request)
        return self._answer(request, key_of(request, extra))

    async def _answer(self, request: Request, key: bytes) -> AsyncGenerator[Delta]:
        with self._tracer.span(request.trace, "cache") as span:
            kept = await self._kept(key, request.lane)
            span.note(hit=kept is not None)
            if kept is not None:
                for delta in kept:
                    yield _replayed(delta)
                return
            recording = _Recording()
            below = msgspec.structs.replace(request, trace=span.ref)
            with self._leading(key, request.lane):
                async with aclosing(self._below.answer(below)) as deltas:
                    async for delta in deltas:
                        if (value := recording.add(delta)) is not None:
                            self._keep(key, value)
                        yield delta

    async def _kept(self, key: bytes, lane: Lane) -> list[Delta] | None:
        """Return the answer from here, from who is being given it just now, or from the others."""
        kept = self._store.get(key, now_s=self._clock.now_s())
        # Somebody urgent never waits for an answer that waits in the batch lane itself.
        if kept is None and (flight := self._flights.get((key, lane))) is not None:
            await asyncio.wait({flight}, timeout=WAIT_S)
            kept = self._store.get(key, now_s=self._clock.now_s())
        if kept is not None:
            return _UNPACK(kept)
        found = None if self._shared is None else await self._shared.get(key)
        if found is None:
            return None
        value, left_s = found
        try:
            deltas = _UNPACK(value)
        except msgspec.DecodeError:  # somebody else's, or of another version
            return None
        self._store.put(key, value, now_s=self._clock.now_s(), ttl_s=left_s)
        return deltas

    def _keep(self, key: bytes, value: bytes) -> None:
        self._store.put(key, value, now_s=self._clock.now_s())
        if self._shared is not None:
            self._shared.put(key, value, ttl_s=self._store.ttl_s)

    @contextmanager
    def _leading(self, key: bytes, lane: Lane) -> Generator[None]:
        """Let others wait for this answer, unless they wait for one already."""
        place = (key, lane)
        if place in self._flights:
            yield
            return
        flight = self._flights[place] = asyncio.get_running_loop().create_future()
        try:
            yield
        finally:
            del self._flights[place]
            flight.set_result(None)


class _Recording:
    """An answer on its way by, as bytes; given up once it is too long to be kept."""

    def __init__(self) -> None:
        self._deltas: list[msgspec.Raw] = []
        self._bytes = 0

    def add(self, delta: Delta) -> bytes | None:
        """Take the next delta; return the whole answer when it is complete and may be kept."""
        if self._bytes > ANSWER_BYTES_MAX:
            return None
        encoded = _PACK(delta)
        self._bytes += len(encoded)
        self._deltas.append(msgspec.Raw(encoded))
        if self._bytes > ANSWER_BYTES_MAX:
            self._deltas.clear()
            return None
        whole = isinstance(delta, Finished) and delta.repeatable
        return _PACK(self._deltas) if whole else None


def key_of(request: Request, extra: str) -> bytes:
    """Return the digest of everything the answer depends on; the tenant leads."""
    parts = (
        request.tenant,
        sorted(request.scopes),
        request.model,
        _with_plain_ids(request.messages),
        request.tools,
        request.sampling,
        extra,
    )
    return blake2b(_KEY(parts), digest_size=32).digest()


def _with_plain_ids(messages: tuple[Message, ...]) -> list[tuple[str, list[Part]]]:
    """Number the ids of tool calls by order, as they are drawn anew in every conversation."""
    numbers: dict[str, str] = {}

    def plain(part: Part) -> Part:
        if isinstance(part, CallPart):
            number = numbers.setdefault(part.id, str(len(numbers)))
            return msgspec.structs.replace(part, id=number)
        if isinstance(part, ResultPart):
            number = numbers.setdefault(part.call_id, str(len(numbers)))
            return msgspec.structs.replace(part, call_id=number)
        return part

    return [(message.role.value, [plain(part) for part in message.parts]) for message in messages]


def _replayed(delta: Delta) -> Delta:
    """Nothing was read or written by an engine for this answer, so its input counts as cached."""
    if isinstance(delta, Usage):
        return msgspec.structs.replace(delta, tokens_cached=delta.tokens_in)
    return delta
