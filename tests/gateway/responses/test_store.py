"""Responses in the log: kept, found, continued, forgotten."""

from collections.abc import Coroutine, Sequence
from typing import Any

import msgspec
import pytest

from murmurate.adapters.memory import MemoryLog
from murmurate.core.errors import BadRequestError, LogCorruptError, NotFoundError
from murmurate.core.ports import Entry
from murmurate.core.types import Finished, FinishReason, Request, Text, ToolCall, Usage
from murmurate.gateway.responses.items import (
    InputText,
    Item,
    MessageItem,
    OutputText,
    ResultItem,
)
from murmurate.gateway.responses.resource import Resource
from murmurate.gateway.responses.store import (
    KIND,
    Kept,
    Store,
    current,
    deltas_of,
    entry_of,
    run_of,
    stream_of,
)
from murmurate.gateway.responses.terms import opened
from tests.fakes import TRACE, FakeAnswer, FakeClock, FakeFailure, FakeRun, FakeRuns
from tests.gateway.client import run
from tests.gateway.responses.test_body import body
from tests.gateway.test_chat import CITATION

REQUEST = Request(id="req_1", tenant="a", model="tiny", messages=(), trace=TRACE)
SUFFIX = "0000000000000000000000000"


class Shelf:
    """A store, and ways to put something into it."""

    def __init__(self, **bounds: int) -> None:
        self.log = MemoryLog(clock=FakeClock())
        self.runs = FakeRuns()
        self.store = Store(self.log, runs=self.runs, archive=self.runs, **bounds)

    async def put(self, number: int, *, words: str = "", **fields: Any) -> str:
        """Store a response; its number stands at the end of its id."""
        kept = told(number, words=words, **fields)
        await self.store.keep([entry_of("a", kept)])
        if kept.response.background:
            self.runs.ids.append(run_of(kept.response.id))
            self.runs.begun.append((REQUEST, 0))
        return kept.response.id

    def history(
        self, last: str | None, *, may_cut: bool = False
    ) -> Coroutine[Any, Any, Sequence[Item]]:
        return self.store.history("a", last, may_cut=may_cut)


def name(number: int) -> str:
    return f"resp_{SUFFIX}{number}"


def told(number: int, *, words: str = "", **fields: Any) -> Kept:
    said = MessageItem(f"msg_{SUFFIX}{number}_0", "completed", "assistant", (OutputText("so"),))
    asked = InputText(words or f"question {number}")
    given = MessageItem(f"msg_{SUFFIX}{number}_i0", "completed", "user", (asked,))
    response = opened(body(**fields), name(number), 7)
    if not response.background:
        response = msgspec.structs.replace(response, status="completed", output=(said,))
    return Kept(response, (given,))


def words_of(items: Sequence[Item]) -> list[str]:
    return [item.text for item in items if isinstance(item, MessageItem)]


def test_what_is_kept_is_found_by_its_tenant() -> None:
    async def story() -> None:
        shelf = Shelf()
        response_id = await shelf.put(1, metadata={"a": "b"})
        assert await shelf.store.find("a", response_id) == told(1, metadata={"a": "b"})
        for tenant, unknown in (("b", response_id), ("a", name(2)), ("a", response_id[:-1])):
            with pytest.raises(NotFoundError, match="there is no response"):
                await shelf.store.find(tenant, unknown)

    run(story)


def test_one_that_can_not_be_read_is_said_to_be_damaged() -> None:
    async def story() -> None:
        shelf = Shelf()
        await shelf.log.append([Entry("a", stream_of(name(1)), KIND, b"{}")])
        with pytest.raises(LogCorruptError, match="can't be read"):
            await shelf.store.find("a", name(1))

    run(story)


def test_what_is_forgotten_is_gone() -> None:
    async def story() -> None:
        shelf = Shelf()
        response_id = await shelf.put(1)
        await shelf.store.forget("a", response_id)
        for asking in (shelf.store.find, shelf.store.forget):
            with pytest.raises(NotFoundError):
                await asking("a", response_id)

    run(story)


