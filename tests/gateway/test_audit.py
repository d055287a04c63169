"""The trail holds what was done, tells each reader their own, and counts what was refused."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import pytest

from murmurate.adapters.memory import MemoryLog
from murmurate.core.errors import LogCorruptError, LogUnavailableError
from murmurate.core.ports import Entry
from murmurate.core.types import Caller
from murmurate.gateway.audit import (
    AUDIT,
    COUNTED_MAX,
    DENIED,
    LOOKED_AT_MAX,
    TENANTS_AUDIT,
    Asked,
    Audit,
    Trail,
    entries_of,
)
from murmurate.gateway.keys import REGISTRY
from tests.fakes import FakeClock, RecordingLog

ADA = Caller("key_ada", "acme", ("*",), place="10.0.0.7")
BEN = Caller("town:ben", "birch", ("*",), place="10.0.0.8", ends_ms=1)


class Failing(MemoryLog):
    """A log that can be full."""

    full = False

    async def append(self, entries: Sequence[Entry], **terms: Any) -> list[int]:
        if self.full:
            raise LogUnavailableError("disk full")
        return await super().append(entries, **terms)


class Scene:
    """A trail over a log in memory."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.log = Failing(clock=self.clock)
        self.events = RecordingLog()
        self.trail = Trail(log=self.log, clock=self.clock, events=self.events)

    async def actions(self, reader: str, **asked: Any) -> list[str]:
        page = await self.trail.page(Asked(reader=reader, **asked))
        return [f"{audit.action} by {audit.by}" for _, audit in page.entries]


def at(story: Callable[[Scene], Awaitable[None]]) -> None:
    async def told() -> None:
        await story(Scene())

    asyncio.run(told())


def test_each_tenant_reads_its_own_and_the_service_reads_all() -> None:
    async def story(it: Scene) -> None:
        await it.trail.note("ingest", ADA, facts={"collections": ["plans"]}, result="begun")
        await it.trail.note("ingest", BEN, facts={})
        assert await it.actions("acme") == ["ingest by key_ada"]
        assert await it.actions("birch") == ["ingest by town:ben"]
        assert await it.actions("cedar") == []
        assert await it.actions(REGISTRY) == ["ingest by town:ben", "ingest by key_ada"]
        assert await it.actions(REGISTRY, tenant="acme") == ["ingest by key_ada"]
        [(number, audit)] = (await it.trail.page(Asked(reader="acme"))).entries
        assert number == 1
        assert (audit.place, audit.result) == ("10.0.0.7", "begun")
        assert audit.facts == {"collections": ["plans"]}

    at(story)


def test_a_tenant_hears_of_an_operators_deed_but_not_who_and_where() -> None:
    audit = Audit("key.revoked", "key_1", "acme", "key_op", "default", 5, place="10.0.0.9")
    whole, own = entries_of(audit)
    assert (whole.tenant, whole.stream, own.tenant, own.stream) == (
        REGISTRY,
        AUDIT,
        "acme",
        TENANTS_AUDIT,
    )
    assert msgspec.json.decode(whole.body, type=Audit) == audit
    shown = msgspec.json.decode(own.body, type=Audit)
    assert (shown.by, shown.place, shown.by_tenant) == (None, None, "default")
    assert b"key_op" not in own.body


def test_what_cannot_be_written_must_not_be_done() -> None:
    async def story(it: Scene) -> None:
        it.log.full = True
        with pytest.raises(LogUnavailableError):
            await it.trail.note("ingest", ADA, facts={})

    at(story)


@pytest.mark.parametrize(
    ("asked", "numbers"),
    [
        ({}, [6, 5, 4, 3, 2, 1]),
        ({"limit": 2}, [6, 5]),
        ({"before": 3}, [2, 1]),
        ({"before": 99}, [6, 5, 4, 3, 2, 1]),
        ({"action": "key"}, [6, 4, 2]),
        ({"action": "key.created"}, [2]),
        ({"action": "ke"}, []),
        ({"by": "key_ben"}, [6, 3]),
        ({"key": "key_4"}, [4]),
        ({"since_ms": 4}, [6, 5, 4]),
        ({"after": 4}, [5, 6]),
        ({"after": 1, "limit": 2}, [2, 3]),
        ({"after": 1, "action": "key"}, [2, 4, 6]),
        ({"after": 6}, []),
    ],
)
def test_entries_are_found_by_what_is_asked(asked: dict[str, Any], numbers: list[int]) -> None:
    actions = ("ingest", "key.created", "ingest", "key.rotated", "denied", "key.revoked")

    async def story(it: Scene) -> None:
        for number, action in enumerate(actions, 1):
            who = "key_ben" if number % 3 == 0 else "key_ada"
            audit = Audit(action, f"key_{number}", "acme", who, "acme", number)
            await it.log.append(entries_of(audit))
        page = await it.trail.page(Asked(reader="acme", **asked))
        assert [number for number, _ in page.entries] == numbers

    at(story)


