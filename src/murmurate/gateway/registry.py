"""The keys in the log: made, rotated and revoked there first, and known to all servers soon after.

Each change is one append: to the key's own stream, and to the trail (`audit.py`), which says who
did it. Other servers follow the trail to learn which keys to read again.
"""

import asyncio
from collections.abc import Callable
from contextlib import aclosing

import msgspec

from murmurate.core.clock import Clock
from murmurate.core.errors import LogCorruptError, MurmurateError, TooManyKeysError
from murmurate.core.ids import Ids
from murmurate.core.ports import Entry, EventLog, Log
from murmurate.core.types import Caller
from murmurate.gateway.audit import AUDIT, Audit, Fact, entries_of
from murmurate.gateway.grants import is_usable_operator
from murmurate.gateway.keyring import Keys
from murmurate.gateway.keys import (
    CREATED,
    FORGOTTEN,
    REGISTRY,
    REVOKED,
    ROTATED,
    Key,
    KeyRecord,
    Revocation,
    Rotation,
    digest,
    folded,
    stream_of,
)
from murmurate.gateway.scopes import EVERYTHING, OPERATOR_TENANT

OF_KEYS = "key."
"""What entries of the trail begin with that tell of a changed key."""
FOLLOW_S = 1.0
"""How often a server looks for what another one has changed."""
KEYS_MAX = 10_000
KEYS_PER_TENANT_MAX = 1_000
"""Known at a time, as all are kept in memory. Where one more is made, the key of that tenant that
ended first is forgotten; when none has ended, there is no room. The audit stream forgets nothing.
"""
ENDED_KEPT_MS = 90 * 86_400_000
"""How long a revoked or expired key is still listed at most."""

OnSecret = Callable[[str, str], None]
"""Told of every new secret: the hash that it replaces ("" for none), and the secret."""


