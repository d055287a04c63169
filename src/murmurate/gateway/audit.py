"""The trail: who did what to whom, when, from where, and how it ended. Never a secret.

An entry is written twice in one append: in the stream of the service, which operators read and
servers follow to learn of changed keys, and in one of the tenant that it is about, so that a tenant
reads its own without touching anybody else's.
"""

from contextlib import aclosing

import msgspec

from murmurate.core.clock import Clock
from murmurate.core.errors import LogCorruptError, MurmurateError
from murmurate.core.ports import Entry, EventLog, Log
from murmurate.core.types import Caller, Frozen
from murmurate.gateway.keys import REGISTRY

AUDIT = "audit/keys"
"""The stream of the service; its name is from when keys were all that was audited."""
TENANTS_AUDIT = "audit/all"
"""The stream of a tenant."""
DENIED = "denied"
"""The action that stands for all that was refused within a time."""
COUNTED_S = 60.0
COUNTED_MAX = 200
"""Kinds of refusals that are counted apart within that time; further ones are counted together."""
WINDOW = 500
LOOKED_AT_MAX = 5_000
"""Entries that one question looks at; the answer says where to go on."""

Fact = str | int | float | list[str] | None


class Audit(Frozen, frozen=True):
    """Who did what. `by` is the id of the key, or `ISSUER:SUBJECT`; None: the server itself.

    `key` is the key that it was done to, where it was one; `place` the address that asked.
    """

    action: str
    key: str
    tenant: str
    by: str | None
    by_tenant: str | None
    at_ms: int
    facts: dict[str, Fact] = msgspec.field(default_factory=dict[str, Fact])
    place: str | None = None
    result: str = "done"


class Asked(Frozen, frozen=True, kw_only=True):
    """Which entries of a reader's trail are wanted; the reader `REGISTRY` has those of all tenants.

    The newest come first. `before` is the number of an entry; with `after` the oldest come first,
    to follow the trail.
    """

    reader: str
    tenant: str | None = None
    action: str | None = None
    by: str | None = None
    key: str | None = None
    since_ms: int | None = None
    before: int | None = None
    after: int | None = None
    limit: int = 50

    def wants(self, audit: Audit) -> bool:
        """Tell whether an entry is one of them."""
        return (
            (self.tenant is None or audit.tenant == self.tenant)
            and (self.action is None or (audit.action + ".").startswith(self.action + "."))
            and (self.by is None or audit.by == self.by)
            and (self.key is None or audit.key == self.key)
            and (self.since_ms is None or audit.at_ms >= self.since_ms)
        )


class Page(Frozen, frozen=True):
    """Entries with their numbers; `more`: from where to go on, None at the end."""

    entries: tuple[tuple[int, Audit], ...]
    more: int | None


def entries_of(audit: Audit) -> list[Entry]:
    """Return what is to be appended: the tenant's own copy tells nothing of who is not its own."""
    said = [Entry(REGISTRY, AUDIT, audit.action, msgspec.json.encode(audit))]
    if audit.tenant != REGISTRY:
        own = audit.by_tenant == audit.tenant
        shown = audit if own else msgspec.structs.replace(audit, by=None, place=None)
        said.append(Entry(audit.tenant, TENANTS_AUDIT, audit.action, msgspec.json.encode(shown)))
    return said


