"""A run's journal: what is written when, and under which proof."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from murmurate.adapters.memory import MemoryLog
from murmurate.core.errors import (
    BadRequestError,
    FencedError,
    LogUnavailableError,
    RunDivergedError,
)
from murmurate.core.journal import StepKind, Unkept
from murmurate.core.ports import Claim, Entry
from murmurate.core.types import Finished, FinishReason, Text
from murmurate.jobs.entries import QUEUE, Answer, Begun, StepDone
from murmurate.jobs.journal import KeptJournal, OpenJournals
from murmurate.testing.stories import all_of
from tests.fakes import FakeClock, ask

REQUEST = ask("hi")
CLAIM = Claim("a", "run/run_1", QUEUE, "me", 1)
ANSWER = [Text("42"), Finished(FinishReason.STOP)]


async def new() -> tuple[MemoryLog, KeptJournal]:
    log = MemoryLog(clock=FakeClock())
    await log.renew("me")
    return log, KeptJournal(log, CLAIM, Begun(REQUEST))


async def written(log: MemoryLog, stream: str = "run/run_1") -> list[tuple[str, int]]:
    return [(it.kind, it.epoch) for it in await all_of(log.read("a", stream))]


def play(story: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await story()

    asyncio.run(whole())


def test_a_run_begins_with_its_first_step_and_not_before() -> None:
    async def story() -> None:
        log, journal = await new()
        journal.sees(7)
        step = journal.step(StepKind.TOOL, "clock")
        assert step.outcome is None
        assert await written(log) == []
        await step.done(b'"noon"')
        await journal.step(StepKind.TOOL, "clock").done(b'"one"')
        assert await written(log) == [("run.begun", 0), ("run.step", 0), ("run.step", 1)]
        [begun, first, _] = await all_of(log.read("a", "run/run_1"))
        assert msgspec.json.decode(begun.body, type=Begun) == Begun(REQUEST, seen=7)
        kept = msgspec.json.decode(first.body, type=StepDone)
        assert kept == StepDone(1, StepKind.TOOL, "clock", msgspec.Raw(b'"noon"'))
        [work] = await all_of(log.work("a", QUEUE))
        assert (work.runner, work.epoch) == ("me", 1)

    play(story)


def test_keys_count_the_steps_as_they_are_begun() -> None:
    async def story() -> None:
        _, journal = await new()
        keys = [journal.step(StepKind.TOOL, name).key for name in "ab"]
        assert keys == ["run_1:1", "run_1:2"]

    play(story)


def test_steps_side_by_side_are_kept_under_their_own_numbers() -> None:
    async def story() -> None:
        log, journal = await new()
        first, second = (journal.step(StepKind.TOOL, name) for name in "ab")
        await asyncio.gather(second.done(b"2"), first.done(b"1"))
        bodies = [it.body for it in await all_of(log.read("a", "run/run_1"))][1:]
        numbers = [msgspec.json.decode(body, type=StepDone).number for body in bodies]
        assert numbers == [2, 1]

    play(story)


def test_the_last_step_the_answer_and_what_belongs_to_it_are_one_append() -> None:
    async def story() -> None:
        log, journal = await new()
        journal.step(StepKind.MODEL, "tiny").ends(b"[]")
        assert await written(log) == []
        await journal.finish([Entry("a", "session/1", "message", b"{}")], ANSWER)
        assert await written(log, "session/1") == [("message", 0)]
        kinds = [kind for kind, _ in await written(log)]
        assert kinds == ["run.begun", "run.step", "run.finished"]
        *_, end = await all_of(log.read("a", "run/run_1"))
        assert msgspec.json.decode(end.body, type=Answer).text == "42"
        assert await all_of(log.work("a", QUEUE)) == []

    play(story)


def test_a_request_that_did_no_step_leaves_no_run_behind() -> None:
    async def story() -> None:
        log, journal = await new()
        await journal.finish([Entry("a", "session/1", "message", b"{}")], ANSWER)
        assert [info.stream for info in await all_of(log.streams("a", ""))] == ["session/1"]
        _, journal = await new()
        await journal.fail(BadRequestError("no"))
        await journal.cancel()

    play(story)


def test_what_is_in_the_journal_is_not_done_again() -> None:
    async def story() -> None:
        log, _ = await new()
        past = [StepDone(1, StepKind.TOOL, "clock", msgspec.Raw(b'"noon"'))]
        journal = KeptJournal.taken_over(log, CLAIM, Begun(REQUEST, seen=3), past)
        assert journal.seen == 3
        assert journal.step(StepKind.TOOL, "clock").outcome == b'"noon"'
        assert journal.step(StepKind.TOOL, "clock").outcome is None

    play(story)


@pytest.mark.parametrize(("kind", "name"), [(StepKind.MODEL, "clock"), (StepKind.TOOL, "watch")])
def test_a_step_that_would_be_another_one_is_refused(kind: StepKind, name: str) -> None:
    async def story() -> None:
        log, _ = await new()
        past = [StepDone(1, StepKind.TOOL, "clock", msgspec.Raw(b'"noon"'))]
        journal = KeptJournal.taken_over(log, CLAIM, Begun(REQUEST), past)
        with pytest.raises(RunDivergedError, match="step 1 of run_1 was tool 'clock'"):
            journal.step(kind, name)

    play(story)


def test_what_a_former_holder_writes_is_refused() -> None:
    async def story() -> None:
        log, journal = await new()
        await journal.step(StepKind.TOOL, "clock").done(b"1")
        await log.revoke("me")
        with pytest.raises(FencedError):
            await journal.step(StepKind.TOOL, "clock").done(b"2")
        with pytest.raises(FencedError):
            await journal.finish([Entry("a", "session/1", "message", b"{}")], ANSWER)
        assert await written(log, "session/1") == []

    play(story)


def test_a_beginning_that_could_not_be_written_is_written_with_the_next_step() -> None:
    class Full(MemoryLog):
        full = True

        async def append(self, *args: object, **kwargs: object) -> list[int]:  # type: ignore[override]
            if self.full:
                raise LogUnavailableError("full")
            return await super().append(*args, **kwargs)  # type: ignore[arg-type]

    async def story() -> None:
        log = Full(clock=FakeClock())
        await log.renew("me")
        journal = KeptJournal(log, CLAIM, Begun(REQUEST))
        step = journal.step(StepKind.TOOL, "clock")
        with pytest.raises(LogUnavailableError):
            await step.done(b"1")
        log.full = False
        await step.done(b"1")
        assert [kind for kind, _ in await written(log)] == ["run.begun", "run.step"]

    play(story)


def test_a_failure_keeps_the_beginning_of_its_words() -> None:
    async def story() -> None:
        log, journal = await new()
        await journal.step(StepKind.TOOL, "clock").done(b"1")
        await journal.fail(BadRequestError("x" * 10_000))
        *_, end = await all_of(log.read("a", "run/run_1"))
        assert (end.kind, len(end.body) < 700) == ("run.failed", True)

    play(story)


def test_a_journal_is_found_by_its_request_while_that_is_under_way() -> None:
    async def story() -> None:
        log, journal = await new()
        journals = OpenJournals(log)
        assert isinstance(journals.of(REQUEST), Unkept)
        journals.open(REQUEST, journal)
        assert journals.of(REQUEST) is journal
        journals.close(REQUEST, journal)
        assert isinstance(journals.of(REQUEST), Unkept)

    play(story)


def test_the_end_of_a_former_attempt_leaves_the_journal_of_the_next_one_open() -> None:
    async def story() -> None:
        log, former = await new()
        journals, latter = OpenJournals(log), KeptJournal(log, CLAIM, Begun(REQUEST))
        journals.open(REQUEST, former)
        journals.open(REQUEST, latter)
        journals.close(REQUEST, former)
        assert journals.of(REQUEST) is latter

    play(story)
