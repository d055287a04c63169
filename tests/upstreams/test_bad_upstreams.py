"""Each way to misbehave against each mechanism: what the client sees, and that nothing is left.

Everything between the client's side of the router and the wire is real: lanes, pool, HTTP, TCP.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from random import Random

import pytest

from murmurate.compose.engines import Means, chains_of, pool_of
from murmurate.config import parse
from murmurate.core.clock import SystemClock
from murmurate.core.errors import (
    BadRequestError,
    EngineFailedError,
    EngineUnreachableError,
    MurmurateError,
    OverloadedError,
    PromptTooLongError,
)
from murmurate.core.ids import Ids
from murmurate.core.types import Delta, Diverted, Finished, FinishReason, Text, Usage
from murmurate.router.breaker import OUTCOMES_MIN, State
from murmurate.router.fallbacks import Fallbacks
from murmurate.router.lanes import QueueLimits
from murmurate.router.pooled import RETRIES_MOST, RETRY_SHARE
from murmurate.router.service import Backend, Routed
from tests.engines.fakes import FakeTracer, ask
from tests.upstreams import bad_server as bad
from tests.upstreams.bad_server import Behaviour, bad_server

ANSWER: list[Delta] = [Text("hi"), Usage(3, 1), Finished(FinishReason.STOP)]
STOOD_IN = [Diverted("other"), Text("hi"), Usage(3, 1), Finished(FinishReason.STOP, False)]
FIRST_S = 0.8
STALL_S = 0.5
"""Long enough for a server that is well, on a machine that has much else to do."""

NOWHERE = "http://127.0.0.1:9/v1"
TOO_LONG = b'{"error": {"message": "m", "code": "context_length_exceeded"}}'


@dataclass(frozen=True, slots=True)
class Case:
    """A way to misbehave: what a client sees of it alone, and what is done about it."""

    behaviour: Behaviour
    error: type[MurmurateError]
    words: str
    here: bool = True
    """Whether it is tried again at the same server."""
    elsewhere: bool = True
    """Whether it is tried at another one."""
    by_another_model: bool = True
    is_ill: bool = True
    before: tuple[Delta, ...] = ()
    """What the client had read when it failed: then nothing is tried."""


CASES = {
    "500": Case(bad.status(500), EngineFailedError, "answered 500: no"),
    "502": Case(bad.status(502, b"<html>"), EngineFailedError, "answered 502: <html>"),
    "408": Case(bad.status(408), EngineFailedError, "answered 408"),
    "429": Case(
        bad.status(429, headers="Retry-After: 0\r\n"), OverloadedError, "busy (429)", is_ill=False
    ),
    "503": Case(
        bad.status(503, headers="Retry-After: 0\r\n"), OverloadedError, "busy (503)", is_ill=False
    ),
    "429 for long": Case(
        bad.status(429, headers="Retry-After: 40\r\n"),
        OverloadedError,
        "busy (429)",
        here=False,
        is_ill=False,
    ),
    "401": Case(bad.status(401), EngineUnreachableError, "refuses its key", here=False),
    "404": Case(bad.status(404), EngineUnreachableError, "is not there (404)", here=False),
    "400": Case(
        bad.status(400),
        BadRequestError,
        "big: no",
        here=False,
        elsewhere=False,
        by_another_model=False,
        is_ill=False,
    ),
    "too long": Case(
        bad.status(400, TOO_LONG),
        PromptTooLongError,
        "big: m",
        here=False,
        elsewhere=False,
        is_ill=False,
    ),
    "reset": Case(bad.resetting, EngineFailedError, "broke off"),
    "reset behind the head": Case(bad.resetting_behind_the_head, EngineFailedError, "broke off"),
    "silent": Case(bad.silent, EngineFailedError, f"silent for {FIRST_S:g} s"),
    "silent behind the head": Case(
        bad.silent_behind_the_head, EngineFailedError, f"silent for {FIRST_S:g} s"
    ),
    "garbage": Case(bad.garbage, EngineFailedError, "sent garbage"),
    "truncated": Case(bad.truncated, EngineFailedError, "broke off before the end"),
    "web page": Case(bad.web_page, EngineFailedError, "answered with text/html instead of a str"),
    "no HTTP": Case(bad.no_http, EngineFailedError, "broke off"),
    "endless": Case(bad.endless, EngineFailedError, f"silent for {FIRST_S:g} s"),
    "stall": Case(
        bad.stalling, EngineFailedError, f"silent for {STALL_S:g} s", before=(Text("hi"),)
    ),
    "reset behind text": Case(
        bad.resetting_behind_text, EngineFailedError, "broke off", before=(Text("hi"),)
    ),
    "truncated behind text": Case(
        bad.truncated_behind_text,
        EngineFailedError,
        "broke off before the end",
        before=(Text("hi"),),
    ),
}

each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


class Stage:
    """A router over models elsewhere, and what was seen of it."""

    def __init__(self, models: dict[str, dict[str, object]]) -> None:
        shared = {"first_token_s": FIRST_S, "stall_s": STALL_S, "connect_s": 5}
        config = parse({"models": {name: {**shared, **it} for name, it in models.items()}})
        self.tracer = FakeTracer()
        clock = SystemClock()
        means = Means(clock, self.tracer, Ids(clock, Random(1)), Random(1))
        self.pools = {
            name: pool_of(name, model, means=means) for name, model in config.models.items()
        }
        self.usages: list[tuple[str, Usage]] = []
        self.router = Routed(
            {name: Backend(pool, slots=1) for name, pool in self.pools.items()},
            queue=QueueLimits(1, 1),
            clock=clock,
            tracer=self.tracer,
            on_usage=lambda request, usage: self.usages.append((request.model, usage)),
        )
        self.model = Fallbacks(self.router, chains=chains_of(config), tracer=self.tracer)

    async def told(self) -> tuple[list[Delta], MurmurateError | None]:
        """Ask once; return what came, and how it failed."""
        answer: list[Delta] = []
        try:
            async with aclosing(self.model.answer(ask(model="big"))) as deltas:
                async for delta in deltas:
                    answer.append(delta)
        except MurmurateError as error:
            return answer, error
        finally:
            self.check_nothing_is_left()
        return answer, None

    def check_nothing_is_left(self) -> None:
        assert {load.running for load in self.router.loads().values()} == {0}
        for pool in self.pools.values():
            assert {standing.outstanding for standing in pool.standings()} == {0}
        left = [it for it in asyncio.all_tasks() if "Pooled" in repr(it.get_coro())]
        assert not left

    def spans(self, name: str) -> int:
        return sum(span.name == name for span in self.tracer.spans)


@asynccontextmanager
async def stage(models: dict[str, dict[str, object]]) -> AsyncGenerator[Stage]:
    it = Stage(models)
    try:
        yield it
    finally:
        for pool in it.pools.values():
            await pool.close()


def check_seen(case: Case, seen: tuple[Sequence[Delta], MurmurateError | None]) -> None:
    """Check that the client saw this failure, and nothing else."""
    answer, error = seen
    assert tuple(answer) == case.before
    assert error is not None
    assert type(error) is case.error
    assert case.words in error.detail


@each_case
def test_alone_it_is_one_clear_error(case: Case) -> None:
    async def run() -> None:
        async with (
            bad_server(case.behaviour) as server,
            stage({"big": {"url": server.url, "retries": 0}}) as it,
        ):
            check_seen(case, await it.told())
            assert server.asked == 1
            assert not it.usages

    asyncio.run(run())


@each_case
def test_a_retry_hides_it_where_that_can_help(case: Case) -> None:
    async def run() -> None:
        async with (
            bad_server(case.behaviour, bad.well) as server,
            stage({"big": {"url": server.url}}) as it,
        ):
            seen = await it.told()
            if case.here and not case.before:
                assert seen == (ANSWER, None)
                assert (server.asked, it.spans("retry")) == (2, 1)
                assert it.usages == [("big", Usage(3, 1))], "counted once"
            else:
                check_seen(case, seen)
                assert server.asked == 1

    asyncio.run(run())


@each_case
def test_another_server_hides_it_where_that_can_help(case: Case) -> None:
    async def run() -> None:
        async with (
            bad_server(case.behaviour) as ill,
            bad_server() as well,
            stage(
                {"big": {"upstreams": [{"url": ill.url, "weight": 1e6}, {"url": well.url}]}}
            ) as it,
        ):
            seen = await it.told()
            if case.elsewhere and not case.before:
                assert seen == (ANSWER, None)
                assert (ill.asked, well.asked) == (1, 1)
                assert it.usages == [("big", Usage(3, 1))], "counted once"
            else:
                check_seen(case, seen)
                assert (ill.asked, well.asked) == (1, 0)

    asyncio.run(run())


@each_case
def test_another_model_hides_it_where_that_can_help(case: Case) -> None:
    async def run() -> None:
        async with (
            bad_server(case.behaviour) as ill,
            bad_server() as well,
            stage(
                {
                    "big": {"url": ill.url, "retries": 0, "fallbacks": ["other"]},
                    "other": {"url": well.url},
                }
            ) as it,
        ):
            seen = await it.told()
            if case.by_another_model and not case.before:
                assert seen == (STOOD_IN, None)
                assert it.usages == [("other", Usage(3, 1))], "metered as the one that answered"
                assert it.spans("fallback") == 1
            else:
                check_seen(case, seen)
                assert well.asked == 0

    asyncio.run(run())


@each_case
def test_a_hedge_hides_it_where_it_is_slow(case: Case) -> None:
    """The first one may fail before a hedge is sent: then there is none, and no retry either."""

    async def run() -> None:
        async with (
            bad_server(case.behaviour) as ill,
            bad_server() as well,
            stage(
                {
                    "big": {
                        "upstreams": [{"url": ill.url, "weight": 1e6}, {"url": well.url}],
                        "retries": 0,
                        "hedge_s": 0.4,
                    }
                }
            ) as it,
        ):
            seen = await it.told()
            counts = it.pools["big"].counts
            if case.words == f"silent for {FIRST_S:g} s":
                assert (counts.hedges, counts.hedges_won) == (1, 1)
                assert seen == (ANSWER, None)
                assert it.usages == [("big", Usage(3, 1))], "counted once"
                assert counts.hedge_tokens == 3
            elif not counts.hedges:
                check_seen(case, seen)
                assert well.asked == 0

    asyncio.run(run())


@each_case
def test_one_that_is_ill_again_and_again_is_left_alone(case: Case) -> None:
    hurry_s = 0.1 if "silent" in case.words else FIRST_S

    async def run() -> None:
        async with (
            bad_server(case.behaviour) as server,
            stage(
                {"big": {"url": server.url, "retries": 0, "first_token_s": hurry_s, "stall_s": 0.1}}
            ) as it,
        ):
            for _ in range(OUTCOMES_MIN):
                await it.told()
            answer, error = await it.told()
            [standing] = it.pools["big"].standings()
            if not case.is_ill:
                assert type(error) is case.error
                assert standing.state is State.CLOSED
                return
            assert standing.state is State.OPEN
            assert not answer
            assert isinstance(error, EngineUnreachableError)
            assert error.retry_s is not None
            assert error.detail.startswith("big failed too often and is left alone; retry after ")
            is_told = case.error is EngineUnreachableError
            assert (case.words in error.detail) is is_told, "an upstream's own words may quote"
            asked = server.asked
            await it.told()
            assert server.asked == asked, "it is not asked at all"

    asyncio.run(run())


@pytest.mark.parametrize("behaviour", [bad.silent, bad.stalling, bad.endless, bad.slow])
def test_a_client_that_leaves_takes_everything_with_it(behaviour: Behaviour) -> None:
    """`bad_server` waits at its end until nobody is connected any more."""

    async def run() -> None:
        async with (
            bad_server(behaviour) as ill,
            bad_server(bad.silent) as other,
            stage(
                {
                    "big": {
                        "upstreams": [{"url": ill.url}, {"url": other.url}],
                        "hedge_s": 0.02,
                        "first_token_s": 30,
                        "stall_s": 30,
                    }
                }
            ) as it,
        ):
            telling = asyncio.create_task(it.told())
            async with asyncio.timeout(5):
                while not ill.asked:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
            it.check_nothing_is_left()

    asyncio.run(run())


def test_a_slow_server_loses_against_its_hedge_and_is_hung_up_on() -> None:
    async def run() -> None:
        async with (
            bad_server(bad.slow) as late,
            bad_server() as well,
            stage(
                {
                    "big": {
                        "upstreams": [{"url": late.url, "weight": 1e6}, {"url": well.url}],
                        "hedge_s": 0.02,
                    }
                }
            ) as it,
        ):
            assert await it.told() == (ANSWER, None)
            assert (late.asked, well.asked) == (1, 1)
            counts = it.pools["big"].counts
            assert (counts.hedges, counts.hedges_won, counts.hedge_tokens) == (1, 1, 3)
            assert it.usages == [("big", Usage(3, 1))]

    asyncio.run(run())


def test_an_answer_without_an_end_is_ended_by_its_time() -> None:
    async def run() -> None:
        async with (
            bad_server(bad.chatting) as server,
            stage({"big": {"url": server.url, "total_s": 0.6}}) as it,
        ):
            answer, error = await it.told()
            assert set(answer) == {Text("hi")}
            assert isinstance(error, EngineFailedError)
            assert error.detail == "big was not done in time (models.*.total_s)"
        async with (
            bad_server(bad.silent) as server,
            stage({"big": {"url": server.url, "total_s": 0.2, "retries": 9}}) as it,
        ):
            answer, error = await it.told()
            assert not answer
            assert isinstance(error, EngineFailedError)
            assert "was not done in time" in error.detail
            assert server.asked == 1, "no time is left for another try"

    asyncio.run(run())


def test_nobody_listening_is_another_server_s_chance_at_once() -> None:
    async def run() -> None:
        async with (
            bad_server() as well,
            stage(
                {"big": {"upstreams": [{"url": NOWHERE, "weight": 1e6}, {"url": well.url}]}}
            ) as it,
        ):
            for _ in range(OUTCOMES_MIN + 3):
                assert await it.told() == (ANSWER, None)
            nowhere, _ = it.pools["big"].standings()
            assert (nowhere.state, nowhere.asked) == (State.OPEN, OUTCOMES_MIN)

    asyncio.run(run())


def test_when_everything_fails_the_error_is_that_of_the_model_that_was_asked_for() -> None:
    async def run() -> None:
        async with (
            AsyncExitStack() as stack,
            bad_server(bad.status(500)) as first,
            bad_server(bad.status(429)) as second,
        ):
            models: dict[str, dict[str, object]] = {
                "big": {"url": first.url, "retries": 0, "fallbacks": ["other", "third"]},
                "other": {"url": second.url, "retries": 0},
                "third": {"url": NOWHERE, "retries": 0, "connect_s": 0.05},
            }
            it = await stack.enter_async_context(stage(models))
            answer, error = await it.told()
            assert not answer
            assert type(error) is EngineFailedError
            assert error.detail == "big answered 500: no"
            assert it.spans("fallback") == 2

    asyncio.run(run())


def test_many_clients_of_an_ill_server_do_not_multiply_its_load() -> None:
    """A hundred requests of three attempts each would be three hundred."""

    async def run() -> None:
        async with (
            bad_server(bad.status(429, headers="Retry-After: 0\r\n")) as server,
            stage({"big": {"url": server.url}}) as it,
        ):
            began_s = asyncio.get_running_loop().time()
            for _ in range(100):
                _, error = await it.told()
                assert isinstance(error, OverloadedError)
            passed_s = asyncio.get_running_loop().time() - began_s
            assert 100 < server.asked <= 100 + RETRIES_MOST + RETRY_SHARE * 100 + passed_s
            assert it.pools["big"].counts.retries_refused > 0

    asyncio.run(run())
