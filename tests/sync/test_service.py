"""Sessions over the log in memory: a turn is kept whole, before the client hears of its end."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing

import pytest

from murmurate.adapters.memory import MemoryLog
from murmurate.core.errors import (
    EngineFailedError,
    FencedError,
    LogUnavailableError,
    NotFoundError,
)
from murmurate.core.journal import NothingKept, StepKind
from murmurate.core.ports import Claim, Entry, Model, StreamInfo, Work
from murmurate.core.types import (
    Citation,
    Cited,
    Finished,
    FinishReason,
    Message,
    Request,
    ResultPart,
    Role,
    SessionRef,
    Text,
    ToolCall,
)
from murmurate.jobs.entries import Begun
from murmurate.jobs.journal import KeptJournal, OpenJournals
from murmurate.sync.entries import SessionMessage
from murmurate.sync.service import HISTORY_MAX, Sessions
from murmurate.testing.stories import all_of as listed
from tests.fakes import (
    DONE,
    FakeClock,
    InTurn,
    RecordingTracer,
    Saying,
    all_of,
    ask,
    assistant,
    message,
    result,
    seeded_ids,
    until,
    user,
)

NEW = SessionRef("sess_1", new=True)
OLD = SessionRef("sess_1")
CITATION = Citation("doc_1", "a.md", 1, 5, 2, 3, "words", 0.9)


class FullLog(MemoryLog):
    """A log whose disk is full."""

    async def append(
        self,
        entries: Sequence[Entry],
        *,
        expected: Mapping[tuple[str, str], int] | None = None,
        fence: Claim | None = None,
        work: Sequence[Work] = (),
    ) -> list[int]:
        raise LogUnavailableError("the disk is full")


class CountingLog(MemoryLog):
    """A log that counts the streams it lists."""

    listed = 0

    async def streams(
        self, tenant: str, prefix: str, *, after: str = ""
    ) -> AsyncGenerator[StreamInfo]:
        async with aclosing(super().streams(tenant, prefix, after=after)) as found:
            async for info in found:
                self.listed += 1
                yield info


class House:
    """Sessions over a model, with a log that can be read."""

    def __init__(self, below: Model, *, full: bool = False) -> None:
        self.clock = FakeClock()
        self.log = (FullLog if full else MemoryLog)(clock=self.clock)
        self.tracer = RecordingTracer()
        self.sessions = Sessions(
            below,
            log=self.log,
            journals=NothingKept(self.log),
            clock=self.clock,
            ids=seeded_ids(self.clock),
            tracer=self.tracer,
            writer="a",
        )

    async def kept(self, tenant: str = "a", session: SessionRef = OLD) -> list[SessionMessage]:
        try:
            return await self.sessions.history(tenant, session)
        except NotFoundError:
            return []

    async def ask(self, *messages: str | Message, session: SessionRef | None = OLD) -> None:
        await all_of(self.sessions, ask(*messages, session=session))


def tell(below: Model, story: Callable[[House], Awaitable[None]], *, full: bool = False) -> None:
    async def told() -> None:
        house = House(below, full=full)
        await story(house)
        await house.log.close()

    asyncio.run(told())


def texts(messages: Sequence[SessionMessage]) -> list[tuple[Role, str]]:
    return [(m.role, Message(m.role, m.parts).text) for m in messages]


def test_a_request_without_a_session_stores_nothing() -> None:
    below = Saying(Text("hi"), DONE)

    async def story(house: House) -> None:
        request = ask("hello")
        assert await all_of(house.sessions, request) == [Text("hi"), DONE]
        assert below.asked == [request]
        assert [info async for info in house.log.streams("a", "")] == []

    tell(below, story)


def test_a_turn_is_stored_whole_before_its_end_goes_out() -> None:
    async def story(house: House) -> None:
        async with aclosing(house.sessions.answer(ask("hello", session=NEW))) as deltas:
            assert await anext(deltas) == Text("hi")
            assert await house.kept() == []
            assert await anext(deltas) == DONE
            assert texts(await house.kept()) == [(Role.USER, "hello"), (Role.ASSISTANT, "hi")]

    tell(Saying(Text("hi"), DONE), story)


def test_the_messages_of_a_turn_are_linked_and_in_order() -> None:
    async def story(house: House) -> None:
        await house.ask("one", session=NEW)
        house.clock.time_s -= 500  # a wall clock that was set back
        await house.ask("two")
        kept = await house.kept()
        assert [m.after for m in kept] == [None, *(m.id for m in kept[:-1])]
        assert sorted({m.hlc for m in kept}) == [m.hlc for m in kept]
        assert [m.turn for m in kept] == [kept[0].turn] * 2 + [kept[2].turn] * 2
        assert kept[0].turn != kept[2].turn
        assert kept[0].id.startswith("msg_")
        assert house.tracer.named("store").attributes == {"entries": 2}

    tell(Saying(Text("hi"), DONE), story)


def test_turns_stored_side_by_side_are_each_whole_and_have_clock_values_of_their_own() -> None:
    gate = asyncio.Event()
    below = InTurn(Saying(Text("hi"), DONE), Saying(gate, Text("hi"), DONE))

    async def story(house: House) -> None:
        await house.ask("first", session=NEW)
        both = [asyncio.ensure_future(house.ask(question)) for question in ("left", "right")]
        await until(lambda: len(below.asked) == 3)
        gate.set()
        await asyncio.gather(*both)
        kept = await house.kept()
        assert len({m.hlc for m in kept}) == len(kept) == 6
        assert [m.role for m in kept] == [Role.USER, Role.ASSISTANT] * 3
        assert [m.turn for m in kept[::2]] == [m.turn for m in kept[1::2]]
        assert kept[2].after == kept[4].after == kept[1].id

    tell(below, story)


def test_citations_are_kept_with_the_answer_only() -> None:
    async def story(house: House) -> None:
        await house.ask("hello", session=NEW)
        assert [m.citations for m in await house.kept()] == [(), (CITATION,)]

    tell(Saying(Text("hi"), Cited((CITATION,)), DONE), story)


def test_the_model_sees_the_stored_history_and_not_the_claimed_one() -> None:
    below = Saying(Text("hi"), DONE)

    async def story(house: House) -> None:
        await house.ask("true question", session=NEW)
        await house.ask(user("false question"), assistant("false answer"), user("next"))
        seen = [(m.role, m.text) for m in below.asked[1].messages]
        assert seen == [
            (Role.USER, "true question"),
            (Role.ASSISTANT, "hi"),
            (Role.USER, "next"),
        ]
        assert len(await house.kept()) == 4

    tell(below, story)


def test_system_messages_reach_the_model_and_are_not_stored() -> None:
    below = Saying(Text("hi"), DONE)

    async def story(house: House) -> None:
        await house.ask(message(Role.SYSTEM, "be kind"), user("hello"), session=NEW)
        assert below.asked[0].messages[0].role is Role.SYSTEM
        assert [m.role for m in await house.kept()] == [Role.USER, Role.ASSISTANT]

    tell(below, story)


def test_a_tool_call_and_its_result_are_kept_over_two_turns() -> None:
    call = ToolCall("c1", "now", "{}")
    below = InTurn(
        Saying(call, Finished(FinishReason.TOOL_CALLS)), Saying(Text("It is noon."), DONE)
    )

    async def story(house: House) -> None:
        await house.ask("time?", session=NEW)
        await house.ask(user("time?"), assistant("", call), result("c1", "12:00"))
        kept = await house.kept()
        assert [m.role for m in kept] == [
            Role.USER,
            Role.ASSISTANT,
            Role.TOOL,
            Role.ASSISTANT,
        ]
        assert isinstance(kept[2].parts[0], ResultPart)

    tell(below, story)


@pytest.mark.parametrize("error", [EngineFailedError("broke"), ValueError("fault")])
def test_a_failing_model_stores_nothing(error: Exception) -> None:
    async def story(house: House) -> None:
        with pytest.raises(type(error)):
            await house.ask("hello", session=NEW)
        assert await house.kept() == []

    tell(Saying(Text("h"), error), story)


def test_closing_early_stores_nothing_and_closes_the_model() -> None:
    below = Saying(Text("h"), Text("i"), DONE)

    async def story(house: House) -> None:
        async with aclosing(house.sessions.answer(ask("hello", session=NEW))) as deltas:
            await anext(deltas)
        assert below.closed_early == 1
        assert await house.kept() == []

    tell(below, story)


def test_closing_early_without_a_session_closes_the_model() -> None:
    below = Saying(Text("h"), Text("i"), DONE)

    async def story(house: House) -> None:
        async with aclosing(house.sessions.answer(ask("hello"))) as deltas:
            await anext(deltas)
        assert below.closed_early == 1

    tell(below, story)


def test_where_nothing_can_be_stored_the_end_does_not_go_out() -> None:
    async def story(house: House) -> None:
        async with aclosing(house.sessions.answer(ask("hello", session=NEW))) as deltas:
            assert await anext(deltas) == Text("hi")
            with pytest.raises(LogUnavailableError):
                await anext(deltas)

    tell(Saying(Text("hi"), DONE), story, full=True)


def test_an_unknown_session_is_not_found_and_the_model_not_asked() -> None:
    below = Saying(DONE)

    async def story(house: House) -> None:
        with pytest.raises(NotFoundError, match="sess_1") as raised:
            await house.ask("hello")
        assert raised.value.param == "x-murmurate-session"
        assert not below.asked

    tell(below, story)


def test_another_tenants_session_is_not_found() -> None:
    async def story(house: House) -> None:
        await house.ask("hello", session=NEW)
        foreign: Request = ask("hello", tenant="b", session=OLD)
        with pytest.raises(NotFoundError):
            await all_of(house.sessions, foreign)
        assert await house.kept(tenant="b") == []

    tell(Saying(Text("hi"), DONE), story)


def test_only_the_newest_messages_of_a_long_session_reach_the_model() -> None:
    below = Saying(Text("hi"), DONE)

    async def story(house: House) -> None:
        await house.ask("0", session=NEW)
        turns = HISTORY_MAX // 2 + 3
        for turn in range(1, turns):
            await house.ask(str(turn))
        assert len(below.asked[-1].messages) == HISTORY_MAX + 1
        assert below.asked[-1].messages[-1] == user(str(turns - 1))
        assert below.asked[-1].messages[0] == user("2")

    tell(below, story)


@pytest.mark.parametrize("id_", ["", "sess_", "sess_0"])
def test_an_id_that_is_cut_short_finds_nothing_and_lists_no_other_sessions(id_: str) -> None:
    async def story() -> None:
        clock = FakeClock()
        log = CountingLog(clock=clock)
        await log.append([Entry("a", f"session/sess_0{n}", "message", b"{}") for n in range(50)])
        sessions = Sessions(
            Saying(DONE),
            log=log,
            journals=NothingKept(log),
            clock=clock,
            ids=seeded_ids(clock),
            tracer=RecordingTracer(),
            writer="a",
        )
        with pytest.raises(NotFoundError):
            await sessions.history("a", SessionRef(id_))
        assert log.listed == 1

    asyncio.run(story())


def test_a_turn_is_refused_where_another_attempt_at_its_run_has_begun_meanwhile() -> None:
    async def story() -> None:
        clock = FakeClock()
        log = MemoryLog(clock=clock)
        journals = OpenJournals(log)
        sessions = Sessions(
            Saying(Text("hi"), DONE),
            log=log,
            journals=journals,
            clock=clock,
            ids=seeded_ids(clock),
            tracer=RecordingTracer(),
            writer="a",
        )
        request = ask("hello", session=NEW)
        await log.renew("me")
        place = ("a", "run/run_1", "runs", "me")
        former, latter = (KeptJournal(log, Claim(*place, n), Begun(request)) for n in (1, 2))
        await former.step(StepKind.TOOL, "clock").done(b"1")
        journals.open(request, former)
        async with aclosing(sessions.answer(request)) as deltas:
            await anext(deltas)
            await log.revoke("me")
            await log.renew("me")
            assert await log.claim("runs", "me", limit=1) == [latter.claim]
            journals.open(request, latter)
            with pytest.raises(FencedError):
                await anext(deltas)
        assert [info.stream for info in await listed(log.streams("a", ""))] == ["run/run_1"]

    asyncio.run(story())
