"""The cache as a stage: what is kept, for whom, and how it is replayed."""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from murmurate.cache.exact import ExactCache
from murmurate.cache.service import ANSWER_BYTES_MAX, Cached
from murmurate.core.errors import EngineFailedError
from murmurate.core.types import (
    CallPart,
    Citation,
    Cited,
    Delta,
    Finished,
    FinishReason,
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
