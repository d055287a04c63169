"""What an agent may do follows from its configuration, and from what its tools do to the world."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest

from murmurate.agents.permissions import denial, permission_of
from murmurate.agents.ports import AgentTool, Effect
from murmurate.agents.service import Agents
from murmurate.config import AgentConfig, Permission
from murmurate.core.errors import RunWaitingError
from murmurate.core.journal import Decision, StepKind, UnkeptStep
from murmurate.core.ports import Entry, Model
from murmurate.core.types import Delta, Finished, FinishReason, Request, ToolCall
from tests.agents.test_service import ANSWER, FakeTool, agents, call, calling, helped, told
from tests.fakes import InTurn

CALL = ToolCall("c1", "pay", "{}")


@pytest.mark.parametrize(
    ("effect", "configured", "expected"),
    [
        (Effect.READ, None, Permission.ALLOW),
        (Effect.WRITE, None, Permission.ASK),
        (Effect.READ, Permission.ASK, Permission.ASK),
        (Effect.READ, Permission.DENY, Permission.DENY),
        (Effect.WRITE, Permission.ALLOW, Permission.ALLOW),
        (Effect.WRITE, Permission.DENY, Permission.DENY),
    ],
)
def test_what_changes_something_asks_unless_it_is_configured(
    effect: Effect, configured: Permission | None, expected: Permission
) -> None:
    permissions = {} if configured is None else {"pay": configured}
    agent = AgentConfig(model="tiny", tools=("pay",), permissions=permissions)
    assert permission_of(agent, FakeTool("pay", effect=effect)) is expected


def test_an_approved_call_is_to_be_made() -> None:
    assert denial(CALL, b'{"approved":true,"by":"key_1"}') is None


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (b'{"approved":false}', "the call of 'pay' was denied"),
        (
            b'{"approved":false,"reason":"too dear","by":"key_1"}',
            "the call of 'pay' was denied: too dear",
        ),
    ],
)
def test_a_denied_call_tells_the_model_why_and_not_who(outcome: bytes, words: str) -> None:
    result = denial(CALL, outcome)
    assert result is not None
    assert (result.failed, json.loads(result.text)) == (True, {"error": words})


class Written:
    """Journals of one run whose approvals are decided as the test says; None: not yet."""

    def __init__(self, *decisions: Decision | None) -> None:
        self.decisions = list(decisions)
        self.begun: list[tuple[StepKind, str]] = []
        self.seen: int | None = None

    def of(self, request: Request) -> "Written":
        return self

    def sees(self, seq: int) -> None: ...

    def step(self, kind: StepKind, name: str, arguments: str = "") -> UnkeptStep:
        self.begun.append((kind, name))
        said = self.decisions.pop(0) if kind is StepKind.APPROVAL else None
        outcome = None if said is None else msgspec.json.encode(said)
        return UnkeptStep(f"run_1:{len(self.begun)}", outcome=outcome)

    async def finish(self, entries: Sequence[Entry], answer: Sequence[Delta]) -> None: ...


YES, NO = Decision(approved=True), Decision(approved=False, reason="not now")


def deciding(
    below: Model, tools: Mapping[str, AgentTool], *decisions: Decision | None, **settings: Any
) -> tuple[Agents, Written]:
    journals = Written(*decisions)
    return agents(below, tools, journals=journals, **settings), journals


def test_a_tool_that_is_denied_is_not_offered_and_a_call_of_it_is_refused() -> None:
    below = InTurn(calling(call("one"), call("two", call_id="c2")), ANSWER)
    tools = {"one": FakeTool("one"), "two": FakeTool("two")}
    helped(agents(below, tools, permissions={"one": Permission.DENY}))
    assert [tool.name for tool in below.asked[0].tools] == ["two"]
    assert tools["one"].called == []
    assert told(below.asked[1]) == [{"error": "this agent may not use 'one'"}, "two"]


def test_nothing_of_a_reply_is_done_before_all_that_it_asks_is_decided() -> None:
    tools = {"read": FakeTool("read"), "pay": FakeTool("pay", effect=Effect.WRITE)}
    calls = (call("read"), call("pay", call_id="c2"), call("pay", call_id="c3"))
    asking, journals = deciding(InTurn(calling(*calls), ANSWER), tools, YES, None, approval_s=9)
    with pytest.raises(RunWaitingError, match=r"pay \(run_1:3\)") as waiting:
        helped(asking)
    assert waiting.value.patience_s == 9
    assert "run_1:2" not in waiting.value.detail, "that one is decided"
    assert tools["read"].called == tools["pay"].called == []
    kinds = [kind for kind, _ in journals.begun]
    assert kinds == [StepKind.MODEL, StepKind.APPROVAL, StepKind.APPROVAL]


def test_results_come_in_the_order_of_the_calls_whatever_was_decided() -> None:
    tools = {"read": FakeTool("read"), "pay": FakeTool("pay", effect=Effect.WRITE)}
    calls = (call("pay"), call("read", call_id="c2"), call("pay", call_id="c3"))
    below = InTurn(calling(*calls), ANSWER)
    asking, journals = deciding(below, tools, NO, YES)
    assert helped(asking)[-1] == Finished(FinishReason.STOP, repeatable=False)
    denied = {"error": "the call of 'pay' was denied: not now"}
    assert told(below.asked[1]) == [denied, "read", "pay"]
    assert len(tools["pay"].called) == 1
    # A call that was denied is no step of its own: what follows has the same number each time.
    assert [name for kind, name in journals.begun if kind is StepKind.TOOL] == ["read", "pay"]


def test_what_came_of_an_approval_is_not_cached_for_others() -> None:
    below = InTurn(calling(call("one")), ANSWER)
    asking, _ = deciding(below, {"one": FakeTool("one")}, YES, permissions={"one": Permission.ASK})
    assert helped(asking)[-1] == Finished(FinishReason.STOP, repeatable=False)


def test_without_a_run_nobody_can_be_asked_and_the_model_hears_what_to_do() -> None:
    below = InTurn(calling(call("pay")), ANSWER)
    tool = FakeTool("pay", effect=Effect.WRITE)
    helped(agents(below, {"pay": tool}))
    assert tool.called == []
    [heard] = told(below.asked[1])
    assert "begin a run (POST /api/runs)" in heard["error"]
