"""Calls that ask: nothing is held while somebody thinks, and each is decided and made once."""

# Over 400 lines: each way in which a decision can come, or not come, is a story of its own.

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

import msgspec
import pytest

from murmurate.adapters.memory import MemoryLog
from murmurate.agents.ports import Effect, ToolContext, ToolResult
from murmurate.agents.service import Agents
from murmurate.config import AgentConfig
from murmurate.core.errors import (
    ApprovalDecidedError,
    ApprovalOwnError,
    BadRequestError,
    LogUnavailableError,
    MurmurateError,
    NotFoundError,
    RunOverError,
    RunWaitingError,
)
from murmurate.core.journal import Decision, StepKind
from murmurate.core.ports import Offer, Stored
from murmurate.core.types import (
    Caller,
    Delta,
    Finished,
    FinishReason,
    Origin,
    OriginKind,
    Request,
    ResultPart,
    SessionRef,
    Text,
    Tool,
    ToolCall,
    Usage,
)
from murmurate.jobs.approvals import (
    AUDIT,
    AUDIT_TENANT,
    COUNT_EVERY_S,
    Verdict,
    question,
)
from murmurate.jobs.entries import (
    ASKING,
    DEAD,
    QUEUE,
    Asked,
    Begun,
    Kind,
    RunState,
    RunStatus,
    StepDone,
    stream_of,
)
from murmurate.jobs.errands import POLL_S
from murmurate.jobs.views import RunView
from murmurate.sync.entries import decode
from murmurate.sync.entries import stream_of as session_stream
from murmurate.sync.service import Sessions
from murmurate.testing.stories import all_of
from tests.fakes import DONE, RecordingTracer, ask, run_skipping_time, seeded_ids, text_of
from tests.fakes import all_of as answer_of
from tests.jobs.stage import Server, Shop, new_log

ANNE = Caller("key_anne", "a")
BEN = Caller("key_ben", "a", ("approve",))
CARA = Caller("key_cara", "a", ("approve",))
STRANGER = Caller("key_stranger", "b")
PATIENCE_S = 60.0
"""A day of such a loop takes minutes: each server looks for work five times a second."""


class Clerk:
    """A model that calls `sell` for each word of the question, then says what it heard."""

    async def answer(self, request: Request) -> AsyncGenerator[Delta]:
        parts = [part for message in request.messages for part in message.parts]
        if heard := [part.text for part in parts if isinstance(part, ResultPart)]:
            yield Text(" ".join(heard))
            yield DONE
            return
        for number, word in enumerate(request.messages[-1].text.split()):
            yield ToolCall(f"call_{number}", "sell", f'{{"what":"{word}"}}')
        yield Usage(1, 1)
        yield Finished(FinishReason.TOOL_CALLS)


class Sell:
    """A tool that changes something in the shop."""

    spec = Tool("sell", "", "{}")
    effect = Effect.WRITE

    def __init__(self, shop: Shop) -> None:
        self._shop = shop

    async def call(self, arguments: str, context: ToolContext) -> ToolResult:
        sold = await self._shop.sell(arguments, context.key)
        return ToolResult(sold.decode(), Origin(OriginKind.TOOL, "sell"))


class Desk(Server):
    """A server with a real agent that sells."""

    def agent_of(self, shop: Shop, **settings: Any) -> Any:
        settings = {"approval_s": PATIENCE_S, **settings}
        agents = Agents(
            Clerk(),
            agents={"agent": AgentConfig(model="tiny", tools=("sell",), **settings)},
            tools={"sell": Sell(shop)},
            quoter=lambda question, passages: None,
            journals=self.journals,
            tracer=RecordingTracer(),
        )
        return Sessions(
            agents,
            log=self.wire,  # type: ignore[arg-type]
            journals=self.journals,
            clock=self.clock,
            ids=seeded_ids(self.clock, seed=7),
            tracer=RecordingTracer(),
            writer="w",
        )


