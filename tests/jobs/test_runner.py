"""Runs go on whatever becomes of their servers, and nothing that was done is done again."""

# Over 400 lines: each way in which a server or the log can fail a run is a story of its own.

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from murmurate.adapters.memory import MemoryLog
from murmurate.core.errors import (
    BadRequestError,
    EngineFailedError,
    LogCorruptError,
    LogUnavailableError,
    MurmurateError,
    RunDivergedError,
)
from murmurate.core.ports import Claim, Entry
from murmurate.jobs.attempts import ATTEMPTS_MAX, HOLDERS_MAX
from murmurate.jobs.entries import DEAD, QUEUE, RunState, stream_of
from murmurate.jobs.runner import LEFT_AT_ONCE, UNREAD_PAUSE_MS
from murmurate.jobs.views import RunView
from murmurate.jobs.vigil import LOOK_S, RENEW_S, TTL_S
from murmurate.testing.stories import all_of, seqs_of
from tests.fakes import run_skipping_time
from tests.jobs.stage import STEPS, Server, Shop, new_log, request

ONCE = Counter({str(number): 1 for number in range(1, STEPS + 1)})


class Stage:
    """Two servers on one log, and the shop that both buy from."""

    def __init__(self) -> None:
        self.log: MemoryLog = new_log()
        self.shop = Shop()
        self.a = Server("a", self.log, self.shop)
        self.b = Server("b", self.log, self.shop)

    async def shown(self, run_id: str) -> RunView:
        return await self.b.runs.show("a", run_id)

    async def ended(self, run_id: str) -> RunView:
        async with asyncio.timeout(300):
            while (found := await self.shown(run_id)).status in {"queued", "running", "waiting"}:
                await asyncio.sleep(0.01)
        return found


def play(story: Callable[[Stage], Awaitable[None]], *, servers: str = "ab") -> None:
    """Run a story with these servers up, in a time that jumps."""

    async def whole() -> None:
        stage = Stage()
        up = [await getattr(stage, name).up() for name in servers]
        try:
            await story(stage)
        finally:
            for server in up:
                server.wire.mend()
                await server.down()

    run_skipping_time(whole())


def now_s() -> float:
    return asyncio.get_running_loop().time()


def test_a_run_in_the_background_is_done_step_by_step() -> None:
    async def story(stage: Stage) -> None:
        found = await stage.ended(await stage.a.runs.submit(request()))
        assert (found.status, [step.number for step in found.steps]) == ("finished", [1, 2, 3])
        assert found.answer is not None
        assert found.answer.text == "thing 1 sold. thing 2 sold. thing 3 sold. "
        assert stage.shop.effects == ONCE
        assert await all_of(stage.log.work("a", QUEUE)) == []

    play(story)


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("number", range(1, STEPS + 1))
def test_when_a_server_is_lost_another_goes_on_and_repeats_only_what_was_not_written(
    number: int, told: bool
) -> None:
    async def story(stage: Stage) -> None:
        name = f"thing {number}"
        stage.shop.hold[name] = asyncio.Event()
        await stage.a.up()
        run_id = await stage.a.runs.submit(request())
        while not stage.shop.effects[str(number)]:
            await asyncio.sleep(0.01)
        stage.a.wire.cut()
        del stage.shop.hold[name]
        await stage.b.up()
        cut_s = now_s()
        if told:
            await stage.b.runner.take_over("a")
        found = await stage.ended(run_id)
        took_s = now_s() - cut_s
        assert took_s < (0.5 if told else TTL_S + RENEW_S + 3 * LOOK_S)
        assert found.status == "finished"
        # The effect that was not written yet came again, with the same key.
        assert stage.shop.effects == ONCE + Counter({str(number): 1})
        stage.a.wire.mend()
        for server in (stage.a, stage.b):
            await server.down()

    play(story, servers="")