class Registry:
    """Changes keys: durable when a method returns, and in force in this process."""

    def __init__(self, keys: Keys, *, log: Log, clock: Clock, ids: Ids) -> None:
        self._keys = keys
        self._log = log
        self._clock = clock
        self._ids = ids
        self._audit_seen = 0
        self._catching_up = asyncio.Lock()
        self._damaged: dict[str, LogCorruptError] = {}
        """What is still to be noted, by the key (or stream)."""

    async def open(self) -> list[LogCorruptError]:
        """Read all keys; forget those that ended long ago. Return what is damaged of them.

        A damaged key opens nothing, for what can't be read may be its revocation.
        """
        damaged = await self._read_all()
        now_ms = self._clock.unix_ms()
        for key in self._keys.all():
            ended_ms = key.ended_ms(now_ms)
            if ended_ms is not None and now_ms - ended_ms > ENDED_KEPT_MS:
                await self._forget(key.record.id)
        return list(damaged.values())

    def has_operator(self) -> bool:
        """Say whether there is a key that manages all others."""
        now_ms = self._clock.unix_ms()
        return any(is_usable_operator(key, now_ms) for key in self._keys.all())

    async def ensure_operator(self, on_secret: OnSecret, *, kept: str | None = None) -> None:
        """Make a key for whoever owns this machine, unless one that manages all keys is left.

        `on_secret` gets it before the log does: a key that nobody ever saw would lock all out.
        `kept` is a secret that its owner has already; a new one is made where there is none.
        """
        if self.has_operator():
            return
        secret = kept or self._ids.secret("mur")
        on_secret("", secret)
        await self._add_operator(secret, label="first key")

    async def replace_lost(self, on_secret: OnSecret) -> None:
        """Make one more key for whoever owns this machine and has lost the first; that stays good.

        The log has it before `on_secret`: a secret that came too early would be taken for a good
        one. `TooManyKeysError` when there is no room for it.
        """
        await self._make_room(OPERATOR_TENANT)
        secret = self._ids.secret("mur")
        await self._add_operator(secret, label="made as the key file was lost")
        on_secret("", secret)

    async def create(self, record: KeyRecord, by: Caller) -> Key:
        """Add a key. `TooManyKeysError` when its tenant, or the server, has no room for it."""
        await self._make_room(record.tenant)
        facts: dict[str, Fact] = {
            "label": record.label,
            "scopes": list(record.scopes),
            "roles": list(record.roles),
            "lane": record.lane.value,
            "expires_ms": record.expires_ms,
            "requests_per_minute": record.requests_per_minute,
            "burst": record.burst,
        }
        audit = _audit(CREATED, record, by, at_ms=record.created_ms, facts=facts)
        return await self._append(None, CREATED, record, audit)

    async def rotate(self, key: Key, *, secret: str, grace_ms: int, by: Caller) -> Key:
        """Replace the secret; the old one is good for `grace_ms` more, older ones for none."""
        now_ms = self._clock.unix_ms()
        rotation = Rotation(digest(secret), now_ms, now_ms + grace_ms)
        audit = _audit(ROTATED, key.record, by, at_ms=now_ms, facts={"grace_ms": grace_ms})
        return await self._append(key, ROTATED, rotation, audit)

    async def revoke(self, key: Key, *, by: Caller) -> Key:
        """Withdraw a key with all its secrets; what runs with it ends at once."""
        now_ms = self._clock.unix_ms()
        audit = _audit(REVOKED, key.record, by, at_ms=now_ms)
        return await self._append(key, REVOKED, Revocation(now_ms), audit)

    async def catch_up(self) -> None:
        """Learn what other servers have changed since the last time; one call after the other.

        A key that is found damaged opens nothing from then on, as after `open`; `follow` notes it.
        """
        async with self._catching_up:
            try:
                changed, seen = await self._changed()
            except LogCorruptError as error:  # the keys themselves still say how they are
                self._damaged[AUDIT] = error
                self._damaged |= await self._read_all()
                return
            for key_id, last_kind in changed.items():
                if last_kind != FORGOTTEN:
                    if (error := await self._read_or_drop(key_id)) is not None:
                        self._damaged[key_id] = error
                elif self._keys.get(key_id) is not None:
                    self._keys.drop(key_id)
            self._audit_seen = max(self._audit_seen, seen)

    async def follow(self, events: EventLog) -> None:
        """Catch up for ever; an outage of the log is noted once and outlasted."""
        failed = False
        while True:
            await self._clock.sleep(FOLLOW_S)
            try:
                await self.catch_up()
                failed = False
            except MurmurateError as error:
                if not failed:
                    events.event("keys.unread", code=error.code, detail=error.detail)
                failed = True
            while self._damaged:
                name, damage = self._damaged.popitem()
                events.event("keys.damaged", key=name, code=damage.code, detail=damage.detail)

    async def _changed(self) -> tuple[dict[str, str], int]:
        """Return the keys that the audit stream names since the last time, and its end.

        `LogCorruptError`: an entry of it can't be read.
        """
        changed: dict[str, str] = {}
        seen = self._audit_seen
        async with aclosing(self._log.read(REGISTRY, AUDIT, after=seen)) as entries:
            async for entry in entries:
                seen = entry.seq
                try:
                    changed[msgspec.json.decode(entry.body, type=Audit).key] = entry.kind
                except (msgspec.MsgspecError, UnicodeDecodeError) as cause:
                    raise LogCorruptError(f"entry {seen} of {AUDIT} can't be read") from cause
        return changed, seen

    async def _read_all(self) -> dict[str, LogCorruptError]:
        """Read every key, and forget those that are not in the log any more; return the damage.

        The end of the audit stream is read first: what is changed meanwhile is read twice then,
        never missed.
        """
        known = [key.record.id for key in self._keys.all()]
        async with aclosing(self._log.streams(REGISTRY, AUDIT)) as streams:
            heads = [info.head async for info in streams if info.stream == AUDIT]
        async with aclosing(self._log.streams(REGISTRY, stream_of(""))) as streams:
            ids = [info.stream.removeprefix(stream_of("")) async for info in streams]
        damaged: dict[str, LogCorruptError] = {}
        for key_id in ids:
            if (error := await self._read_or_drop(key_id)) is not None:
                damaged[key_id] = error
        for key_id in set(known).difference(ids):
            if self._keys.get(key_id) is not None:
                self._keys.drop(key_id)
        self._audit_seen = max(self._audit_seen, *heads, 0)
        return damaged

    async def _read_or_drop(self, key_id: str) -> LogCorruptError | None:
        """Read a key; where that fails for damage, know it no more and return the damage."""
        try:
            await self._read(key_id)
        except LogCorruptError as error:
            if self._keys.get(key_id) is not None:
                self._keys.drop(key_id)
            return error
        return None

    async def _read(self, key_id: str) -> None:
        """Fold what is new in a key's stream, if there is any.

        The key may have changed, or have been forgotten, while the log was read: that stands then.
        """
        before = key = self._keys.get(key_id)
        after = 0 if key is None else key.seq
        async with aclosing(self._log.read(REGISTRY, stream_of(key_id), after=after)) as entries:
            async for entry in entries:
                key = folded(key, seq=entry.seq, kind=entry.kind, body=entry.body)
        forgotten = before is not None and self._keys.get(key_id) is None
        if key is not None and not forgotten:
            self._keys.put(key)

    async def _add_operator(self, secret: str, *, label: str) -> None:
        now_ms = self._clock.unix_ms()
        record = KeyRecord(
            id=self._ids.new("key"),
            sha256=digest(secret),
            tenant=OPERATOR_TENANT,
            scopes=(EVERYTHING,),
            created_ms=now_ms,
            label=label,
        )
        await self._append(None, CREATED, record, _audit(CREATED, record, None, at_ms=now_ms))

    async def _make_room(self, tenant: str) -> None:
        """Forget the tenant's key that ended first, if one more would be too many."""
        own = [key for key in self._keys.all() if key.record.tenant == tenant]
        if len(own) < KEYS_PER_TENANT_MAX and len(self._keys) < KEYS_MAX:
            return
        now_ms = self._clock.unix_ms()
        ended = {key.record.id: end for key in own if (end := key.ended_ms(now_ms)) is not None}
        if not ended:
            full = len(own) >= KEYS_PER_TENANT_MAX
            whose = f"tenant {tenant!r} has {len(own)} keys" if full else "there are as many keys"
            raise TooManyKeysError(f"{whose}, as this service keeps: revoke one of this tenant's")
        await self._forget(min(ended, key=ended.__getitem__))

    async def _forget(self, key_id: str) -> None:
        """Delete the stream of an ended key; the other servers hear of it."""
        key = self._keys.get(key_id)
        assert key is not None, "only keys at hand are forgotten"
        audit = _audit(FORGOTTEN, key.record, None, at_ms=self._clock.unix_ms())
        await self._log.append(entries_of(audit))
        await self._log.forget(REGISTRY, stream_of(key_id))
        self._keys.drop(key_id)

    async def _append(
        self, key: Key | None, kind: str, body: KeyRecord | Rotation | Revocation, audit: Audit
    ) -> Key:
        """Write a change and put it in force. `LogConflictError`: another server was faster."""
        place: tuple[str, str] = (REGISTRY, stream_of(audit.key))
        raw = msgspec.json.encode(body)
        expected: dict[tuple[str, str], int] = {place: 0 if key is None else key.seq}
        seqs = await self._log.append(
            [Entry(*place, kind, raw), *entries_of(audit)], expected=expected
        )
        changed = folded(key, seq=seqs[0], kind=kind, body=raw)
        self._keys.put(changed)
        return changed


def _audit(
    action: str,
    record: KeyRecord,
    by: Caller | None,
    *,
    at_ms: int,
    facts: dict[str, Fact] | None = None,
) -> Audit:
    who = (None, None) if by is None else (by.key_id, by.tenant)
    place = None if by is None else by.place
    return Audit(action, record.id, record.tenant, *who, at_ms, facts or {}, place)