class Office:
    """Two desks on one log."""

    def __init__(self, **settings: Any) -> None:
        self.log: MemoryLog = new_log()
        self.shop = Shop()
        self.a = Desk("a", self.log, self.shop, **settings)
        self.b = Desk("b", self.log, self.shop, **settings)

    async def begin(self, words: str = "seat", **fields: Any) -> str:
        """Begin a run, as Anne."""
        return await self.a.runs.submit(asking(words), **fields)

    async def waiting(self, words: str = "seat", **fields: Any) -> str:
        """Begin a run, and wait until it asks."""
        return await self.until(await self.begin(words, **fields), "waiting for approval")

    async def until(self, run_id: str, status: str) -> str:
        async with asyncio.timeout(300):
            while (await self.shown(run_id)).status != status:
                await asyncio.sleep(0.01)
        return run_id

    async def shown(self, run_id: str) -> RunView:
        return await self.b.runs.show("a", run_id)

    async def ended(self, run_id: str) -> RunView:
        async with asyncio.timeout(300):
            while (found := await self.shown(run_id)).ended_ms is None:
                await asyncio.sleep(0.05)
        return found

    async def answer(self, run_id: str) -> str:
        found = (await self.ended(run_id)).answer
        assert found is not None
        return found.text

    async def audit(self) -> list[tuple[str, Verdict]]:
        entries = await all_of(self.log.read(AUDIT_TENANT, AUDIT))
        return [(it.kind, msgspec.json.decode(it.body, type=Verdict)) for it in entries]


def asking(words: str = "seat", **fields: Any) -> Request:
    return ask(words, **{"model": "agent", "key": ANNE.key_id, **fields})


def play(
    story: Callable[[Office], Awaitable[None]], *, servers: str = "ab", **settings: Any
) -> None:
    """Run a story with these servers up, in a time that jumps."""

    async def whole() -> None:
        office = Office(**settings)
        up = [await getattr(office, name).up() for name in servers]
        try:
            await story(office)
        finally:
            for server in up:
                server.wire.mend()
                await server.down()

    run_skipping_time(whole())


def now_s() -> float:
    return asyncio.get_running_loop().time()


# A call that asks.


def test_a_run_that_asks_holds_no_place_and_what_it_asks_is_in_the_log() -> None:
    async def story(office: Office) -> None:
        run_id = await office.waiting()
        await asyncio.sleep(0.1)  # whoever asked has let go of it by then
        assert office.a.runner.working + office.b.runner.working == 0
        assert office.a.journals._open == office.b.journals._open == {}
        assert await all_of(office.log.work("a", QUEUE)) == []
        [info] = await all_of(office.log.work("a", ASKING))
        assert (info.stream, info.runner) == (stream_of(run_id), None)
        [asked] = (await office.shown(run_id)).asked
        assert (asked.number, asked.name, asked.arguments) == (2, "sell", '{"what":"seat"}')
        assert (asked.agent, asked.by) == ("agent", "key_anne")
        assert asked.due_ms - asked.at_ms == PATIENCE_S * 1000 == info.due_ms - asked.at_ms
        listed = await office.b.runs.listing("a")
        assert [it.status for it in listed] == ["waiting for approval"]
        assert office.shop.effects == {}

    play(story)


def test_an_approved_call_is_made_once_within_half_a_second() -> None:
    async def story(office: Office) -> None:
        run_id = await office.waiting()
        await asyncio.sleep(30)
        decided_s = now_s()
        approval = await office.a.approvals.decide(BEN, f"{run_id}:2", approved=True)
        assert (approval.id, approval.tool) == (f"{run_id}:2", "sell")
        assert await office.answer(run_id) == '"{"what":"seat"} sold"'
        assert now_s() - decided_s < 0.5
        assert office.shop.effects == {"3": 1}
        steps = (await office.shown(run_id)).steps
        assert [(it.number, it.kind.value) for it in steps] == [
            (1, "model"),
            (2, "approval"),
            (3, "tool"),
            (4, "model"),
        ]
        assert msgspec.json.decode(steps[1].outcome, type=Decision) == Decision(
            approved=True, by="key_ben"
        )
        assert await all_of(office.log.work("a", ASKING)) == []

    play(story)