def test_what_a_hung_server_writes_late_is_refused() -> None:
    async def story(stage: Stage) -> None:
        hold = stage.shop.hold["thing 2"] = asyncio.Event()
        run_id = await stage.a.runs.submit(request())
        await stage.a.runner.work()
        while not stage.shop.effects["2"]:
            await asyncio.sleep(0.01)
        holder, other = (stage.a, stage.b) if stage.a.runner.working else (stage.b, stage.a)
        holder.wire.cut()
        del stage.shop.hold["thing 2"]
        hold.set()
        assert (await stage.ended(run_id)).status == "finished"
        entries = await all_of(stage.log.read("a", stream_of(run_id)))
        holder.wire.mend()
        await asyncio.sleep(2 * RENEW_S)
        assert holder.runner.working == 0
        assert seqs_of(await all_of(stage.log.read("a", stream_of(run_id)))) == seqs_of(entries)
        assert holder.events.named("runs.revoked") or not other.events.named("runs.revoked")

    play(story)


def test_a_server_that_stops_in_order_leaves_its_runs_to_others_at_once() -> None:
    async def story(stage: Stage) -> None:
        stage.shop.hold["thing 2"] = asyncio.Event()
        await stage.a.up()
        run_id = await stage.a.runs.submit(request())
        while not stage.shop.effects["2"]:
            await asyncio.sleep(0.01)
        del stage.shop.hold["thing 2"]
        await stage.a.down()
        assert await stage.log.beats() == {}
        await stage.b.up()
        began_s = now_s()
        assert (await stage.ended(run_id)).status == "finished"
        assert now_s() - began_s < 0.5
        assert stage.shop.effects == ONCE + Counter({"2": 1})
        await stage.b.down()

    play(story, servers="")


def test_an_attempt_that_fails_is_made_again_later_and_given_up_in_the_end() -> None:
    async def story(stage: Stage) -> None:
        stage.shop.error = EngineFailedError("broke")
        run_id = await stage.a.runs.submit(request())
        began_s = now_s()
        found = await stage.ended(run_id)
        assert now_s() - began_s > 0.5 + 1 + 2 + 4
        assert (found.status, found.error and found.error.code) == ("failed", "engine.failed")
        [dead] = await all_of(stage.log.work("a", DEAD))
        assert (dead.stream, dead.epoch) == (stream_of(run_id), ATTEMPTS_MAX)
        stage.shop.error = None
        await stage.a.runs.resume("a", run_id)
        assert (await stage.ended(run_id)).status == "finished"
        assert await all_of(stage.log.work("a", DEAD)) == []

    play(story)


def test_a_request_that_is_wrong_is_not_tried_again() -> None:
    async def story(stage: Stage) -> None:
        stage.shop.error = BadRequestError("no such thing")
        found = await stage.ended(await stage.a.runs.submit(request()))
        assert (found.status, found.error and found.error.detail) == ("failed", "no such thing")
        [dead] = await all_of(stage.log.work("a", DEAD))
        assert dead.epoch == 1

    play(story)


def test_a_fault_that_nobody_foresaw_ends_the_run_and_no_server() -> None:
    async def story(stage: Stage) -> None:
        stage.shop.error = ZeroDivisionError("of a tool")
        found = await stage.ended(await stage.a.runs.submit(request()))
        assert (found.status, found.error and found.error.code) == ("failed", "internal")
        stage.shop.error = None
        assert (await stage.ended(await stage.a.runs.submit(request(2)))).status == "finished"

    play(story)


def test_a_run_that_its_servers_die_of_is_given_up() -> None:
    async def story(stage: Stage) -> None:
        run_id = await stage.a.runs.submit(request())
        for number in range(HOLDERS_MAX):
            await stage.log.renew(f"dead {number}")
            [claim] = await stage.log.claim(QUEUE, f"dead {number}", limit=1)
            assert claim.epoch == number + 1
            await stage.log.revoke(f"dead {number}")
        await stage.a.up()
        found = await stage.ended(run_id)
        assert (found.status, found.error and found.error.code) == ("failed", "run.poison")
        assert not stage.shop.effects
        await stage.a.down()

    play(story, servers="")


