"""A run is done again: models are asked, tools are not called, and nothing is stored."""

import asyncio
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from typing import Any

import pytest

from murmurate.adapters.memory import MemoryLog
from murmurate.agents.ports import Effect, ToolContext, ToolResult
from murmurate.agents.service import Agents
from murmurate.config import AgentConfig, Permission
from murmurate.core.errors import (
    BadRequestError,
    ModelUnknownError,
    MurmurateError,
    NotFoundError,
    OverloadedError,
    PromptTooLongError,
    RunDivergedError,
    RunOverError,
)
from murmurate.core.journal import StepKind
from murmurate.core.ports import Claim, Model, Stored
from murmurate.core.types import (
    Caller,
    Delta,
    Finished,
    FinishReason,
    Origin,
    OriginKind,
    Request,
    SessionRef,
    Text,
    Tool,
    ToolCall,
    Usage,
)
from murmurate.jobs.approvals import Approvals
from murmurate.jobs.differences import Verdict
from murmurate.jobs.entries import Begun, folded, stream_of
from murmurate.jobs.journal import KeptJournal, OpenJournals
from murmurate.jobs.replay import Asked, Replayed, Replays
from murmurate.jobs.runner import Runner
from murmurate.jobs.service import Runs
from murmurate.sync.service import Sessions
from tests.fakes import (
    DONE,
    TRACE,
    FakeClock,
    InTurn,
    RecordingLog,
    RecordingTracer,
    Saying,
    all_of,
    ask,
    seeded_ids,
)
from tests.isolation.town import Town, content


class Book:
    """A tool that changes the world, and counts how often."""

    spec = Tool("book", "", "{}")
    effect = Effect.WRITE

    def __init__(self) -> None:
        self.booked: list[str] = []

    async def call(self, arguments: str, context: ToolContext) -> ToolResult:
        self.booked.append(arguments)
        return ToolResult(f'"booked {arguments}"', Origin(OriginKind.TOOL, "book"))


def booking(*arguments: str) -> Saying:
    """Return a model that calls the tool with each of these."""
    calls = [ToolCall(f"call_{n}", "book", it) for n, it in enumerate(arguments)]
    return Saying(*calls, Usage(1, 1), Finished(FinishReason.TOOL_CALLS))


def answering(text: str) -> Saying:
    return Saying(Text(text), Usage(1, 1), DONE)


class Models:
    """The models of the day, changed between a run and its replay."""

    def __init__(self) -> None:
        self.today: Model = answering("nothing")
        self.asked: list[Request] = []

    async def answer(self, request: Request) -> AsyncGenerator[Delta]:
        self.asked.append(request)
        async with aclosing(self.today.answer(request)) as deltas:
            async for delta in deltas:
                yield delta


class House:
    """An agent with one tool, its sessions and runs, over a log in memory."""

    def __init__(self, permission: Permission = Permission.ALLOW) -> None:
        clock, tracer = FakeClock(), RecordingTracer()
        ids = seeded_ids(clock)
        self.log = MemoryLog(clock=clock)
        self.models = Models()
        self.book = Book()
        self.served: Collection[str] = ("helper", "tiny")
        journals = OpenJournals(self.log)
        agents = Agents(
            Asked(self.models, journals),
            agents={
                "helper": AgentConfig(
                    model="tiny", tools=("book",), permissions={"book": permission}
                )
            },
            tools={"book": self.book},
            quoter=lambda question, passages: None,
            journals=journals,
            tracer=tracer,
        )
        self.sessions = Sessions(
            agents,
            log=self.log,
            journals=journals,
            clock=clock,
            ids=ids,
            tracer=tracer,
            writer="w",
        )
        self.runner = Runner(
            self.sessions,
            journals,
            name="r",
            log=self.log,
            clock=clock,
            events=RecordingLog(),
            tracer=RecordingTracer(),
        )
        self.runs = Runs(
            self.sessions,
            self.runner,
            journals,
            log=self.log,
            clock=clock,
            ids=ids,
            is_run=lambda request: request.session is not None,
        )
        self.replays = Replays(
            self.sessions,
            journals,
            log=self.log,
            ids=ids,
            models=lambda tenant: self.served if tenant == "a" else (),
        )

    async def run(self, *today: Model, **fields: Any) -> str:
        """Do a run to its end; return its id."""
        self.models.today = InTurn(*today)
        await self.runner.enlist()
        run_id = await self.runs.submit(ask(**{"model": "helper", **fields}))
        await self.runner.work()
        while self.runner.working:
            await asyncio.sleep(0)
        self.models.asked.clear()
        return run_id

    async def replay(self, run_id: str, *today: Model, model: str | None = None) -> Replayed:
        self.models.today = InTurn(*today)
        return await self.replays.replay("a", run_id, model=model, trace=TRACE)

    async def kept(self) -> list[Stored]:
        """Return everything that is stored of the tenant."""
        streams = [info.stream async for info in self.log.streams("a", "")]
        return [entry for name in streams async for entry in self.log.read("a", name)]