def test_a_decision_at_another_server_is_acted_upon_as_soon() -> None:
    async def story(office: Office) -> None:
        run_id = await office.waiting()
        office.b.runner._at_a_time = 0  # it decides, and has no room to work on it
        decided_s = now_s()
        await office.b.approvals.decide(BEN, run_id, approved=True)
        await office.ended(run_id)
        assert now_s() - decided_s < 0.5

    play(story)


def test_a_denied_call_is_not_made_and_the_model_hears_why() -> None:
    async def story(office: Office) -> None:
        run_id = await office.waiting()
        await office.a.approvals.decide(BEN, run_id, approved=False, reason="not today")
        said = await office.answer(run_id)
        assert said == """{"error":"the call of 'sell' was denied: not today"}"""
        assert office.shop.effects == {}
        steps = (await office.shown(run_id)).steps
        assert [it.kind.value for it in steps] == ["model", "approval", "model"]

    play(story)


def test_when_nobody_decides_in_time_the_call_counts_as_denied() -> None:
    async def story(office: Office) -> None:
        began_s = now_s()
        run_id = await office.waiting()
        said = await office.answer(run_id)
        assert "denied: nobody has decided in time" in said
        assert PATIENCE_S <= now_s() - began_s < PATIENCE_S + POLL_S + 1
        assert office.shop.effects == {}
        [(kind, verdict)] = await office.audit()
        assert (kind, verdict.by, verdict.run) == ("call.timed_out", None, run_id)
        with pytest.raises(ApprovalDecidedError, match="nobody decided in time, so it was denied"):
            await office.a.approvals.decide(BEN, f"{run_id}:2", approved=True)

    play(story)


def test_calls_side_by_side_are_asked_one_by_one_and_made_when_all_are_decided() -> None:
    async def story(office: Office) -> None:
        run_id = await office.waiting("seat table lamp")
        asked = (await office.shown(run_id)).asked
        assert [it.number for it in asked] == [2, 3, 4]
        decide = office.b.approvals.decide
        with pytest.raises(BadRequestError, match=f"waits for 3 decisions.*{run_id}:2"):
            await decide(BEN, run_id, approved=True)
        await decide(BEN, f"{run_id}:3", approved=False, reason="keep it")
        await decide(BEN, f"{run_id}:4", approved=True)
        await asyncio.sleep(10)
        found = await office.shown(run_id)
        assert (found.status, [it.number for it in found.asked]) == ("waiting for approval", [2])
        assert office.shop.effects == {}
        await decide(CARA, run_id, approved=True)
        said = await office.answer(run_id)
        assert said == (
            '"{"what":"seat"} sold" '
            """{"error":"the call of 'sell' was denied: keep it"} """
            '"{"what":"lamp"} sold"'
        )
        assert office.shop.effects == {"5": 1, "6": 1}

    play(story)


def test_only_those_are_out_of_time_that_nobody_has_decided() -> None:
    async def story(office: Office) -> None:
        run_id = await office.waiting("seat table")
        await office.a.approvals.decide(BEN, f"{run_id}:3", approved=True)
        said = await office.answer(run_id)
        assert "in time" in said.split("}")[0]
        assert '"table"} sold' in said
        kinds = [kind for kind, _ in await office.audit()]
        assert kinds == ["call.approved", "call.timed_out"]

    play(story)


# Who may decide.


def test_who_began_a_run_decides_nothing_of_it() -> None:
    async def story(office: Office) -> None:
        run_id = await office.waiting()
        with pytest.raises(ApprovalOwnError, match=r"another key decides.*own = true"):
            await office.a.approvals.decide(ANNE, run_id, approved=True)
        assert (await office.shown(run_id)).status == "waiting for approval"
        assert await office.audit() == []

    play(story)


def test_on_a_machine_of_one_person_they_do() -> None:
    async def story(office: Office) -> None:
        run_id = await office.waiting()
        await office.a.approvals.decide(ANNE, run_id, approved=True)
        assert (await office.ended(run_id)).status == "finished"

    play(story, own=True)


def test_what_no_key_began_anybody_with_the_scope_decides() -> None:
    async def story(office: Office) -> None:
        run_id = await office.a.runs.submit(asking(key=""))
        await office.until(run_id, "waiting for approval")
        assert (await office.shown(run_id)).asked[0].by is None
        await office.a.approvals.decide(ANNE, run_id, approved=True)
        assert (await office.ended(run_id)).status == "finished"

    play(story)