def test_one_in_the_background_goes_with_its_run_and_not_before_its_end() -> None:
    async def story() -> None:
        shelf = Shelf()
        response_id = await shelf.put(1, background=True)
        with pytest.raises(BadRequestError, match="still worked on: cancel it"):
            await shelf.store.forget("a", response_id)
        shelf.runs.views[run_of(response_id)] = FakeRun("run", "cancelled", ended_ms=1)
        await shelf.store.forget("a", response_id)
        assert shelf.runs.asked == [("forget", run_of(response_id))] * 2
        with pytest.raises(NotFoundError):
            await shelf.store.find("a", response_id)

    run(story)


def test_one_whose_run_was_forgotten_is_gone_too() -> None:
    async def story() -> None:
        shelf = Shelf()
        await shelf.put(1, background=True)
        shelf.runs.ids.clear()
        shelf.runs.begun.clear()
        with pytest.raises(NotFoundError, match=r"any more: its run was forgotten"):
            await shelf.store.find("a", name(1))

    run(story)


# What a response continues.


def test_a_chain_is_told_from_its_beginning() -> None:
    async def story() -> None:
        shelf = Shelf()
        await shelf.put(1)
        await shelf.put(2, previous_response_id=name(1))
        items = await shelf.history(name(2))
        assert words_of(items) == ["question 1", "so", "question 2", "so"]
        assert await shelf.history(None) == []

    run(story)


def test_a_gap_in_a_chain_is_named_or_with_truncation_where_it_begins() -> None:
    async def story() -> None:
        shelf = Shelf()
        await shelf.put(2, previous_response_id=name(1))
        with pytest.raises(NotFoundError, match=f"{name(1)}', which {name(2)} continues") as gone:
            await shelf.history(name(2))
        assert gone.value.param == "previous_response_id"
        items = await shelf.history(name(2), may_cut=True)
        assert words_of(items) == ["question 2", "so"]
        with pytest.raises(NotFoundError):
            await shelf.history(name(1), may_cut=True)

    run(story)


@pytest.mark.parametrize("bound", [{"chain_max": 2}, {"chain_bytes_max": 900}])
def test_a_chain_has_a_length_and_a_size(bound: dict[str, int]) -> None:
    async def story() -> None:
        shelf = Shelf(**bound)
        await shelf.put(1)
        await shelf.put(2, previous_response_id=name(1))
        await shelf.put(3, previous_response_id=name(2))
        assert len(await shelf.history(name(2))) == 4
        with pytest.raises(BadRequestError, match="goes back over more than"):
            await shelf.history(name(3))
        items = await shelf.history(name(3), may_cut=True)
        assert words_of(items) == ["question 2", "so", "question 3", "so"]

    run(story)


def test_no_result_loses_its_call_where_a_chain_is_cut() -> None:
    async def story() -> None:
        shelf = Shelf()
        result = ResultItem("fco_1", "c1", "noon", "completed")
        kept = told(2, previous_response_id=name(1))
        kept = msgspec.structs.replace(kept, input=(result, *kept.input))
        await shelf.store.keep([entry_of("a", kept)])
        items = await shelf.history(name(2), may_cut=True)
        assert words_of(items) == ["question 2", "so"]
        assert len(items) == 2

    run(story)


def test_nothing_continues_what_is_still_worked_on() -> None:
    async def story() -> None:
        shelf = Shelf()
        await shelf.put(1, background=True)
        with pytest.raises(BadRequestError, match="still worked on"):
            await shelf.history(name(1))
        answer = FakeAnswer("done")
        shelf.runs.views[run_of(name(1))] = FakeRun("run", "finished", 9_000, answer)
        items = await shelf.history(name(1))
        assert words_of(items) == ["question 1", "done"]

    run(story)


# Items of other responses.


def test_items_are_found_by_their_ids() -> None:
    async def story() -> None:
        shelf = Shelf()
        await shelf.put(1)
        given, said = f"msg_{SUFFIX}1_i0", f"msg_{SUFFIX}1_0"
        items = await shelf.store.resolved("a", [given, told(2).input[0], said])
        assert words_of(items) == ["question 1", "question 2", "so"]

    run(story)