def verdicts(replayed: Replayed) -> list[str]:
    return [*(step.verdict.value for step in replayed.steps), replayed.answer.verdict.value]


def test_an_agent_that_does_the_same_is_the_same_and_nothing_is_booked_twice() -> None:
    async def story() -> None:
        house = House()
        run_id = await house.run(booking('{"seat":1}'), answering("Booked."))
        before = await house.kept()
        replayed = await house.replay(run_id, booking('{ "seat": 1 }'), answering("Booked."))
        assert replayed.same
        assert verdicts(replayed) == ["same"] * 4
        assert house.book.booked == ['{"seat":1}'], "in the run, and never again"
        assert len(house.models.asked) == 2, "models are really asked"
        assert 'booked {"seat":1}' in str(house.models.asked[1].messages)
        assert await house.kept() == before

    asyncio.run(story())


def test_another_answer_is_told_with_both() -> None:
    async def story() -> None:
        house = House()
        run_id = await house.run(booking("{}"), answering("Booked."))
        replayed = await house.replay(run_id, booking("{}"), answering("It is done."))
        assert not replayed.same
        assert verdicts(replayed) == ["same", "same", "other reply", "other answer"]
        assert (replayed.answer.was, replayed.answer.now) == ("Booked.", "It is done.")

    asyncio.run(story())


def test_a_replay_takes_decisions_from_the_journal_and_asks_nobody() -> None:
    async def story() -> None:
        house = House(Permission.ASK)
        run_id = await house.run(booking('{"seat":1}', '{"seat":2}'), answering("Booked one."))
        approvals = Approvals(
            house.runner,
            log=house.log,
            clock=FakeClock(),
            events=RecordingLog(),
            own=False,
            tenants=lambda: {"a"},
        )
        for step, approved in ((2, True), (3, False)):
            by = Caller("key_ben", "a")
            await approvals.decide(by, f"{run_id}:{step}", approved=approved, reason="full")
        await house.runner.work()
        while house.runner.working:
            await asyncio.sleep(0)
        before = await house.kept()
        today = (booking('{"seat":1}', '{"seat":2}'), answering("Booked one."))
        replayed = await house.replay(run_id, *today)
        assert verdicts(replayed) == ["same"] * 6
        assert house.book.booked == ['{"seat":1}']
        assert "denied: full" in str(house.models.asked[-1].messages)
        other = await house.replay(run_id, booking('{"seat":3}'), answering("Booked."))
        assert verdicts(other)[:2] == ["other reply", "other arguments"]
        assert [it.stopped for it in other.steps][:2] == [False, True]
        assert house.book.booked == ['{"seat":1}']
        assert await house.kept() == before

    asyncio.run(story())


def test_a_call_without_a_record_ends_the_replay_before_anything_is_done() -> None:
    async def story() -> None:
        house = House()
        run_id = await house.run(booking('{"seat":1}'), answering("Booked."))
        today = booking('{"seat":2}', '{"seat":1}')
        replayed = await house.replay(run_id, today, answering("never said"))
        assert verdicts(replayed) == [
            "other reply",
            "additional",
            "same",
            "not reached",
            "not reached",
        ]
        assert [step.stopped for step in replayed.steps] == [False, True, False, False]
        assert house.book.booked == ['{"seat":1}']
        assert len(house.models.asked) == 1

    asyncio.run(story())


def test_a_call_that_is_left_out_is_missing() -> None:
    async def story() -> None:
        house = House()
        run_id = await house.run(booking("{}"), answering("Booked."))
        replayed = await house.replay(run_id, answering("Booked."))
        assert verdicts(replayed) == ["other reply", "missing", "missing", "same"]
        assert not replayed.same

    asyncio.run(story())


def test_another_model_can_be_asked() -> None:
    async def story() -> None:
        house = House()
        run_id = await house.run(booking("{}"), answering("Booked."))
        replayed = await house.replay(run_id, booking("{}"), answering("Booked."), model="big")
        assert (replayed.same, replayed.model) == (True, "big")
        assert [request.model for request in house.models.asked] == ["big", "big"]
        raw = await house.run(answering("hi"), model="tiny")
        replayed = await house.replay(raw, answering("hi"), model="big")
        assert (replayed.same, replayed.steps) == (True, ())
        assert [request.model for request in house.models.asked] == ["big"]

    asyncio.run(story())


def told(request: Request) -> list[str]:
    return [message.text for message in request.messages]


@pytest.mark.parametrize("background", [True, False])
def test_the_history_is_what_the_run_saw_whatever_was_said_since(background: bool) -> None:
    async def story() -> None:
        house = House()
        session = SessionRef("s1")
        house.models.today = answering("one")
        await house.runner.enlist()
        new = SessionRef("s1", new=True)
        await all_of(house.runs, ask("first", model="helper", session=new))
        if background:
            run_id = await house.run(answering("two"), session=session)
        else:
            house.models.today = InTurn(booking("{}"), answering("two"))
            await all_of(house.runs, ask(model="helper", session=session))
            run_id = (await house.runs.listing("a"))[0].id
        house.models.today = answering("three")
        await all_of(house.runs, ask("later", model="helper", session=session))
        before = await house.kept()
        house.models.asked.clear()
        await house.replay(run_id, answering("two"))
        assert told(house.models.asked[0]) == ["first", "one", "hello"]
        assert await house.kept() == before

    asyncio.run(story())


