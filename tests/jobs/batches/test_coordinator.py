"""Batches go through, whatever is in them and whatever dies; each line is answered once."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest

from murmurate.adapters.memory import MemoryLog
from murmurate.core.errors import (
    BadRequestError,
    EngineFailedError,
    LogCorruptError,
    LogUnavailableError,
    OverloadedError,
    WorkerUnreachableError,
)
from murmurate.core.ports import NEVER_MS, Done, Entry, Offer
from murmurate.jobs.attempts import ATTEMPTS_MAX
from murmurate.jobs.batch_lines import lines_of, run_of, stream_of
from murmurate.jobs.batches.coordinator import COMPUTED_MAX
from murmurate.jobs.batches.state import DEAD, PROBLEMS_MAX
from murmurate.jobs.entries import ASKING, Kind
from murmurate.jobs.entries import DEAD as DEAD_RUNS
from murmurate.jobs.entries import QUEUE as RUNS
from murmurate.jobs.entries import stream_of as run_stream
from murmurate.testing.stories import all_of, names_of
from tests.fakes import run_skipping_time
from tests.jobs.batches.stage import EMBED, Echo, Server, line
from tests.jobs.stage import new_log

Story = Callable[[Server, Echo], Coroutine[Any, Any, None]]


def played(story: Story, **limits: Any) -> None:
    """Play a story with one server."""

    async def whole() -> None:
        echo = Echo()
        server = await Server("one", new_log(), echo, **limits).up()
        try:
            await story(server, echo)
        finally:
            await server.down()

    run_skipping_time(whole())


def log_of(server: Server) -> MemoryLog:
    return server.wire._log


def test_every_line_is_answered_once_and_its_file_is_there_with_the_end() -> None:
    async def story(server: Server, echo: Echo) -> None:
        batch = await server.begin(
            *(line(number) for number in range(50)), metadata={"job": "night"}
        )
        assert (batch.status, batch.metadata) == ("validating", {"job": "night"})
        done = await server.over(batch)
        assert (done.status, done.error_file_id, done.errors) == ("completed", None, None)
        assert msgspec.to_builtins(done.request_counts) == {
            "total": 50,
            "completed": 50,
            "failed": 0,
        }
        times = (done.created_at, done.in_progress_at, done.finalizing_at, done.completed_at)
        assert list(times) == sorted(it for it in times if it is not None)
        found = await server.file(done.output_file_id)
        assert found["c7"] == {
            "id": run_of(batch.id, 8),
            "custom_id": "c7",
            "response": {
                "status_code": 200,
                "request_id": run_of(batch.id, 8),
                "body": {"text": "said 7", "model": "echo"},
            },
            "error": None,
        }
        assert set(found) == {f"c{number}" for number in range(50)}
        assert Counter(echo.asked) == Counter(str(number) for number in range(50))
        info = await server.files.show("a", done.output_file_id or "")
        assert (info.purpose, info.filename) == ("batch_output", f"{batch.id}_output.jsonl")
        assert await all_of(log_of(server).read("a", lines_of(batch.id))) == []
        assert await all_of(log_of(server).work("a", "batches")) == []

    played(story)


def test_no_more_lines_are_under_way_than_the_window_has() -> None:
    async def story(server: Server, echo: Echo) -> None:
        echo.open.clear()
        batch = await server.begin(*(line(number) for number in range(30)))
        await server.clock.sleep(20)
        assert len(echo.asked) == 8
        assert (await server.batches.show("a", batch.id)).status == "in_progress"
        echo.open.set()
        assert (await server.over(batch)).request_counts.completed == 30

    played(story)


def test_lines_that_can_not_be_asked_or_answered_are_told_in_the_other_file() -> None:
    async def story(server: Server, echo: Echo) -> None:
        echo.error["2"] = BadRequestError("2 is not liked", param="say")
        echo.error["3"] = EngineFailedError("3 is too much")
        batch = await server.begin(line(0), line(1, nothing="at all"), line(2), line(3))
        done = await server.over(batch)
        counts = done.request_counts
        assert (counts.total, counts.completed, counts.failed) == (4, 1, 3)
        assert set(await server.file(done.output_file_id)) == {"c0"}
        errors = await server.file(done.error_file_id)
        shown = {
            name: (it["response"]["status_code"], it["response"]["body"]["error"]["code"])
            for name, it in errors.items()
        }
        assert shown == {
            "c1": (400, "request.invalid"),
            "c2": (400, "request.invalid"),
            "c3": (502, "engine.failed"),
        }
        assert errors["c2"]["response"]["body"]["error"]["param"] == "say"
        assert all(it["error"] is None for it in errors.values())
        assert Counter(echo.asked)["3"] == ATTEMPTS_MAX
        assert await all_of(log_of(server).work("a", DEAD_RUNS)) == []

    played(story)


@pytest.mark.parametrize(
    ("lines", "code", "number"),
    [
        ([b""], "empty_file", None),
        ([line(0), b"{"], "invalid_json_line", 2),
        ([line(0), b"", {"custom_id": "c"}], "invalid_request", 3),
        ([line(0), line(0)], "duplicate_custom_id", 2),
        ([{**line(0), "method": "GET"}], "invalid_method", 1),
        ([{**line(0), "url": "/v1/models"}], "invalid_url", 1),
        ([{**line(0), "custom_id": ""}], "invalid_custom_id", 1),
        ([{**line(0), "body": "words"}], "invalid_body", 1),
        ([line(0), b"x" * 20_000, line(0)], "line_too_long", 2),
        ([line(number) for number in range(21)], "too_many_lines", None),
    ],
)
def test_a_malformed_input_fails_before_any_line_begins(
    lines: list[Any], code: str, number: int | None
) -> None:
    async def story(server: Server, echo: Echo) -> None:
        done = await server.over(await server.begin(*lines))
        assert done.status == "failed"
        assert done.failed_at is not None
        assert done.errors is not None
        problem = done.errors.data[0]
        assert (problem.code, problem.line) == (code, number)
        assert (echo.asked, done.output_file_id, done.error_file_id) == ([], None, None)

    played(story, lines_max=20)


def test_the_list_of_problems_has_a_bound() -> None:
    async def story(server: Server, echo: Echo) -> None:
        done = await server.over(await server.begin(*[b"?"] * (PROBLEMS_MAX + 50)))
        assert done.errors is not None
        assert [it.line for it in done.errors.data] == list(range(1, PROBLEMS_MAX + 1))

    played(story)


def test_a_file_that_is_gone_before_it_was_read_fails_the_batch() -> None:
    async def story(server: Server, echo: Echo) -> None:
        file = await server.put(line(0))
        batch = await server.begin(line(0))
        await server.files.remove("a", file.id)
        assert (await server.over(batch)).status == "completed", "it has a file of its own"
        batch = await server.begin(line(0))
        await server.files.remove("a", batch.input_file_id)
        done = await server.over(batch)
        assert done.status == "failed"
        assert done.errors is not None
        assert done.errors.data[0].code == "invalid_input_file"

    played(story)


def test_a_file_that_goes_midway_fails_the_batch_with_what_was_answered() -> None:
    async def story(server: Server, echo: Echo) -> None:
        echo.open.clear()
        batch = await server.begin(*(line(number) for number in range(20)))
        await server.clock.sleep(5)
        await server.files.remove("a", batch.input_file_id)
        echo.open.set()
        done = await server.over(batch)
        assert done.status == "failed"
        assert done.errors is not None
        assert "was deleted" in done.errors.data[0].message
        answered = set(await server.file(done.output_file_id))
        assert {"c0", "c7"} <= answered
        assert "c19" not in answered

    played(story)


def test_a_cancelled_batch_keeps_what_was_answered_and_tells_of_the_rest() -> None:
    async def story(server: Server, echo: Echo) -> None:
        batch = await server.begin(*(line(number) for number in range(20)))
        while len(echo.asked) < 8:
            await server.clock.sleep(0.05)
        echo.open.clear()
        while (await server.batches.show("a", batch.id)).request_counts.completed < 8:
            await server.clock.sleep(0.05)
        ending = await server.batches.cancel("a", batch.id)
        assert ending.status == "cancelling"
        assert (await server.batches.cancel("a", batch.id)).status == "cancelling"
        done = await server.over(batch)
        assert done.status == "cancelled"
        assert done.cancelling_at is not None
        assert done.cancelled_at is not None
        answered = await server.file(done.output_file_id)
        rest = await server.file(done.error_file_id)
        assert answered.keys() | rest.keys() == {f"c{number}" for number in range(20)}
        assert len(answered) + len(rest) == 20
        assert {(it["response"], it["error"]["code"]) for it in rest.values()} == {
            (None, "batch_cancelled")
        }
        counts = done.request_counts
        assert (counts.completed, counts.failed) == (len(answered), len(rest))
        before = len(echo.asked)
        echo.open.set()
        await server.clock.sleep(60)
        assert len(echo.asked) == before, "nothing goes on behind its end"

    played(story)


def test_a_batch_can_be_cancelled_before_it_was_looked_at() -> None:
    async def whole() -> None:
        server = Server("one", new_log(), echo := Echo())
        await server.runner.enlist()
        batch = await server.begin(line(0), b"?", line(1))
        await server.batches.cancel("a", batch.id)
        await server.up()
        done = await server.over(batch)
        assert (done.status, echo.asked) == ("cancelled", [])
        assert set(await server.file(done.error_file_id)) == {"c0", "c1"}
        await server.down()

    run_skipping_time(whole())


def test_what_was_not_answered_in_time_has_expired() -> None:
    async def story(server: Server, echo: Echo) -> None:
        echo.open.clear()
        batch = await server.begin(*(line(number) for number in range(12)), window_ms=60_000)
        done = await server.over(batch)
        assert (done.status, done.output_file_id) == ("expired", None)
        assert done.expired_at is not None
        assert done.expires_at <= done.expired_at <= done.expires_at + 5
        rest = await server.file(done.error_file_id)
        assert len(rest) == 12
        assert rest["c11"]["error"] == {
            "code": "batch_expired",
            "message": "This request could not be executed before the completion window expired.",
        }

    played(story)


def test_a_line_whose_run_somebody_cancels_is_no_loss_to_the_others() -> None:
    async def story(server: Server, echo: Echo) -> None:
        echo.open.clear()
        batch = await server.begin(line(0), line(1))
        await server.clock.sleep(5)
        await server.runs.cancel("a", run_of(batch.id, 1))
        echo_open = asyncio.get_running_loop().call_later(5, echo.open.set)
        done = await server.over(batch)
        echo_open.cancel()
        assert done.status == "completed"
        assert set(await server.file(done.output_file_id)) == {"c1"}
        errors = await server.file(done.error_file_id)
        assert errors["c0"]["error"]["code"] == "request_cancelled"

    played(story)


def test_a_line_that_is_resumed_is_not_answered_twice() -> None:
    async def story(server: Server, echo: Echo) -> None:
        echo.error["0"] = BadRequestError("not now")
        batch = await server.begin(line(0), line(1))
        while (await server.batches.show("a", batch.id)).request_counts.failed < 1:
            await server.clock.sleep(0.05)
        del echo.error["0"]
        await server.runs.resume("a", run_of(batch.id, 1))
        done = await server.over(batch)
        assert set(await server.file(done.error_file_id)) == {"c0"}
        assert set(await server.file(done.output_file_id)) == {"c1"}

    played(story)


def test_a_run_that_can_not_be_read_any_more_fails_its_line_alone() -> None:
    async def whole() -> None:
        log = new_log()
        server = Server("one", log, Echo())
        await server.runner.enlist()
        batch = await server.begin(line(0), line(1))
        await server.steps.look()
        for _ in range(50):
            await server.clock.sleep(0.2)
            await server.steps.look()
        run = run_stream(run_of(batch.id, 1))
        stored = log._tenants["a"][run].entries[0]
        log._tenants["a"][run].entries[0] = msgspec.structs.replace(stored, body=b"?")
        await server.up()
        done = await server.over(batch)
        assert done.status == "completed"
        assert set(await server.file(done.output_file_id)) == {"c1"}
        errors = await server.file(done.error_file_id)
        assert errors["c0"]["response"]["body"]["error"]["code"] == "log.corrupt"
        assert done.request_counts.failed == 1
        await server.down()

    run_skipping_time(whole())


@pytest.mark.parametrize("after_s", [0.05, 0.15, 0.3, 0.5, 0.8, 1.1, 1.6, 2.2])
def test_servers_that_die_leave_no_line_out_and_none_twice(after_s: float) -> None:
    async def whole() -> None:
        log, echo = new_log(), Echo()
        first, second, third = [
            await Server(name, log, echo, window=4).up() for name in ("one", "two", "three")
        ]
        batch = await first.begin(*(line(number) for number in range(60)))
        await first.clock.sleep(after_s)
        first.die()
        await first.clock.sleep(after_s)
        second.die()
        done = await third.over(batch)
        assert (done.status, done.request_counts.completed) == ("completed", 60)
        found = await third.file(done.output_file_id)
        assert set(found) == {f"c{number}" for number in range(60)}
        for dead in (first, second):
            dead.wire.mend()  # what they still had to say comes late, and is refused
        await third.clock.sleep(10)
        assert await third.file(done.output_file_id) == found
        assert (await third.batches.show("a", batch.id)) == done
        for server in (first, second, third):
            await server.down()

    run_skipping_time(whole())


def test_lines_without_effects_are_computed_in_groups() -> None:
    async def story(server: Server, echo: Echo) -> None:
        lines = [line(number, endpoint=EMBED) for number in range(COMPUTED_MAX + 10)]
        batch = await server.begin(*lines, line(999, endpoint=EMBED, other=1), endpoint=EMBED)
        done = await server.over(batch)
        assert done.status == "completed"
        found = await server.file(done.output_file_id)
        assert len(found) == COMPUTED_MAX + 10
        assert found["c100"]["response"]["body"] == {"length": 3}
        assert set(await server.file(done.error_file_id)) == {"c999"}
        assert server.numbers.groups == [COMPUTED_MAX, 11]
        assert echo.asked == []

    played(story)


def test_an_embedder_that_is_away_is_waited_for() -> None:
    async def story(server: Server, echo: Echo) -> None:
        server.numbers.error = WorkerUnreachableError("it is being restarted")
        done = await server.over(await server.begin(line(0, endpoint=EMBED), endpoint=EMBED))
        assert done.request_counts.completed == 1
        assert server.numbers.groups == [1, 1]
        [failed] = server.events.named("errand.failed")
        assert failed["code"] == "worker.unreachable"

    played(story)


def test_a_line_that_its_embedder_fails_on_is_tried_alone_and_then_told() -> None:
    async def story(server: Server, echo: Echo) -> None:
        server.numbers.fails_on = "poison"
        texts = [line(0, endpoint=EMBED), line(1, endpoint=EMBED, say="poison")]
        done = await server.over(await server.begin(*texts, endpoint=EMBED))
        assert (done.request_counts.completed, done.request_counts.failed) == (1, 1)
        assert server.numbers.groups == [2, 1, 1]
        assert "engine.failed" in str(await server.file(done.error_file_id))

    played(story)


@pytest.mark.parametrize(("fails", "left"), [("file/", 2), ("files", 4)])
def test_a_log_that_is_full_while_the_results_are_written_leaves_nothing_for_long(
    fails: str, left: int
) -> None:
    async def story(server: Server, echo: Echo) -> None:
        log, failures = log_of(server), 2
        append = log.append

        async def full(entries: Any, **options: Any) -> Any:
            nonlocal failures
            if failures and any(entry.stream.startswith(fails) for entry in entries):
                failures -= 1
                raise LogUnavailableError("full")
            return await append(entries, **options)

        batch = await server.begin(line(0))
        log.append = full  # type: ignore[method-assign]
        done = await server.over(batch)
        assert (done.status, failures) == ("completed", 0)
        names = names_of(await all_of(log.streams("a", "file/")))
        assert len(names) == left, "of an end that was not acknowledged nobody knows more"
        await server.clock.sleep(2 * 3600)
        await server.files.sweep("a")
        names = names_of(await all_of(log.streams("a", "file/")))
        assert len(names) == 2, "the input and the output"
        assert set(await server.file(done.output_file_id)) == {"c0"}

    played(story)


def test_an_end_that_was_written_and_not_acknowledged_keeps_its_results() -> None:
    async def story(server: Server, echo: Echo) -> None:
        log, lost = log_of(server), 1
        append = log.append

        async def silent(entries: Any, **options: Any) -> Any:
            nonlocal lost
            seqs = await append(entries, **options)
            if lost and any(entry.stream == "files" for entry in entries):
                lost -= 1
                raise LogUnavailableError("it is not known whether it was written")
            return seqs

        batch = await server.begin(line(0))
        log.append = silent  # type: ignore[method-assign]
        done = await server.over(batch)
        await server.clock.sleep(10)
        assert (await server.batches.show("a", batch.id), lost) == (done, 0)
        assert set(await server.file(done.output_file_id)) == {"c0"}

    played(story)


def test_ends_that_can_not_be_read_fail_the_batch_and_not_the_server() -> None:
    async def story(server: Server, echo: Echo) -> None:
        echo.open.clear()
        batch = await server.begin(line(0))
        await server.clock.sleep(2)
        await log_of(server).append([Entry("a", lines_of(batch.id), "batch.line.ended", b"?")])
        echo.open.set()
        done = await server.over(batch)
        assert done.status == "failed"
        assert done.errors is not None
        assert done.errors.data[0].code == "log.corrupt"
        assert server.events.named("batch.damaged")

    played(story)


def test_a_batch_that_can_not_be_read_is_put_aside() -> None:
    async def story(server: Server, echo: Echo) -> None:
        echo.open.clear()
        batch = await server.begin(line(0))
        await server.clock.sleep(2)
        await log_of(server).append([Entry("a", stream_of(batch.id), "batch.state", b"?")])
        echo.open.set()
        await server.clock.sleep(40)
        with pytest.raises(LogCorruptError):
            await server.batches.show("a", batch.id)
        [dead] = await all_of(log_of(server).work("a", DEAD))
        assert dead.stream == stream_of(batch.id)

    played(story)


def test_a_batch_that_is_over_or_unknown_is_struck_off() -> None:
    async def story(server: Server, echo: Echo) -> None:

        batch = await server.begin(line(0))
        await server.over(batch)
        offers = [Offer("a", stream_of(it), "batches") for it in (batch.id, "batch_none")]
        await log_of(server).append([], work=offers)
        await server.clock.sleep(2)
        assert await all_of(log_of(server).work("a", "batches")) == []

    played(story)


def test_an_endpoint_that_is_no_more_fails_the_batch() -> None:
    async def story(server: Server, echo: Echo) -> None:
        asked = {**line(0), "url": "/v1/gone"}
        done = await server.over(await server.begin(asked, endpoint="/v1/gone"))
        assert done.status == "failed"
        assert done.errors is not None
        assert "no endpoint /v1/gone" in done.errors.data[0].message

    played(story)


def test_work_that_was_lost_is_missed_when_the_batch_expires() -> None:
    async def story(server: Server, echo: Echo) -> None:

        echo.open.clear()
        batch = await server.begin(line(0), line(1), window_ms=60_000)
        await server.clock.sleep(2)
        await server.runner.stop()
        run = run_stream(run_of(batch.id, 1))
        await log_of(server).append([], work=[Done("a", run)])
        echo.open.set()
        other = await Server("two", log_of(server), echo).up()
        done = await other.over(batch)
        assert done.status == "expired"
        assert set(await other.file(done.output_file_id)) == {"c1"}
        assert set(await other.file(done.error_file_id)) == {"c0"}
        await other.down()

    played(story)


def test_runs_of_batches_wait_behind_all_others_and_do_not_fill_the_list() -> None:
    async def story(server: Server, echo: Echo) -> None:
        batch = await server.begin(*(line(number) for number in range(5)))
        await server.over(batch)
        assert await server.runs.listing("a") == []
        listed = await server.runs.listing("a", batch=batch.id)
        assert [it.id for it in listed] == [run_of(batch.id, number) for number in range(5, 0, -1)]
        assert await server.runs.listing("b", batch=batch.id) == []
        shown = await server.runs.show("a", run_of(batch.id, 3))
        assert shown.answer is not None
        assert shown.answer.text == "said 2"

    played(story)


def test_a_line_that_meets_a_full_lane_is_tried_again() -> None:
    async def story(server: Server, echo: Echo) -> None:
        echo.error["0"] = OverloadedError("full", retry_s=5)
        batch = await server.begin(line(0))
        await server.clock.sleep(4)
        del echo.error["0"]
        assert (await server.over(batch)).request_counts.completed == 1
        run = await all_of(log_of(server).read("a", run_stream(run_of(batch.id, 1))))
        assert Kind.STUMBLED in {it.kind for it in run}

    played(story)


def test_a_batch_whose_lines_all_ended_in_time_does_not_expire_while_it_is_written() -> None:
    async def whole() -> None:
        server = Server("one", new_log(), Echo())
        await server.up()
        batch = await server.begin(line(0), window_ms=60_000)
        while (await server.batches.show("a", batch.id)).status != "finalizing":
            await server.clock.sleep(0.01)
        server.wire.cut()
        await server.clock.sleep(120)
        server.wire.mend()
        assert (await server.over(batch)).status == "completed"
        await server.down()

    run_skipping_time(whole())


def test_a_bound_that_was_lowered_meanwhile_fails_the_batch() -> None:
    async def whole() -> None:
        log, echo = new_log(), Echo()
        first = await Server("one", log, echo, window=1).up()
        batch = await first.begin(*(line(number, say="x" * number * 100) for number in range(9)))
        while not (await first.batches.show("a", batch.id)).request_counts.completed:
            await first.clock.sleep(0.05)
        await first.down()
        second = await Server("two", log, echo, window=1, line_bytes_max=500).up()
        done = await second.over(batch)
        assert done.status == "failed"
        assert "c0" in await second.file(done.output_file_id)
        await second.down()

    run_skipping_time(whole())


def test_a_line_that_waits_for_a_decision_ends_with_its_batch() -> None:
    async def whole() -> None:
        log, echo = new_log(), Echo()
        server = Server("one", log, echo)
        await server.runner.enlist()
        batch = await server.begin(line(0))
        for _ in range(3):
            await server.steps.look()
            await server.clock.sleep(0.2)
        run = run_stream(run_of(batch.id, 1))
        await log.append([], work=[Offer("a", run, ASKING, due_ms=NEVER_MS)])
        await server.batches.cancel("a", batch.id)
        for _ in range(20):
            await server.steps.look()
            await server.clock.sleep(0.2)
        assert (await server.batches.show("a", batch.id)).status == "cancelling"
        [asking] = await all_of(log.work("a", ASKING))
        assert asking.due_ms == 0, "whoever settles what waits hears of it"
        await log.append([], work=[Offer("a", run, RUNS)])
        await server.up()
        done = await server.over(batch)
        assert (done.status, echo.asked) == ("cancelled", [])
        assert set(await server.file(done.error_file_id)) == {"c0"}
        await server.down()

    run_skipping_time(whole())