def test_a_run_whose_code_was_changed_meanwhile_fails_and_says_where() -> None:
    async def story(stage: Stage) -> None:
        stage.shop.error = EngineFailedError("broke")
        stage.a.agent._steps = 0
        run_id = await stage.a.runs.submit(request())
        journal = (
            b'{"number":1,"kind":"model","name":"another","outcome":"x"}',
            b'{"number":2,"kind":"model","name":"another","outcome":"x"}',
        )
        await stage.log.append([Entry("a", stream_of(run_id), "run.step", it) for it in journal])
        await stage.b.up()
        found = await stage.ended(run_id)
        assert found.error is not None
        assert (found.status, found.error.code) == ("failed", RunDivergedError.code)
        assert "step 1" in found.error.detail
        await stage.b.down()

    play(story, servers="")


def test_a_run_that_is_damaged_is_put_aside_and_the_others_go_on() -> None:
    async def story(stage: Stage) -> None:
        bad, good = [await stage.a.runs.submit(request(number)) for number in (1, 2)]
        await stage.log.append([Entry("a", stream_of(bad), "run.step", b"no json")])
        await stage.a.up()
        assert (await stage.ended(good)).status == "finished"
        await asyncio.sleep(1)
        [dead] = await all_of(stage.log.work("a", DEAD))
        assert dead.stream == stream_of(bad)
        await stage.a.down()

    play(story, servers="")


def test_a_cancelled_run_ends_soon_wherever_it_is_worked_on() -> None:
    async def story(stage: Stage) -> None:
        stage.shop.hold["thing 2"] = asyncio.Event()
        run_id = await stage.a.runs.submit(request())
        while not stage.shop.effects["2"]:
            await asyncio.sleep(0.01)
        began_s = now_s()
        for server in (stage.a, stage.b):
            if not server.runner.working:
                await server.runs.cancel("a", run_id)
        found = await stage.ended(run_id)
        assert (found.status, now_s() - began_s < 2 * RENEW_S) == ("cancelled", True)
        assert len(found.steps) == 1
        del stage.shop.hold["thing 2"]
        await stage.a.runs.resume("a", run_id)
        assert (await stage.ended(run_id)).status == "finished"
        assert stage.shop.effects == ONCE + Counter({"2": 1})

    play(story)


def test_a_run_that_waits_is_cancelled_without_being_worked_on() -> None:
    async def story(stage: Stage) -> None:
        run_id = await stage.a.runs.submit(request())
        await stage.a.runs.cancel("a", run_id)
        await stage.b.up()
        assert (await stage.ended(run_id)).status == "cancelled"
        assert not stage.shop.effects
        await stage.b.down()

    play(story, servers="")


def test_a_server_works_on_as_many_runs_as_it_has_room_for() -> None:
    async def story(stage: Stage) -> None:
        stage.a.runner._at_a_time = 2
        stage.shop.hold["thing 1"] = asyncio.Event()
        runs = [await stage.a.runs.submit(request(number)) for number in range(5)]
        await stage.a.up()
        await asyncio.sleep(1)
        assert (stage.a.runner.working, stage.shop.effects["1"]) == (2, 2)
        stage.shop.hold.pop("thing 1").set()
        for run_id in runs:
            assert (await stage.ended(run_id)).status == "finished"
        await stage.a.down()

    play(story, servers="")


def test_an_outage_of_the_log_is_outlasted() -> None:
    class Flaky(MemoryLog):
        down = True

        async def renew(self, runner: str) -> object:  # type: ignore[override]
            if self.down:
                raise LogUnavailableError("full")
            return await super().renew(runner)

    async def story() -> None:
        shop, log = Shop(), Flaky(clock=new_log()._clock)
        server = Server("a", log, shop)
        server.life = asyncio.create_task(server.runner.run())
        run_id = await server.runs.submit(request())
        await asyncio.sleep(5)
        assert [it["code"] for it in server.events.named("runs.log")] == ["log.unavailable"]
        log.down = False
        await asyncio.sleep(2)
        assert (await server.runs.show("a", run_id)).status == "finished"
        await server.down()

    run_skipping_time(story())


