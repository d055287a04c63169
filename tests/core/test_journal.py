"""Work that nobody goes on with: its steps have keys, and its end is a plain append."""

import asyncio

import msgspec

from murmurate.adapters.memory import MemoryLog
from murmurate.core.journal import Decision, NothingKept, StepKind
from murmurate.core.ports import Entry
from murmurate.testing.stories import all_of, bodies_of
from tests.fakes import FakeClock, ask


def test_without_a_run_nobody_is_asked_and_the_reason_says_what_to_do() -> None:
    journal = NothingKept(MemoryLog(clock=FakeClock())).of(ask("hi"))
    outcome = journal.step(StepKind.APPROVAL, "pay").outcome
    assert outcome is not None
    decision = msgspec.json.decode(outcome, type=Decision)
    assert (decision.approved, decision.by) == (False, None)
    assert "POST /api/runs" in decision.reason


def test_what_is_not_kept_has_keys_and_no_past() -> None:
    async def story() -> None:
        log = MemoryLog(clock=FakeClock())
        request = ask("hi")
        journal = NothingKept(log).of(request)
        journal.sees(7)
        first, second = (journal.step(StepKind.TOOL, "clock") for _ in "12")
        assert (first.key, second.key) == (f"{request.id}:1", f"{request.id}:2")
        await first.done(b"1")
        second.ends(b"2")
        assert (first.outcome, second.outcome, journal.seen) == (None, None, None)
        assert await all_of(log.streams(request.tenant, "")) == []
        await journal.finish([], [])
        await journal.finish([Entry("a", "session/1", "message", b"hello")], [])
        assert bodies_of(await all_of(log.read("a", "session/1"))) == ["hello"]

    asyncio.run(story())