def test_a_second_attempt_in_the_background_reads_what_the_first_has_read() -> None:
    async def story() -> None:
        log = MemoryLog(clock=FakeClock())
        await log.renew("r")
        stream = stream_of("run_1")
        claim = Claim("a", stream, "runs", "r", 1)
        first = KeptJournal(log, claim, Begun(ask()))
        await first.step(StepKind.MODEL, "tiny").done(b"[]")
        past = folded("run_1", [entry async for entry in log.read("a", stream)]).steps
        taken = KeptJournal.taken_over(log, claim, Begun(ask()), past)
        taken.sees(7)
        assert taken.step(StepKind.MODEL, "tiny").outcome == b"[]"
        await taken.step(StepKind.TOOL, "book", "{}").done(b"{}")
        entries = [entry async for entry in log.read("a", stream)]
        state = folded("run_1", entries)
        assert (state.begun.seen, [step.arguments for step in state.steps]) == (7, ["", "{}"])
        assert [entry.kind for entry in entries].count("run.read") == 1
        again = KeptJournal.taken_over(log, claim, state.begun, state.steps)
        assert again.step(StepKind.MODEL, "tiny").outcome == b"[]"
        with pytest.raises(RunDivergedError, match="would be that with other arguments now"):
            again.step(StepKind.TOOL, "book", "[]")

    asyncio.run(story())


def test_what_is_nobody_s_or_another_s_cannot_be_replayed() -> None:
    async def story() -> None:
        house = House()
        run_id = await house.run(answering("hi"))
        for tenant, name in (("b", run_id), ("a", "run_none")):
            with pytest.raises(NotFoundError, match="there is no run"):
                await house.replays.replay(tenant, name, model=None, trace=TRACE)
        house.served = ()
        with pytest.raises(ModelUnknownError, match="'helper', which is not served here any more"):
            await house.replay(run_id, answering("hi"))

    asyncio.run(story())


def test_a_run_under_way_cannot_be_replayed() -> None:
    async def story() -> None:
        house = House()
        run_id = await house.runs.submit(ask(model="helper"))
        with pytest.raises(RunOverError, match="once it is over"):
            await house.replay(run_id)

    asyncio.run(story())


def test_a_run_that_failed_is_the_same_when_it_fails_again() -> None:
    async def story() -> None:
        house = House()
        error = PromptTooLongError("12 of 10 tokens")
        run_id = await house.run(booking("{}"), Saying(error))
        replayed = await house.replay(run_id, booking("{}"), Saying(error))
        assert (replayed.answer.verdict, replayed.answer.was) == (Verdict.SAME, None)
        replayed = await house.replay(run_id, booking("{}"), answering("Booked."))
        assert replayed.answer.verdict is Verdict.OTHER_ANSWER
        assert (replayed.answer.was or "").startswith("failed: context_length_exceeded: 12 of 10")
        assert house.book.booked == ["{}"]

    asyncio.run(story())


@pytest.mark.parametrize("error", [OverloadedError("full", retry_s=1.0), ModelUnknownError("big")])
def test_an_error_that_says_nothing_about_the_agent_is_no_difference(error: MurmurateError) -> None:
    async def story() -> None:
        house = House()
        run_id = await house.run(answering("hi"))
        with pytest.raises(type(error)):
            await house.replay(run_id, Saying(error))

    asyncio.run(story())


def test_an_error_of_the_agent_s_own_is_its_answer() -> None:
    async def story() -> None:
        house = House()
        run_id = await house.run(answering("hi"))
        replayed = await house.replay(run_id, Saying(BadRequestError("too hot")))
        assert verdicts(replayed) == ["other reply", "other answer"]
        assert replayed.answer.now == "failed: request.invalid: too hot"

    asyncio.run(story())


def test_a_replay_neither_asks_the_caches_nor_fills_them() -> None:
    async def story() -> None:
        town = await Town().open()
        body = {"model": "porter", "messages": [{"role": "user", "content": "open?"}]}
        run_id = (await town.call("acme", "POST", "/api/runs", body)).json()["id"]
        await town.work()
        first = content(await town.chat("acme", "open?", model="porter"))
        assert town.echo.answers == 1, "the cache works at all"
        path = f"/api/runs/{run_id}/replay"
        replayed = (await town.call("acme", "POST", path)).json()
        assert town.echo.answers == 2
        assert [it["verdict"] for it in replayed["steps"]] == ["same", "same", "other reply"]
        assert replayed["answer"]["was"] == first
        assert replayed["answer"]["now"] == first.replace("answer 1", "answer 2")
        assert content(await town.chat("acme", "open?", model="porter")) == first

    asyncio.run(story())