def test_a_run_that_is_cancelled_before_its_first_step_is_not_held_for_ever() -> None:
    async def story(stage: Stage) -> None:
        run_id = await stage.a.runs.submit(request())
        read, reading = stage.a.runner.read, asyncio.Event()

        async def slow(tenant: str, run: str) -> RunState:
            found = await read(tenant, run)
            if not reading.is_set():  # the first look, before the run is worked on
                reading.set()
                await asyncio.sleep(5)
            return found

        stage.a.runner.read = slow  # type: ignore[method-assign]
        await stage.a.up()
        await reading.wait()
        await stage.b.runs.cancel("a", run_id)
        began_s = now_s()
        assert (await stage.ended(run_id)).status == "cancelled"
        assert now_s() - began_s < 3 * RENEW_S
        await stage.a.down()

    play(story, servers="")


def test_a_run_whose_stream_takes_no_entry_is_put_aside_without_a_word() -> None:
    class Headless(MemoryLog):
        async def append(self, entries: Any, **kwargs: Any) -> list[int]:  # type: ignore[override]
            if entries and kwargs.get("fence") is not None:
                raise LogCorruptError("the count is damaged")
            return await super().append(entries, **kwargs)

    async def story() -> None:
        log = Headless(clock=new_log()._clock)
        server = await Server("a", log, Shop()).up()
        run_id = await server.runs.submit(request())
        await asyncio.sleep(1)
        [dead] = await all_of(log.work("a", DEAD))
        assert (dead.stream, dead.runner) == (stream_of(run_id), None)
        assert server.events.named("runs.not_ended") == []
        await server.down()

    run_skipping_time(story())


def test_news_that_were_lost_on_the_way_are_looked_for() -> None:
    async def story(stage: Stage) -> None:
        stage.shop.hold["thing 2"] = asyncio.Event()
        await stage.a.up()
        run_id = await stage.a.runs.submit(request())
        while not stage.shop.effects["2"]:
            await asyncio.sleep(0.01)
        renew, lost = stage.log.renew, []

        async def unanswered(runner: str) -> Any:
            renewal = await renew(runner)
            if renewal.nudged and not lost:
                lost.append(renewal.nudged)
                raise LogUnavailableError("the answer was lost")
            return renewal

        stage.log.renew = unanswered  # type: ignore[method-assign]
        await stage.b.runs.cancel("a", run_id)
        assert (await stage.ended(run_id)).status == "cancelled"
        assert len(lost) == 1
        await stage.a.down()

    play(story, servers="")


@pytest.mark.parametrize("error", [LogCorruptError("damaged"), LogUnavailableError("busy")])
def test_news_that_cannot_be_read_hide_no_other_news(error: MurmurateError) -> None:
    async def story(stage: Stage) -> None:
        stage.shop.hold["thing 1"] = asyncio.Event()
        await stage.a.up()
        runs = [await stage.a.runs.submit(request(number)) for number in range(2)]
        while stage.shop.effects["1"] < len(runs):
            await asyncio.sleep(0.01)
        read, failed = stage.a.runner.read, []

        async def once(tenant: str, run: str) -> RunState:
            if run == min(runs) and not failed:
                failed.append(run)
                raise error
            return await read(tenant, run)

        stage.a.runner.read = once  # type: ignore[method-assign]
        for run_id in runs:
            await stage.b.runs.cancel("a", run_id)
        assert (await stage.ended(max(runs))).status == "cancelled"
        assert failed == [min(runs)]
        if isinstance(error, LogUnavailableError):
            assert (await stage.ended(min(runs))).status == "cancelled"
        await stage.a.down()

    play(story, servers="")


def test_a_server_beats_however_many_ends_it_has_to_write() -> None:
    async def story(stage: Stage) -> None:
        runner = stage.a.runner
        await stage.log.renew("a")

        async def slow() -> None:
            await asyncio.sleep(60)

        async def refused() -> None:
            raise LogUnavailableError("full")

        for number in range(2 * LEFT_AT_ONCE):
            claim = Claim("a", f"run/{number}", QUEUE, "a", 1)
            assert not await runner.end(claim, refused)
            runner._left[claim.tenant, claim.stream] = (claim, slow if number % 2 else refused)
        began_s = now_s()
        for beat in range(3):
            await runner.live()
            await asyncio.sleep(0)
            assert (await stage.log.beats())["a"] == beat + 2
        assert now_s() - began_s < 1
        # It was said once of each, not with every attempt.
        assert len(stage.a.events.named("runs.not_ended")) == 2 * LEFT_AT_ONCE
        await asyncio.sleep(61)
        assert len(runner._left) == LEFT_AT_ONCE

    play(story, servers="")