def test_of_two_who_decide_at_once_the_second_hears_who_was_first() -> None:
    async def story(office: Office) -> None:
        run_id = await office.waiting()
        office.b.wire.cut()  # what it has read is old when its decision arrives
        late = asyncio.create_task(
            office.b.approvals.decide(CARA, run_id, approved=False, reason="no")
        )
        await asyncio.sleep(0.1)
        assert (await office.a.approvals.decide(BEN, run_id, approved=True)).run == run_id
        office.b.wire.mend()
        with pytest.raises(ApprovalDecidedError) as refused:
            await late
        assert refused.value.http_status == 409
        assert f"{run_id}:2 (sell) is decided: key_ben has approved" in refused.value.detail
        assert [kind for kind, _ in await office.audit()] == ["call.approved"]
        assert (await office.ended(run_id)).status == "finished"
        assert office.shop.effects == {"3": 1}

    play(story)


def test_what_another_tenant_asks_does_not_exist() -> None:
    async def story(office: Office) -> None:
        run_id = await office.waiting()
        for name in (run_id, f"{run_id}:2"):
            with pytest.raises(NotFoundError, match=f"there is no run '{run_id}'"):
                await office.a.approvals.decide(STRANGER, name, approved=True)
        assert await office.a.approvals.listing("b", limit=10) == []

    play(story)


@pytest.mark.parametrize("name", ["RUN:1", "RUN:9", "RUN:x", "RUN:", "RUN:2:2", "run_none:2"])
def test_what_was_not_asked_is_not_found(name: str) -> None:
    async def story(office: Office) -> None:
        run_id = await office.waiting()
        with pytest.raises(NotFoundError):
            await office.a.approvals.decide(BEN, name.replace("RUN", run_id), approved=True)
        assert (await office.shown(run_id)).asked != ()

    play(story)


def test_every_decision_is_in_the_audit_with_who_when_what_and_why() -> None:
    async def story(office: Office) -> None:
        run_id = await office.waiting()
        await asyncio.sleep(10)
        await office.a.approvals.decide(BEN, run_id, approved=False, reason="too dear")
        [(kind, verdict)] = await office.audit()
        assert kind == "call.denied"
        assert (verdict.by, verdict.began_by, verdict.tenant) == ("key_ben", "key_anne", "a")
        assert (verdict.run, verdict.number, verdict.tool) == (run_id, 2, "sell")
        assert (verdict.agent, verdict.reason) == ("agent", "too dear")
        assert abs(verdict.at_ms - now_s() * 1000) < 100

    play(story)


# What happens meanwhile.


def test_a_run_that_waits_can_be_cancelled() -> None:
    async def story(office: Office) -> None:
        run_id = await office.waiting(webhook="https://receiver.example/")
        await office.b.runs.cancel("a", run_id)
        cancelled_s = now_s()
        assert (await office.ended(run_id)).status == "cancelled"
        assert now_s() - cancelled_s <= POLL_S + 0.1
        with pytest.raises(RunOverError, match="has cancelled already"):
            await office.a.approvals.decide(BEN, run_id, approved=True)
        assert await left_over(office) == []
        sent = [*office.a.fetcher.sent, *office.b.fetcher.sent]
        told = [msgspec.json.decode(it.body or b"")["type"] for it in sent]
        assert told == ["run.asked", "run.cancelled"]
        assert len({it.headers["webhook-id"] for it in sent}) == 2

    play(story)


def test_a_run_that_was_cancelled_and_is_resumed_asks_anew() -> None:
    async def story(office: Office) -> None:
        run_id = await office.waiting()
        await office.b.runs.cancel("a", run_id)
        await office.ended(run_id)
        await asyncio.sleep(2 * PATIENCE_S)
        await office.b.runs.resume("a", run_id)
        await office.until(run_id, "waiting for approval")
        [asked] = (await office.shown(run_id)).asked
        assert asked.due_ms > now_s() * 1000
        await office.a.approvals.decide(BEN, run_id, approved=True)
        assert (await office.ended(run_id)).status == "finished"
        assert office.shop.effects == {"3": 1}

    play(story)


