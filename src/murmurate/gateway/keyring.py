"""The keys at hand: who is asking, by the hash of a secret, and for how long that stays true."""

import asyncio
from collections.abc import Iterable
from typing import Any

from murmurate.core.clock import Clock
from murmurate.core.errors import KeyInvalidError
from murmurate.core.types import Caller, Frozen
from murmurate.gateway.keys import Key, digest, ends_ms, rate_of, refusal
from murmurate.gateway.quota import Rate


class Ticket(Frozen, frozen=True):
    """A caller who has shown a good secret; `sha256` says which."""

    caller: Caller
    sha256: str


class Keys:
    """All keys that are known, in memory: to look one up reads nothing and writes nothing.

    When a key was last used is remembered here only, so it starts anew with the process.
    """

    def __init__(self, keys: Iterable[Key] = (), *, clock: Clock) -> None:
        self._clock = clock
        self._keys: dict[str, Key] = {}
        self._tickets: dict[str, Ticket] = {}
        self._used_ms: dict[str, int] = {}
        self._holds: dict[str, dict[_Hold, None]] = {}
        """In the order of their beginnings, so that a run of the simulation can be repeated."""
        for key in keys:
            self.put(key)

    def __len__(self) -> int:
        """Return how many keys are known, also those that have ended."""
        return len(self._keys)

    def all(self) -> list[Key]:
        """Return every known key, the oldest first."""
        return sorted(self._keys.values(), key=lambda key: (key.record.created_ms, key.record.id))

    def get(self, key_id: str) -> Key | None:
        """Return a key by its id."""
        return self._keys.get(key_id)

    def last_used_ms(self, key_id: str) -> int | None:
        """Return when a key last opened something since this process started."""
        return self._used_ms.get(key_id)

    def rate(self, key_id: str, default: Rate) -> Rate:
        """Return how fast a key may ask."""
        return rate_of(self._keys[key_id], default)

    def admit(self, authorization: bytes | None) -> Ticket:
        """Return whom the `Authorization` header belongs to, or raise `KeyInvalidError`.

        Looking up a hash takes the same time for every wrong key, so nothing is learned from it.
        """
        if authorization is None:
            raise KeyInvalidError("no key: send the header `Authorization: Bearer KEY`")
        scheme, _, secret = authorization.decode("latin-1").partition(" ")
        if scheme.lower() != "bearer" or not secret:
            raise KeyInvalidError("expected the header `Authorization: Bearer KEY`")
        ticket = self._tickets.get(digest(secret.strip()))
        if ticket is None:
            raise KeyInvalidError("this key is not known here")
        now_ms = self._clock.unix_ms()
        if (error := self._refusal(ticket, now_ms)) is not None:
            raise error
        self._used_ms[ticket.caller.key_id] = now_ms
        return ticket

    def put(self, key: Key) -> None:
        """Know a key, or its new state; requests that it no longer covers end now.

        A state older than the one at hand changes nothing: who read the log slowly undoes nothing.
        """
        key_id = key.record.id
        old = self._keys.get(key_id)
        if old is not None and key.seq < old.seq:
            return
        self._keys[key_id] = key
        fresh = {sha256 for sha256 in (key.sha256, key.old_sha256) if sha256 is not None}
        for gone in _secrets(old) - fresh:
            del self._tickets[gone]
        for sha256 in fresh:
            self._tickets[sha256] = Ticket(key.caller, sha256)
        self._end_holds(key_id)

    def drop(self, key_id: str) -> None:
        """Know nothing of a key from now on; its requests under way end now."""
        key = self._keys.pop(key_id)
        for sha256 in _secrets(key):
            del self._tickets[sha256]
        self._end_holds(key_id)
        self._used_ms.pop(key_id, None)
        self._holds.pop(key_id, None)

    def held(self, ticket: Ticket) -> "_Hold":
        """Run the block as long as the secret is good, then cancel it with why it is not.

        The error (`KeyInvalidError`) comes at once, also where the block waits for somebody else.
        """
        return _Hold(self, ticket)

    def take(self, hold: "_Hold") -> None:
        """Know of a request under way."""
        self._holds.setdefault(hold.ticket.caller.key_id, {})[hold] = None
        hold.ends_at(self._loop_time(hold.ticket))

    def release(self, hold: "_Hold") -> None:
        """Forget it: it is over."""
        hold.ends_at(None)
        self._holds.get(hold.ticket.caller.key_id, {}).pop(hold, None)

    def _end_holds(self, key_id: str) -> None:
        """End the requests of secrets that are not good any more, and set the others' time anew.

        The one that is changing the key right now goes on: it must be able to answer.
        """
        now_s = asyncio.get_running_loop().time() if self._holds.get(key_id) else 0.0
        for hold in list(self._holds.get(key_id, ())):
            if hold.task is asyncio.current_task() or hold.is_over:
                continue
            over = self._refusal(hold.ticket, self._clock.unix_ms()) is not None
            hold.ends_at(now_s if over else self._loop_time(hold.ticket))
            if over:
                self._holds[key_id].pop(hold, None)

    def why_ended(self, ticket: Ticket) -> KeyInvalidError:
        """Return why a request was ended; its timer may be a little ahead of the wall clock."""
        key, now_ms = self._keys.get(ticket.caller.key_id), self._clock.unix_ms()
        end_ms = None if key is None else ends_ms(key, ticket.sha256)
        return self._refusal(ticket, max(now_ms, end_ms or 0)) or KeyInvalidError("this key ended")

    def _refusal(self, ticket: Ticket, now_ms: int) -> KeyInvalidError | None:
        key = self._keys.get(ticket.caller.key_id)
        if key is None:  # it ended, and was forgotten on top of that
            return KeyInvalidError("this key is not known here")
        return refusal(key, ticket.sha256, now_ms)

    def _loop_time(self, ticket: Ticket) -> float | None:
        """Return when the secret stops by itself, on the clock of the event loop."""
        end_ms = ends_ms(self._keys[ticket.caller.key_id], ticket.sha256)
        if end_ms is None:
            return None
        left_s = (end_ms - self._clock.unix_ms()) / 1000
        return asyncio.get_running_loop().time() + max(left_s, 0.0)


class _Hold:
    """A request under way, and the timer that ends it: most have none, as most keys do not end."""

    __slots__ = ("_keys", "_timer", "is_over", "task", "ticket")

    def __init__(self, keys: Keys, ticket: Ticket) -> None:
        self.ticket = ticket
        self.task: asyncio.Task[Any] | None = None
        self.is_over = False
        self._keys = keys
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> None:
        self.task = asyncio.current_task()
        self._keys.take(self)

    async def __aexit__(self, kind: object, cause: BaseException | None, at: object) -> None:
        self._keys.release(self)
        if not self.is_over or self.task is None or self.task.uncancel():
            return
        if isinstance(cause, asyncio.CancelledError):
            raise self._keys.why_ended(self.ticket) from cause

    def ends_at(self, loop_s: float | None) -> None:
        """Set when it ends, by the loop's time; None for never."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if loop_s is not None:
            self._timer = asyncio.get_running_loop().call_at(loop_s, self._end)

    def _end(self) -> None:
        self.is_over = True
        if self.task is not None:
            self.task.cancel()


def _secrets(key: Key | None) -> set[str]:
    if key is None:
        return set()
    return {sha256 for sha256 in (key.sha256, key.old_sha256) if sha256 is not None}