def test_a_question_looks_at_so_much_and_says_where_to_go_on() -> None:
    async def story(it: Scene) -> None:
        rare = entries_of(Audit("rare", "", "acme", None, None, 1))
        common = entries_of(Audit("common", "", "acme", None, None, 2))
        await it.log.append(rare)
        await it.log.append(common * (LOOKED_AT_MAX + 700))
        first = await it.trail.page(Asked(reader="acme", action="rare"))
        assert (first.entries, first.more) == ((), 702)
        then = await it.trail.page(Asked(reader="acme", action="rare", before=first.more))
        assert [number for number, _ in then.entries] == [1]
        assert then.more is None
        seen: list[int] = []
        before: int | None = None
        for _ in range(3):
            page = await it.trail.page(Asked(reader="acme", limit=200, before=before))
            seen += [number for number, _ in page.entries]
            before = page.more
        assert seen == list(range(5701, 5101, -1)), "pages neither overlap nor leave out"
        follow = await it.trail.page(Asked(reader="acme", after=0, action="nothing"))
        assert follow.more == LOOKED_AT_MAX

    at(story)


def test_refusals_are_counted_by_the_minute() -> None:
    async def story(it: Scene) -> None:
        for _ in range(3):
            it.trail.refuse(ADA, "GET /api/keys", "key.scope_missing")
        it.trail.refuse(BEN, "POST /v1/chat/completions", "policy.denied")
        await it.trail.write_counts()
        await it.trail.write_counts()
        assert await it.actions(REGISTRY) == ["denied by town:ben", "denied by key_ada"]
        [(_, audit)] = (await it.trail.page(Asked(reader="acme"))).entries
        assert (audit.action, audit.result) == (DENIED, "refused")
        assert audit.facts == {"what": "GET /api/keys", "code": "key.scope_missing", "count": 3}

    at(story)


def test_counting_has_a_bound_and_an_outage_loses_no_count() -> None:
    async def story(it: Scene) -> None:
        for number in range(COUNTED_MAX + 50):
            it.trail.refuse(ADA, f"GET /{number}", "policy.denied")
        it.log.full = True
        with pytest.raises(LogUnavailableError):
            await it.trail.write_counts()
        it.trail.refuse(ADA, "GET /0", "policy.denied")
        it.log.full = False
        await it.trail.write_counts()
        page = await it.trail.page(Asked(reader=REGISTRY, limit=1000))
        counts = {str(audit.facts["what"]): audit.facts["count"] for _, audit in page.entries}
        assert len(counts) == COUNTED_MAX + 1
        assert (counts["others"], counts["GET /0"], counts["GET /1"]) == (50, 2, 1)
        assert len((await it.trail.page(Asked(reader="acme", limit=1000))).entries) == COUNTED_MAX

    at(story)


def test_counts_are_written_by_themselves_and_an_outage_is_noted() -> None:
    async def story(it: Scene) -> None:
        it.trail.refuse(ADA, "GET /api/keys", "key.scope_missing")
        it.log.full = True
        keeping = asyncio.create_task(it.trail.keep())
        while not it.events.named("audit.unwritten"):
            await asyncio.sleep(0)
        it.log.full = False
        while not await it.actions("acme"):
            await asyncio.sleep(0)
        keeping.cancel()

    at(story)


def test_a_damaged_entry_is_named() -> None:
    async def story(it: Scene) -> None:
        await it.log.append([Entry("acme", TENANTS_AUDIT, "odd", b"{")])
        with pytest.raises(LogCorruptError, match="entry 1 of audit/all can't be read"):
            await it.actions("acme")

    at(story)