def test_a_deadline_ends_a_run_that_waits() -> None:
    async def story(office: Office) -> None:
        run_id = await office.waiting(deadline_s=20)
        found = await office.ended(run_id)
        assert (found.status, found.error and found.error.code) == ("failed", "run.deadline")
        assert await left_over(office) == []

    play(story)


def test_a_client_that_waits_hears_which_run_asks_and_its_session_gets_the_turn() -> None:
    async def story(office: Office) -> None:
        asked = asking(session=SessionRef("sess_1", new=True))
        with pytest.raises(RunWaitingError) as refused:
            await answer_of(office.a.runs, asked)
        [waiting] = await office.a.approvals.listing("a", limit=10)
        assert f"sell ({waiting.id})" in refused.value.detail
        assert waiting.session == "sess_1"
        assert await turns(office, "sess_1") == []
        await office.b.approvals.decide(BEN, waiting.id, approved=True)
        await office.ended(waiting.run)
        assert await turns(office, "sess_1") == ["seat", '"{"what":"seat"} sold"']

    play(story)


def test_what_is_no_run_is_refused_with_what_to_do() -> None:
    async def story(office: Office) -> None:
        said = text_of(await answer_of(office.a.runs, asking()))
        assert "sell' was denied: it needs an approval" in said
        assert "begin a run (POST /api/runs)" in said
        assert await all_of(office.log.streams("a", "")) == []
        assert office.shop.effects == {}

    play(story)


def test_a_server_lost_while_a_run_asks_is_not_missed() -> None:
    async def story(office: Office) -> None:
        run_id = await office.waiting()
        office.a.wire.cut()
        await office.b.approvals.decide(BEN, run_id, approved=True)
        assert (await office.ended(run_id)).status == "finished"
        assert office.shop.effects == {"3": 1}

    play(story)


def test_the_last_decision_starts_nothing_while_no_server_is_up() -> None:
    async def story(office: Office) -> None:
        run_id = await office.waiting()
        await office.a.down()
        await office.b.approvals.decide(BEN, run_id, approved=True)
        assert (await office.shown(run_id)).status == "queued"
        await office.b.up()
        assert (await office.ended(run_id)).status == "finished"
        assert office.shop.effects == {"3": 1}
        await office.b.down()

    play(story, servers="a")


def test_a_question_that_cannot_be_written_now_is_written_as_soon_as_it_can() -> None:
    async def story(office: Office) -> None:
        fails = 2
        append = office.log.append

        async def full(entries: Sequence[Any], **options: Any) -> list[int]:
            nonlocal fails
            if fails and any(it.kind == Kind.ASKED for it in entries):
                fails -= 1
                raise LogUnavailableError("disk full", retry_s=1)
            return await append(entries, **options)

        office.log.append = full  # type: ignore[method-assign]
        run_id = await office.waiting()
        assert fails == 0
        await office.a.approvals.decide(BEN, run_id, approved=True)
        assert (await office.ended(run_id)).status == "finished"

    play(story)


def test_a_run_whose_work_was_made_anew_goes_back_to_where_it_asks() -> None:
    async def story(office: Office) -> None:
        run_id = await office.waiting()
        before = await entries_of(office, run_id)
        await office.log.append([], work=[Offer("a", stream_of(run_id), QUEUE)])
        await asyncio.sleep(5)
        [info] = await all_of(office.log.work("a", ASKING))
        assert info.due_ms == (await office.shown(run_id)).asked[0].due_ms
        assert await entries_of(office, run_id) == before
        await office.a.approvals.decide(BEN, run_id, approved=True)
        assert (await office.ended(run_id)).status == "finished"

    play(story)


def test_a_nudge_without_news_leaves_it_waiting() -> None:
    async def story(office: Office) -> None:
        run_id = await office.waiting()
        due = Offer("a", stream_of(run_id), ASKING, due_ms=0)
        await office.log.append([], work=[due])
        await asyncio.sleep(5)
        [info] = await all_of(office.log.work("a", ASKING))
        assert info.due_ms == (await office.shown(run_id)).asked[0].due_ms

    play(story)