def test_a_run_that_cannot_be_read_now_is_tried_once_a_second() -> None:
    async def story(stage: Stage) -> None:
        read, tries = stage.a.runner.read, []

        async def busy(tenant: str, run: str) -> RunState:
            tries.append(now_s())
            if len(tries) < 3:
                raise LogUnavailableError("all readers are busy")
            return await read(tenant, run)

        stage.a.runner.read = busy  # type: ignore[method-assign]
        await stage.a.up()
        found = await stage.ended(await stage.a.runs.submit(request()))
        assert (found.status, len(tries)) == ("finished", 3)
        assert tries[-1] - tries[0] > 2 * UNREAD_PAUSE_MS / 1000
        await stage.a.down()

    play(story, servers="")


def test_runs_that_were_given_in_an_answer_that_was_lost_are_worked_on() -> None:
    async def story(stage: Stage) -> None:
        claim, lost = stage.log.claim, []

        async def unanswered(queue: str, runner: str, *, limit: int) -> list[Claim]:
            claims = await claim(queue, runner, limit=limit)
            if claims and not lost:
                lost.extend(claims)
                raise LogUnavailableError("whether this was written is not known")
            return claims

        stage.log.claim = unanswered  # type: ignore[method-assign]
        runs = [await stage.a.runs.submit(request(number)) for number in range(2)]
        await stage.a.up()
        for run_id in runs:
            assert (await stage.ended(run_id)).status == "finished"
        assert len(lost) == 2
        assert stage.shop.effects == ONCE + ONCE
        await stage.a.down()

    play(story, servers="")


def test_a_revoked_server_that_takes_its_run_back_knows_the_new_attempt() -> None:
    async def story(stage: Stage) -> None:
        stage.shop.hold["thing 1"] = asyncio.Event()
        await stage.a.up()
        run_id = await stage.a.runs.submit(request())
        while not stage.shop.effects["1"]:
            await asyncio.sleep(0.01)
        append = stage.log.append

        async def slow(entries: Sequence[Entry], **kwargs: Any) -> list[int]:
            if entries and entries[0].kind == "run.left":  # the old attempt takes long to end
                await asyncio.sleep(2)
            return await append(entries, **kwargs)

        stage.log.append = slow  # type: ignore[method-assign, assignment]
        await stage.log.revoke("a")
        while stage.shop.effects["1"] < 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(3)
        assert stage.a.runner.working == 1
        await stage.b.runs.cancel("a", run_id)
        assert (await stage.ended(run_id)).status == "cancelled"
        await asyncio.sleep(1)
        assert stage.a.runner.working == 0
        await stage.a.down()

    play(story, servers="")


def test_a_fault_that_nobody_foresaw_ends_neither_beats_nor_claims() -> None:
    async def story(stage: Stage) -> None:
        faults = 0
        renew, beats, claim = stage.log.renew, stage.log.beats, stage.log.claim
        await stage.a.up()

        def faulty(method: Any) -> Any:
            async def called(*args: Any, **kwargs: Any) -> Any:
                nonlocal faults
                if now_s() < until_s:
                    faults += 1
                    raise ZeroDivisionError
                return await method(*args, **kwargs)

            return called

        until_s = now_s() + 1
        stage.log.renew, stage.log.beats = faulty(renew), faulty(beats)  # type: ignore[method-assign]
        stage.log.claim = faulty(claim)  # type: ignore[method-assign]
        run_id = await stage.a.runs.submit(request())
        assert (await stage.ended(run_id)).status == "finished"
        assert faults > 3
        assert len(stage.a.events.named("runs.fault")) == 3  # once a task
        await stage.a.down()

    play(story, servers="")
