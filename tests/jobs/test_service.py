"""Runs that clients wait for, and what can be asked of runs."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from murmurate.core.errors import (
    EngineFailedError,
    LogUnavailableError,
    NotFoundError,
    RunOpenError,
    RunOverError,
)
from murmurate.core.ports import Entry, Stored, StreamInfo
from murmurate.core.types import Finished, FinishReason, Text
from murmurate.jobs.entries import QUEUE, stream_of
from murmurate.testing.stories import all_of, names_of
from tests.fakes import all_of as answer_of
from tests.jobs.stage import SESSION, STEPS, request
from tests.jobs.test_runner import Stage, play

ONCE = Counter({str(number): 1 for number in range(1, STEPS + 1)})


async def only_run(stage: Stage) -> str:
    [name] = names_of(await all_of(stage.log.streams("a", "run/")))
    return name.removeprefix("run/")


def test_a_client_that_waits_gets_the_answer_as_it_comes_and_the_run_is_kept() -> None:
    async def story(stage: Stage) -> None:
        deltas = await answer_of(stage.a.runs, request(session=SESSION))
        assert deltas[0] == Text("thing 1 sold. ")
        assert deltas[-1] == Finished(FinishReason.STOP)
        shown = await stage.b.runs.show("a", await only_run(stage))
        assert (shown.status, shown.session, len(shown.steps)) == ("finished", "sess_1", 3)
        assert shown.answer is not None
        assert shown.answer.text.startswith("thing 1 sold.")
        assert await all_of(stage.log.work("a", QUEUE)) == []

    play(story)


def test_what_is_no_run_passes_and_leaves_nothing() -> None:
    async def story(stage: Stage) -> None:
        assert len(await answer_of(stage.a.runs, request())) == STEPS + 1
        assert await all_of(stage.log.streams("a", "")) == []

    play(story)


def test_a_client_that_leaves_cancels_its_run() -> None:
    async def story(stage: Stage) -> None:
        async with aclosing(stage.a.runs.answer(request(session=SESSION))) as deltas:
            await anext(deltas)
        found = await stage.ended(await only_run(stage))
        assert (found.status, len(found.steps)) == ("cancelled", 1)

    play(story)


def test_when_the_server_stops_under_a_client_another_one_finishes_the_run() -> None:
    async def story(stage: Stage) -> None:
        async with aclosing(stage.a.runs.answer(request(session=SESSION))) as deltas:
            await anext(deltas)
            stage.a.runner.drain()
        found = await stage.ended(await only_run(stage))
        assert (found.status, stage.shop.effects) == ("finished", ONCE)

    play(story)


def test_a_lost_server_takes_its_client_along_and_not_the_run() -> None:
    async def story(stage: Stage) -> None:
        stage.shop.hold["thing 2"] = asyncio.Event()
        client = asyncio.create_task(answer_of(stage.a.runs, request(session=SESSION)))
        while not stage.shop.effects["2"]:
            await asyncio.sleep(0.01)
        stage.a.wire.cut()
        hold = stage.shop.hold.pop("thing 2")
        found = await stage.ended(await only_run(stage))
        assert (found.status, len(found.steps)) == ("finished", 3)
        hold.set()
        stage.a.wire.mend()
        [outcome] = await asyncio.gather(client, return_exceptions=True)
        assert "log.fenced" in str(outcome)
        assert stage.shop.effects == ONCE + Counter({"2": 1})

    play(story)


def test_an_error_is_the_clients_and_the_run_has_failed() -> None:
    async def story(stage: Stage) -> None:
        stage.shop.error = EngineFailedError("broke")
        with pytest.raises(EngineFailedError):
            await answer_of(stage.a.runs, request(session=SESSION))
        assert await all_of(stage.log.streams("a", "")) == []  # nothing was done yet
        stage.shop.error, stage.shop.hold["thing 2"] = None, asyncio.Event()
        client = asyncio.create_task(answer_of(stage.a.runs, request(session=SESSION)))
        while not stage.shop.effects["2"]:
            await asyncio.sleep(0.01)
        stage.shop.error = EngineFailedError("broke")
        stage.shop.hold["thing 2"].set()
        with pytest.raises(EngineFailedError):
            await client
        found = await stage.ended(await only_run(stage))
        assert (found.status, found.error and found.error.code) == ("failed", "engine.failed")

    play(story)


def test_where_the_failure_cannot_be_written_the_client_hears_that_it_is_open() -> None:
    async def story(stage: Stage) -> None:
        async with aclosing(stage.a.runs.answer(request(session=SESSION))) as deltas:
            await anext(deltas)
            append = stage.log.append

            async def full(*args: object, **kwargs: object) -> list[int]:
                raise LogUnavailableError("the disk is full")

            stage.log.append = full  # type: ignore[method-assign, assignment]
            with pytest.raises(RunOpenError, match=r"the disk is full; run_\w+ has begun"):
                await anext(deltas)
            stage.log.append = append  # type: ignore[method-assign]
        found = await stage.ended(await only_run(stage))
        assert found.status == "failed"

    play(story)


def test_a_run_that_a_client_waits_for_can_be_cancelled_elsewhere() -> None:
    async def story(stage: Stage) -> None:
        stage.shop.hold["thing 2"] = asyncio.Event()
        client = asyncio.create_task(answer_of(stage.a.runs, request(session=SESSION)))
        while not stage.shop.effects["2"]:
            await asyncio.sleep(0.01)
        run_id = await only_run(stage)
        await stage.b.runs.cancel("a", run_id)
        await asyncio.sleep(1)
        stage.shop.hold["thing 2"].set()
        with pytest.raises(RunOverError, match="was cancelled"):
            await client
        assert (await stage.ended(run_id)).status == "cancelled"

    play(story)


def test_a_run_is_followed_to_its_end() -> None:
    async def story(stage: Stage) -> None:
        run_id = await stage.a.runs.submit(request())
        events = await all_of(stage.b.runs.events("a", run_id))
        kinds = [event.kind for event in events]
        assert kinds == ["run.begun", *["run.step"] * 3, "run.finished"]
        assert [event.seq for event in events] == [1, 2, 3, 4, 5]

    play(story)


def test_higher_priorities_are_worked_on_first() -> None:
    async def story(stage: Stage) -> None:
        stage.a.runner._at_a_time = 1
        low = await stage.a.runs.submit(request(1), priority=-1)
        high = await stage.a.runs.submit(request(2), priority=1)
        await stage.a.up()
        for name in (low, high):
            await stage.ended(name)
        log = stage.log
        entries = {it: await all_of(log.read("a", stream_of(it))) for it in (low, high)}
        assert entries[high][-1].position < entries[low][1].position
        await stage.a.down()

    play(story, servers="")


def test_runs_are_listed_newest_first_with_where_they_stand() -> None:
    async def story(stage: Stage) -> None:
        done = await stage.a.runs.submit(request(1))
        await stage.a.up()
        await stage.ended(done)
        await stage.a.down()
        waits = await stage.b.runs.submit(request(2))
        listed = await stage.b.runs.listing("a")
        assert [(it.id, it.status, it.steps) for it in listed] == [
            (waits, "queued", 0),
            (done, "finished", 3),
        ]
        assert await stage.b.runs.listing("b") == []
        assert [it.id for it in await stage.b.runs.listing("a", limit=1)] == [waits]

    play(story, servers="")


def test_what_is_not_there_or_over_is_refused() -> None:
    async def story(stage: Stage) -> None:
        runs = stage.a.runs
        for asking in (runs.show, runs.cancel, runs.resume):
            with pytest.raises(NotFoundError, match="no run 'run_x'"):
                await asking("a", "run_x")
        run_id = await runs.submit(request())
        with pytest.raises(NotFoundError):
            await runs.show("b", run_id)
        with pytest.raises(RunOverError, match="is under way"):
            await runs.resume("a", run_id)
        await stage.ended(run_id)
        for asking in (runs.cancel, runs.resume):
            with pytest.raises(RunOverError, match="has finished"):
                await asking("a", run_id)

    play(story)


def test_a_run_whose_last_write_fails_after_its_client_has_left_is_ended_all_the_same() -> None:
    async def story(stage: Stage) -> None:
        append, writing = stage.log.append, asyncio.Event()

        async def fails(entries: Sequence[Entry], **kwargs: Any) -> list[int]:
            if entries and entries[-1].kind == "run.finished":
                writing.set()
                await asyncio.sleep(1)
                raise LogUnavailableError("the disk is full")
            return await append(entries, **kwargs)

        stage.log.append = fails  # type: ignore[method-assign, assignment]
        client = asyncio.create_task(answer_of(stage.a.runs, request(session=SESSION)))
        await writing.wait()
        client.cancel()
        assert (await stage.ended(await only_run(stage))).status == "cancelled"
        assert await all_of(stage.log.work("a", QUEUE)) == []

    play(story)


def test_a_run_whose_failure_is_being_written_when_its_client_leaves_is_ended() -> None:
    async def story(stage: Stage) -> None:
        append, writing = stage.log.append, asyncio.Event()

        async def fails_once(entries: Sequence[Entry], **kwargs: Any) -> list[int]:
            if entries and entries[-1].kind == "run.failed" and not writing.is_set():
                writing.set()
                await asyncio.sleep(1)
                raise LogUnavailableError("the disk is full")
            return await append(entries, **kwargs)

        stage.log.append = fails_once  # type: ignore[method-assign, assignment]
        stage.shop.hold["thing 2"] = asyncio.Event()
        client = asyncio.create_task(answer_of(stage.a.runs, request(session=SESSION)))
        while not stage.shop.effects["2"]:
            await asyncio.sleep(0.01)
        stage.shop.error = EngineFailedError("broke")
        stage.shop.hold.pop("thing 2").set()
        await writing.wait()
        client.cancel()
        assert (await stage.ended(await only_run(stage))).status == "failed"

    play(story)


def test_a_beginning_whose_answer_was_lost_is_held_by_nobody_for_ever() -> None:
    async def story(stage: Stage) -> None:
        append, lost = stage.log.append, []

        async def unanswered(entries: Sequence[Entry], **kwargs: Any) -> list[int]:
            seqs = await append(entries, **kwargs)
            if not lost:
                lost.append(seqs)
                raise LogUnavailableError("whether this was written is not known")
            return seqs

        stage.log.append = unanswered  # type: ignore[method-assign, assignment]
        with pytest.raises(LogUnavailableError):
            await answer_of(stage.a.runs, request(session=SESSION))
        assert (await stage.ended(await only_run(stage))).status == "failed"
        assert await all_of(stage.log.work("a", QUEUE)) == []

    play(story)


def test_a_run_that_is_resumed_by_two_at_once_is_done_once() -> None:
    async def story(stage: Stage) -> None:
        run_id = await stage.a.runs.submit(request())
        await stage.a.runs.cancel("a", run_id)
        await stage.ended(run_id)
        append, waiting = stage.log.append, [asyncio.Event()]

        async def late(entries: Sequence[Entry], **kwargs: Any) -> list[int]:
            if waiting and entries and entries[0].kind == "run.resumed":
                await waiting.pop().wait()
            return await append(entries, **kwargs)

        stage.log.append, [gate] = late, list(waiting)  # type: ignore[method-assign, assignment]
        first = asyncio.create_task(stage.a.runs.resume("a", run_id))
        await asyncio.sleep(0.1)
        await stage.b.runs.resume("a", run_id)
        assert (await stage.ended(run_id)).status == "finished"
        gate.set()
        with pytest.raises(RunOverError, match="has finished"):
            await first
        assert await all_of(stage.log.work("a", QUEUE)) == []

    play(story)


def test_a_run_that_is_tried_again_keeps_its_priority() -> None:
    async def story(stage: Stage) -> None:
        stage.shop.error = EngineFailedError("broke")
        run_id = await stage.a.runs.submit(request(), priority=7)
        async with asyncio.timeout(60):
            while (await stage.shown(run_id)).status != "waiting":
                await asyncio.sleep(0.01)
        [work] = await all_of(stage.log.work("a", QUEUE))
        assert (work.runner, work.priority) == (None, 7)

    play(story)


def test_a_damaged_run_is_listed_as_such_and_hides_no_other() -> None:
    async def story(stage: Stage) -> None:
        runs = [await stage.a.runs.submit(request(number)) for number in range(3)]
        await stage.log.append([Entry("a", stream_of(runs[1]), "run.step", b"no json")])
        await stage.log.forget("a", stream_of(runs[0]))
        read = stage.log.read

        async def gone(tenant: str, stream: str, **kwargs: Any) -> AsyncGenerator[Stored]:
            if stream == stream_of(runs[2]):
                await stage.log.forget("a", stream)
            async with aclosing(read(tenant, stream, **kwargs)) as entries:
                async for stored in entries:
                    yield stored

        listed = {it.id: it for it in await stage.b.runs.listing("a")}
        assert (listed[runs[1]].status, listed[runs[1]].error) == ("damaged", "log.corrupt")
        assert abs(listed[runs[1]].began_ms - stage.a.clock.unix_ms()) < 60_000
        assert listed[runs[2]].status == "queued"
        stage.log.read = gone  # type: ignore[method-assign]
        assert [it.id for it in await stage.b.runs.listing("a")] == [runs[1]]

    play(story, servers="")


def test_a_listing_looks_no_further_back_than_it_must() -> None:
    async def story(stage: Stage) -> None:
        streams, behind = stage.log.streams, []

        def seen(tenant: str, prefix: str, *, after: str = "") -> AsyncGenerator[StreamInfo]:
            behind.append(after)
            return streams(tenant, prefix, after=after)

        stage.log.streams = seen  # type: ignore[method-assign]
        runs = []
        for number in range(4):
            runs.append(await stage.a.runs.submit(request(number)))
            await asyncio.sleep(3000)
        for limit, looks in ((1, 1), (4, 2), (5, 3)):
            behind.clear()
            listed = await stage.a.runs.listing("a", limit=limit)
            assert [it.id for it in listed] == runs[::-1][:limit]
            assert len(behind) == looks
        assert behind[-1] == ""

    play(story, servers="")


def test_a_server_that_was_just_revoked_asks_its_client_to_come_again() -> None:
    async def story(stage: Stage) -> None:
        stage.shop.hold["thing 1"] = asyncio.Event()
        client = asyncio.create_task(answer_of(stage.a.runs, request(session=SESSION)))
        while not stage.shop.effects["1"]:
            await asyncio.sleep(0.01)
        await stage.log.revoke("a")
        stage.shop.hold.pop("thing 1").set()
        with pytest.raises(LogUnavailableError, match="nothing was written") as refused:
            await client
        assert refused.value.retry_s == 1.0
        assert await all_of(stage.log.streams("a", "")) == []
        await asyncio.sleep(1)
        answer = await answer_of(stage.a.runs, request(session=SESSION))
        assert answer[-1] == Finished(FinishReason.STOP)

    play(story)


def test_a_run_whose_beginning_cannot_be_written_has_not_begun_for_its_client() -> None:
    async def story(stage: Stage) -> None:
        append = stage.log.append

        async def full(entries: Sequence[Entry], **kwargs: Any) -> list[int]:
            if entries and entries[0].kind == "run.begun":
                raise LogUnavailableError("the disk is full")
            return await append(entries, **kwargs)

        stage.log.append = full  # type: ignore[method-assign, assignment]
        with pytest.raises(LogUnavailableError, match="the disk is full"):
            await answer_of(stage.a.runs, request(session=SESSION))
        assert await all_of(stage.log.streams("a", "")) == []
        assert stage.a.events.named("runs.not_ended") == []

    play(story)
