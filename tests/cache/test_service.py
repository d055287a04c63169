"""The cache as a stage: what is kept, for whom, and how it is replayed."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from murmurate.cache.exact import ExactCache
from murmurate.cache.service import ANSWER_BYTES_MAX, WAIT_S, Cached
from murmurate.core.errors import EngineFailedError
from murmurate.core.types import (
    CallPart,
    Citation,
    Cited,
    Delta,
    Finished,
    FinishReason,
    Lane,
    Message,
    Request,
    Role,
    Sampling,
    Text,
    Tool,
    ToolCall,
    TraceRef,
    Usage,
)
from tests.engines.fakes import FakeClock, FakeModel, FakeTracer, all_of, ask, result
from tests.fakes import run_skipping_time

DONE = Finished(FinishReason.STOP)
CITED = Cited((Citation("d", "a.md", 0, 4, 1, 1, "text", 0.5),))
ANSWER: tuple[Delta, ...] = (Text("h"), Text("i"), CITED, Usage(10, 2, 1), DONE)


class Bench:
    """A cache over a model that counts how often it is asked."""

    def __init__(self, *deltas: Delta | Exception) -> None:
        self.model = FakeModel(*(deltas or ANSWER))
        self.clock = FakeClock()
        self.tracer = FakeTracer()
        self.extra: str | None = ""
        self.cached = Cached(
            self.model,
            store=ExactCache(ttl_s=60, entries_max=100, bytes_max=4 * ANSWER_BYTES_MAX),
            clock=self.clock,
            tracer=self.tracer,
            policy=lambda _: self.extra,
        )

    def ask(self, request: Request) -> list[Delta]:
        return list(asyncio.run(all_of(self.cached, request)))

    @property
    def asked(self) -> int:
        return len(self.model.asked)


def conversation(call_id: str, **fields: Any) -> Request:
    call = Message(Role.ASSISTANT, (CallPart(call_id, "look", "{}"),))
    return ask("hello", call, result(call_id, "sunny"), **fields)


def test_the_second_answer_comes_from_the_cache_with_its_input_counted_as_cached() -> None:
    bench = Bench()
    assert bench.ask(ask()) == list(ANSWER)
    assert bench.ask(ask(id="other", trace=TraceRef("2" * 32))) == [
        Text("h"),
        Text("i"),
        CITED,
        Usage(10, 2, 10),
        DONE,
    ]
    assert bench.asked == 1
    assert bench.tracer.facts == [{"hit": False}, {"hit": True}]
    assert bench.model.asked[0].trace.span_id == "cache"


@pytest.mark.parametrize(
    "other",
    [
        ask(tenant="b"),
        ask(scopes=("x",)),
        ask(model="big"),
        ask("hello", "again"),
        ask("hello "),
        ask(tools=(Tool("t", "", "{}"),)),
        ask(sampling=Sampling(seed=1)),
        ask(sampling=Sampling(options={"top_k": 1})),
    ],
    ids=["tenant", "scopes", "model", "messages", "space", "tools", "seed", "options"],
)
def test_whatever_the_answer_depends_on_is_in_the_key(other: Request) -> None:
    bench = Bench()
    bench.ask(ask())
    bench.ask(other)
    assert bench.asked == 2


def test_tenants_never_see_each_others_answers() -> None:
    bench = Bench()
    bench.ask(ask(tenant="a"))
    bench.model.deltas = (Text("secret of b"), DONE)
    assert bench.ask(ask(tenant="b"))[0] == Text("secret of b")
    assert bench.ask(ask(tenant="a"))[0] == Text("h")
    assert bench.asked == 2


def test_a_tenant_cannot_write_its_way_into_anothers_key() -> None:
    bench = Bench()
    bench.ask(ask(tenant='a",["x"],"', scopes=()))
    bench.ask(ask(tenant="a", scopes=("x",)))
    assert bench.asked == 2


def test_order_of_scopes_and_options_does_not_matter() -> None:
    bench = Bench()
    for scopes, options in (
        (("x", "y"), {"a": 1, "b": 2}),
        (("y", "x"), {"b": 2, "a": 1}),
    ):
        bench.ask(ask(scopes=scopes, sampling=Sampling(options=options)))
    assert bench.asked == 1


def test_ids_of_tool_calls_do_not_defeat_the_key() -> None:
    bench = Bench()
    bench.ask(conversation("call_1"))
    bench.ask(conversation("call_2"))
    assert bench.asked == 1


def test_which_result_belongs_to_which_call_does_matter() -> None:
    bench = Bench()
    calls = Message(Role.ASSISTANT, (CallPart("x", "look", "{}"), CallPart("y", "look", "{}")))
    bench.ask(ask(calls, result("x", "sun"), result("y", "rain")))
    bench.ask(ask(calls, result("y", "sun"), result("x", "rain")))
    assert bench.asked == 2


def test_a_result_without_its_call_has_a_key_too() -> None:
    bench = Bench()
    bench.ask(ask("hello", result("x", "sun")))
    bench.ask(ask("hello", result("y", "sun")))
    assert bench.asked == 1


def test_new_documents_make_old_answers_unreachable() -> None:
    bench = Bench()
    bench.extra = "version 1"
    bench.ask(ask())
    bench.extra = "version 2"
    bench.ask(ask())
    assert bench.asked == 2


def test_a_request_that_must_not_be_cached_is_always_asked_below() -> None:
    bench = Bench()
    bench.ask(ask())
    bench.extra = None
    bench.ask(ask())
    bench.ask(ask())
    assert bench.asked == 3


def test_an_old_answer_is_asked_again() -> None:
    bench = Bench()
    bench.ask(ask())
    bench.clock.time_s = 60
    bench.ask(ask())
    assert bench.asked == 2


@pytest.mark.parametrize(
    "deltas",
    [
        (Text("h"), Finished(FinishReason.STOP, repeatable=False)),
        (Text("h"),),
        (Text("x" * ANSWER_BYTES_MAX), DONE),
        (Text("x" * (ANSWER_BYTES_MAX // 2)),) * 3 + (Text("y"), DONE),
    ],
    ids=["not repeatable", "unfinished", "large", "large in pieces"],
)
def test_these_answers_pass_through_but_are_not_kept(deltas: tuple[Delta, ...]) -> None:
    bench = Bench(*deltas)
    assert bench.ask(ask()) == list(deltas)
    bench.ask(ask())
    assert bench.asked == 2


def test_a_failure_stores_nothing() -> None:
    bench = Bench(Text("h"), EngineFailedError("broke"))
    with pytest.raises(EngineFailedError):
        bench.ask(ask())
    bench.model.deltas = ANSWER
    assert bench.ask(ask()) == list(ANSWER)


def test_an_answer_closed_half_way_stores_nothing_and_closes_below() -> None:
    bench = Bench()

    async def story() -> None:
        async with aclosing(bench.cached.answer(ask())) as deltas:
            await anext(deltas)
        assert bench.model.closed == 1
        await all_of(bench.cached, ask())
        assert bench.asked == 2

    asyncio.run(story())


def test_tool_calls_are_replayed_whole() -> None:
    call = ToolCall("call_9", "look", '{"city": "Bern"}')
    bench = Bench(call, Finished(FinishReason.TOOL_CALLS))
    assert bench.ask(ask()) == bench.ask(ask()) == [call, Finished(FinishReason.TOOL_CALLS)]
    assert bench.asked == 1


class Shelf:
    """What servers share: a dict, and how long its values are good."""

    def __init__(self) -> None:
        self.values: dict[bytes, tuple[bytes, float]] = {}

    async def get(self, key: bytes) -> tuple[bytes, float] | None:
        return self.values.get(key)

    def put(self, key: bytes, value: bytes, *, ttl_s: float) -> None:
        self.values[key] = (value, ttl_s)


def sharing(shelf: Shelf) -> Bench:
    bench = Bench()
    bench.cached._shared = shelf
    return bench


def test_what_one_server_was_told_another_one_knows() -> None:
    shelf = Shelf()
    one, other = sharing(shelf), sharing(shelf)
    one.ask(ask())
    assert other.ask(ask()) == [Text("h"), Text("i"), CITED, Usage(10, 2, 10), DONE]
    assert other.asked == 0
    [(_, ttl_s)] = shelf.values.values()
    assert ttl_s == 60


def test_a_shared_answer_is_kept_here_for_the_time_it_has_left() -> None:
    shelf = Shelf()
    sharing(shelf).ask(ask())
    shelf.values = {key: (value, 5.0) for key, (value, _) in shelf.values.items()}
    bench = sharing(shelf)
    bench.ask(ask())
    shelf.values.clear()
    bench.clock.time_s = 4
    bench.ask(ask())
    assert bench.asked == 0
    bench.clock.time_s = 5
    bench.ask(ask())
    assert bench.asked == 1


def test_a_shared_value_that_can_not_be_read_is_a_miss() -> None:
    shelf = Shelf()
    sharing(shelf).ask(ask())
    shelf.values = dict.fromkeys(shelf.values, (b"\xc1", 60.0))
    bench = sharing(shelf)
    assert bench.ask(ask()) == list(ANSWER)
    assert bench.asked == 1


class Slow:
    """A model that answers when it is let; it counts how many are being answered."""

    def __init__(self, *, fails: bool = False) -> None:
        self.let = asyncio.Event()
        self.asked = 0
        self.fails = fails

    async def answer(self, request: Request) -> AsyncGenerator[Delta]:
        self.asked += 1
        yield Text("h")
        await self.let.wait()
        if self.fails and self.asked == 1:
            raise EngineFailedError("broke")
        yield DONE


def crowd(model: Slow, *requests: Request) -> list[Any]:
    """Ask all at once; return the answers, or what each was told instead."""

    async def story() -> list[Any]:
        bench = Bench()
        bench.cached._below = model
        tasks = [asyncio.create_task(all_of(bench.cached, request)) for request in requests]
        for _ in range(10):
            await asyncio.sleep(0)
        model.let.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    return asyncio.run(story())


def test_a_crowd_with_one_question_costs_one_answer() -> None:
    model = Slow()
    answers = crowd(model, *[ask(id=f"req_{number}") for number in range(1000)])
    assert model.asked == 1
    assert all(list(answer) == [Text("h"), DONE] for answer in answers)


def test_those_who_waited_for_one_that_failed_ask_themselves() -> None:
    model = Slow(fails=True)
    first, *others = crowd(model, ask(), ask(), ask())
    assert isinstance(first, EngineFailedError)
    assert [list(answer) for answer in others] == [[Text("h"), DONE]] * 2
    assert model.asked == 2  # the third one found what the second one was told


def test_nobody_urgent_waits_for_the_batch_lane_and_no_tenant_for_another() -> None:
    model = Slow()
    crowd(model, ask(lane=Lane.BATCH), ask(lane=Lane.URGENT), ask(tenant="b"))
    assert model.asked == 3


def test_a_slow_answer_is_waited_for_so_long_and_then_asked_again() -> None:
    model = Slow()

    async def story() -> None:
        bench = Bench()
        bench.cached._below = model
        first = asyncio.create_task(all_of(bench.cached, ask()))
        await asyncio.sleep(0)
        second = asyncio.create_task(all_of(bench.cached, ask()))
        await asyncio.sleep(WAIT_S - 0.1)
        assert model.asked == 1
        await asyncio.sleep(0.2)
        assert model.asked == 2
        model.let.set()
        assert list(await first) == list(await second) == [Text("h"), DONE]

    run_skipping_time(story())


def test_one_who_leaves_lets_the_next_one_ask() -> None:
    model = Slow()

    async def story() -> None:
        bench = Bench()
        bench.cached._below = model
        first = asyncio.create_task(all_of(bench.cached, ask()))
        await asyncio.sleep(0)
        second = asyncio.create_task(all_of(bench.cached, ask()))
        await asyncio.sleep(0)
        first.cancel()
        model.let.set()
        assert list(await second) == [Text("h"), DONE]
        assert model.asked == 2
        assert not bench.cached._flights

    asyncio.run(story())
