"""Answers in Redis, which several servers share.

A value is what it was packed as, behind the time at which it becomes stale (8 bytes, milliseconds
since 1970): that is checked at each reading, whatever Redis still has.
"""

import asyncio
import struct
from contextlib import suppress

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from murmurate.core.clock import Clock
from murmurate.core.ports import EventLog

PREFIX = b"murmurate:answer:1:"
GET_S = 0.1
"""A slower answer is a miss: an engine may be asked as well."""
PUT_S = 1.0
REST_S = 1.0
"""How long nothing is asked of a Redis that has just failed."""
PUTS_MAX = 256
"""So many values are on their way at most; further ones are not kept."""
CONNECTIONS_MAX = 64

_STALE = struct.Struct(">Q")
_FAILURES = (redis.RedisError, OSError, TimeoutError, UnicodeError)


class RedisAnswers:
    """The `Shared` port over one Redis."""

    def __init__(self, url: str, *, clock: Clock, events: EventLog) -> None:
        """`ValueError`: the URL is none of a Redis."""
        pool = redis.BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS_MAX,
            timeout=PUT_S,
            socket_connect_timeout=PUT_S,
            socket_timeout=PUT_S,
            retry=Retry(NoBackoff(), 0),
        )
        self._redis = redis.Redis.from_pool(pool)
        self._clock = clock
        self._events = events
        self._rests_until_s = 0.0
        self._is_well = True
        self._puts: set[asyncio.Task[None]] = set()
        self.hits = 0
        self.misses = 0

    async def get(self, key: bytes) -> tuple[bytes, float] | None:
        """Return a value and for how many seconds it is good; None, too, when Redis is away."""
        found = await self._found(key)
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
        return found

    async def _found(self, key: bytes) -> tuple[bytes, float] | None:
        if self._rests():
            return None
        try:
            async with asyncio.timeout(GET_S):
                kept = await self._redis.get(PREFIX + key)
        except _FAILURES as cause:
            self._failed(cause)
            return None
        self._works()
        if not isinstance(kept, bytes) or len(kept) < _STALE.size:
            return None
        left_s = (_STALE.unpack_from(kept)[0] - self._clock.unix_ms()) / 1000
        return (kept[_STALE.size :], left_s) if left_s > 0 else None

    def put(self, key: bytes, value: bytes, *, ttl_s: float) -> None:
        """Send a value on its way."""
        if self._rests() or len(self._puts) >= PUTS_MAX or ttl_s * 1000 < 1:
            return
        task = asyncio.create_task(self._put(key, value, int(ttl_s * 1000)))
        self._puts.add(task)
        task.add_done_callback(self._puts.discard)

    async def _put(self, key: bytes, value: bytes, ttl_ms: int) -> None:
        stale = _STALE.pack(self._clock.unix_ms() + ttl_ms)
        try:
            async with asyncio.timeout(PUT_S):
                await self._redis.set(PREFIX + key, stale + value, px=ttl_ms)
        except _FAILURES as cause:
            self._failed(cause)
        else:
            self._works()

    async def close(self) -> None:
        """Finish what is on its way, then hang up."""
        if self._puts:
            await asyncio.wait(self._puts, timeout=PUT_S)
        with suppress(*_FAILURES):
            await self._redis.aclose()

    def _rests(self) -> bool:
        return self._clock.now_s() < self._rests_until_s

    def _failed(self, cause: BaseException) -> None:
        self._rests_until_s = self._clock.now_s() + REST_S
        if self._is_well:
            self._is_well = False
            self._events.event("answers.shared_away", fault=type(cause).__name__)

    def _works(self) -> None:
        if not self._is_well:
            self._is_well = True
            self._events.event("answers.shared_back")