def test_a_thousand_runs_that_ask_hold_nothing_and_are_counted() -> None:
    async def story(office: Office) -> None:
        for _ in range(1000):
            await office.begin()
        while len(await all_of(office.log.work("a", ASKING))) < 1000:
            await asyncio.sleep(0.1)
        await asyncio.sleep(1)
        await asyncio.sleep(0.1)  # whoever asked has let go of it by then
        assert office.a.runner.working + office.b.runner.working == 0
        assert office.a.journals._open == office.b.journals._open == {}
        counting = asyncio.create_task(office.a.approvals.keep_count())
        await asyncio.sleep(COUNT_EVERY_S + 10)
        assert office.a.approvals.waiting == 1000
        assert 20 <= office.a.approvals.oldest_s < PATIENCE_S
        counting.cancel()
        listed = await office.a.approvals.listing("a", limit=100)
        assert [it.run for it in listed] == sorted(it.run for it in listed)
        assert len({it.id for it in listed}) == 100

    play(story)


def test_an_outage_of_the_log_is_outlasted_by_the_count() -> None:
    async def story(office: Office) -> None:
        await office.waiting()
        work, office.log.work = office.log.work, broken  # type: ignore[method-assign, assignment]
        counting = asyncio.create_task(office.a.approvals.keep_count())
        await asyncio.sleep(3 * COUNT_EVERY_S)
        office.log.work = work  # type: ignore[method-assign]
        await asyncio.sleep(COUNT_EVERY_S)
        counting.cancel()
        assert office.a.approvals.waiting == 1
        assert [name for name, _ in office.a.events.events].count("approvals.log") == 1

    play(story)


def broken(*_: Any, **__: Any) -> Any:
    raise LogUnavailableError("it is away")


async def turns(office: Office, session: str) -> list[str]:
    """Return what was said in a session, by all."""
    entries = await all_of(office.log.read("a", session_stream(session)))
    parts = [part for it in entries for part in decode(it.body).parts]
    return [getattr(part, "text", "") for part in parts]


async def entries_of(office: Office, run_id: str) -> list[Stored]:
    return await all_of(office.log.read("a", stream_of(run_id)))


async def left_over(office: Office) -> list[str]:
    """Return what work of runs there is, once all errands have looked."""
    await asyncio.sleep(40)
    return [
        it.stream for q in (QUEUE, ASKING, DEAD) for it in await all_of(office.log.work("a", q))
    ]


# What is to be decided, by number and by what was said before. Pure.

TWO = (
    Asked(2, "sell", "{}", "agent", 0, 10, "key_anne"),
    Asked(3, "sell", "{}", "agent", 0, 10, "key_anne"),
)
SAID = StepDone(2, StepKind.APPROVAL, "sell", msgspec.Raw(b'{"approved":true,"by":"key_ben"}'))


def state_of(
    *asked: Asked, steps: tuple[StepDone, ...] = (), status: RunStatus = RunStatus.UNDER_WAY
) -> RunState:
    begun = Begun(asking())
    return RunState(id="run_1", begun=begun, began_ms=0, asked=asked, steps=steps, status=status)


@pytest.mark.parametrize(
    ("state", "number", "expected"),
    [
        (state_of(TWO[0]), None, 2),
        (state_of(TWO[0]), 2, 2),
        (state_of(*TWO), 3, 3),
        (state_of(*TWO), None, BadRequestError),
        (state_of(*TWO), 4, NotFoundError),
        (state_of(TWO[1], steps=(SAID,)), None, 3),
        (state_of(TWO[1], steps=(SAID,)), 2, ApprovalDecidedError),
        (state_of(steps=(SAID,)), None, ApprovalDecidedError),
        (state_of(), None, NotFoundError),
        (state_of(status=RunStatus.FAILED), None, RunOverError),
        (state_of(status=RunStatus.FAILED, steps=(SAID,)), 2, ApprovalDecidedError),
    ],
)
def test_what_is_decided_follows_from_what_the_run_asks(
    state: RunState, number: int | None, expected: int | type[MurmurateError]
) -> None:
    if isinstance(expected, int):
        assert question(state, number).number == expected
        return
    with pytest.raises(expected):
        question(state, number)