class Trail:
    """Writes what is done beside keys, counts what is refused, and reads all of it."""

    def __init__(self, *, log: Log, clock: Clock, events: EventLog) -> None:
        self._log = log
        self._clock = clock
        self._events = events
        self._refused: dict[tuple[str, str, str, str], int] = {}
        """How often since the last writing: by tenant, caller, what and why."""

    async def note(
        self, action: str, by: Caller, *, facts: dict[str, Fact], result: str = "done"
    ) -> None:
        """Write that somebody does something in their own tenant; before it is done.

        `LogUnavailableError`: it can't be written, so it must not be done.
        """
        await self._log.append(entries_of(self._audit(action, by, facts=facts, result=result)))

    def refuse(self, by: Caller, what: str, code: str) -> None:
        """Count something that was refused; `keep` writes how often."""
        kind = (by.tenant, by.key_id, what, code)
        if kind not in self._refused and len(self._refused) >= COUNTED_MAX:
            kind = (REGISTRY, "", "others", code)
        self._refused[kind] = self._refused.get(kind, 0) + 1

    async def keep(self) -> None:
        """Write what was counted, once a minute, for ever; what the log does not take is kept."""
        while True:
            await self._clock.sleep(COUNTED_S)
            try:
                await self.write_counts()
            except MurmurateError as error:
                self._events.event("audit.unwritten", code=error.code, detail=error.detail)

    async def write_counts(self) -> None:
        """Write what was counted since the last time."""
        counted, self._refused = self._refused, {}
        now_ms = self._clock.unix_ms()
        entries: list[Entry] = []
        for (tenant, by, what, code), count in counted.items():
            facts: dict[str, Fact] = {"what": what, "code": code, "count": count}
            audit = Audit(DENIED, "", tenant, by or None, tenant, now_ms, facts, result="refused")
            entries += entries_of(audit)
        if not entries:
            return
        try:
            await self._log.append(entries)
        except MurmurateError:
            for kind, count in self._refused.items():
                counted[kind] = counted.get(kind, 0) + count
            self._refused = counted
            raise

    async def page(self, asked: Asked) -> Page:
        """Return the entries that are asked for, as many as fit and as were looked at."""
        if asked.after is not None:
            return await self._behind(asked, after=asked.after)
        end = await self._head(asked.reader)
        if asked.before is not None:
            end = min(end, asked.before - 1)
        lowest = max(end - LOOKED_AT_MAX, 0)
        found: list[tuple[int, Audit]] = []
        while end > lowest:
            begin = max(end - WINDOW, lowest)
            for seq, audit in reversed(await self._read(asked.reader, begin, end)):
                if asked.since_ms is not None and audit.at_ms < asked.since_ms:
                    return Page(tuple(found), None)
                if asked.wants(audit):
                    found.append((seq, audit))
                    if len(found) == asked.limit:
                        return Page(tuple(found), seq if seq > 1 else None)
            end = begin
        return Page(tuple(found), lowest + 1 if lowest else None)

    async def _behind(self, asked: Asked, *, after: int) -> Page:
        """Return what came after an entry, oldest first; `more` is where the next look begins."""
        found: list[tuple[int, Audit]] = []
        seen = after
        for seq, audit in await self._read(asked.reader, after, after + LOOKED_AT_MAX):
            seen = seq
            if asked.wants(audit):
                found.append((seq, audit))
                if len(found) == asked.limit:
                    break
        return Page(tuple(found), seen)

    async def _read(self, reader: str, after: int, end: int) -> list[tuple[int, Audit]]:
        found: list[tuple[int, Audit]] = []
        async with aclosing(self._log.read(reader, _stream(reader), after=after)) as entries:
            async for entry in entries:
                if entry.seq > end:
                    break
                found.append((entry.seq, decoded(entry.seq, entry.body, _stream(reader))))
        return found

    async def _head(self, reader: str) -> int:
        async with aclosing(self._log.streams(reader, _stream(reader))) as streams:
            heads = [info.head async for info in streams if info.stream == _stream(reader)]
        return max(heads, default=0)

    def _audit(self, action: str, by: Caller, *, facts: dict[str, Fact], result: str) -> Audit:
        now_ms = self._clock.unix_ms()
        return Audit(
            action, "", by.tenant, by.key_id, by.tenant, now_ms, facts, by.place, result=result
        )


def decoded(seq: int, body: bytes, stream: str = AUDIT) -> Audit:
    """Return an entry of a trail. `LogCorruptError`: it can't be read."""
    try:
        return msgspec.json.decode(body, type=Audit)
    except (msgspec.MsgspecError, UnicodeDecodeError) as cause:
        raise LogCorruptError(f"entry {seq} of {stream} can't be read") from cause


def _stream(reader: str) -> str:
    return AUDIT if reader == REGISTRY else TENANTS_AUDIT