@pytest.mark.parametrize("wrong", [f"msg_{SUFFIX}1_7", f"msg_{SUFFIX}9_0", "msg_1", "", "x" * 300])
def test_an_item_that_nobody_knows_is_not_found(wrong: str) -> None:
    async def story() -> None:
        shelf = Shelf()
        await shelf.put(1)
        with pytest.raises(NotFoundError) as unknown:
            await shelf.store.resolved("a", [told(2).input[0], wrong])
        assert unknown.value.param == "input[1].id"

    run(story)


def test_items_of_so_many_responses_are_looked_for_and_no_more() -> None:
    async def story() -> None:
        shelf = Shelf(chain_max=2)
        named = [f"msg_{SUFFIX}{number}_0" for number in (1, 2, 3)]
        for number in (1, 2, 3):
            await shelf.put(number)
        assert len(await shelf.store.resolved("a", named[:2] * 5)) == 10
        with pytest.raises(BadRequestError, match="items of more than 2 responses"):
            await shelf.store.resolved("a", named)

    run(story)


# What has become of a run.

QUEUED = opened(body(background=True), name(1), 7)


@pytest.mark.parametrize(
    ("view", "status"),
    [
        (FakeRun("run", "queued"), "queued"),
        (FakeRun("run", "running"), "in_progress"),
        (FakeRun("run", "waiting"), "in_progress"),
        (FakeRun("run", "cancelled", 9_000), "cancelled"),
        (FakeRun("run", "failed", 9_000, error=FakeFailure("run.poison", "why")), "failed"),
        (FakeRun("run", "finished", 9_000, FakeAnswer("so")), "completed"),
        (FakeRun("run", "finished", 9_000, FakeAnswer("so", FinishReason.LENGTH)), "incomplete"),
    ],
)
def test_a_response_is_as_far_as_its_run(view: FakeRun, status: str) -> None:
    response = current(QUEUED, view)
    assert response.status == status
    assert (response.completed_at == 9) == (status == "completed")
    if status == "failed":
        assert response.error is not None
        assert (response.error.code, response.error.message) == ("run.poison", "why")


def test_the_answer_of_a_run_has_all_its_parts() -> None:
    calls = (ToolCall("c1", "now", "{}"),)
    answer = FakeAnswer("so", citations=(CITATION,), calls=calls, usage=Usage(5, 3))
    shown = current(QUEUED, FakeRun("run", "finished", 9_000, answer))
    assert [item.id for item in shown.output] == [f"msg_{SUFFIX}1_0", f"fc_{SUFFIX}1_1"]
    assert shown.usage is not None
    assert shown.usage.total_tokens == 8
    assert deltas_of(FakeAnswer("")) == [Usage(3, 2), Finished(FinishReason.STOP)]
    assert deltas_of(answer)[0] == Text("so")


def test_a_run_that_called_what_was_not_allowed_has_failed() -> None:
    tools = [{"type": "function", "name": "then"}]
    asked: Resource = opened(body(tools=tools, tool_choice=tools[0]), name(1), 7)
    answer = FakeAnswer("so", calls=(ToolCall("c1", "now", "{}"),))
    shown = current(asked, FakeRun("run", "finished", 9_000, answer))
    assert shown.status == "failed"
    assert shown.error is not None
    assert shown.error.code == "engine.failed"


def test_what_is_referred_to_counts_as_often_as_it_is() -> None:
    async def story() -> None:
        shelf = Shelf(chain_bytes_max=900)
        await shelf.put(1)
        named = f"msg_{SUFFIX}1_0"
        assert len(await shelf.store.resolved("a", [named] * 2)) == 2
        with pytest.raises(BadRequestError, match="over 900 bytes together") as refused:
            await shelf.store.resolved("a", [named] * 100)
        assert refused.value.param == "input"

    run(story)
