"""The built-in tools, and what they tell a model that uses them wrongly."""

import asyncio
import json

import pytest

from murmurate.agents.ports import Effect, ToolContext, ToolResult
from murmurate.agents.tools import (
    EXPRESSION_CHARS_MAX,
    Calculate,
    Search,
    built_in,
    shown,
)
from murmurate.core.errors import ToolFailedError
from murmurate.core.types import Origin, OriginKind
from tests.fakes import TRACE, FakeKnowledge, FakeSandbox, RecordingTracer, passage


def context(*, verbatim: bool = False) -> ToolContext:
    return ToolContext(
        tenant="a",
        question="How long?",
        collections=("docs", "faq"),
        verbatim=verbatim,
        trace=TRACE,
        key="run_1:1",
    )


def searched(
    knowledge: FakeKnowledge, arguments: str, *, verbatim: bool = False
) -> tuple[ToolResult, RecordingTracer]:
    tracer = RecordingTracer()
    called = Search(knowledge, tracer).call(arguments, context(verbatim=verbatim))
    return asyncio.run(called), tracer


def calculated(expression: str, sandbox: FakeSandbox) -> ToolResult:
    arguments = json.dumps({"expression": expression})
    return asyncio.run(Calculate(sandbox).call(arguments, context()))


def test_a_search_finds_passages_with_their_places_marked_as_documents() -> None:
    found = passage("12 hours.", line_first=3, line_last=4)
    knowledge = FakeKnowledge(found)
    result, _ = searched(knowledge, '{"query":" limit "}')
    assert knowledge.asked == [("a", ("docs", "faq"), "limit", 5)]
    assert json.loads(result.text) == {
        "passages": [{"path": "limits.md", "lines": "3-4", "text": "12 hours."}]
    }
    assert result.origin == Origin(OriginKind.DOCUMENT, "docs,faq")
    assert result.passages == (found,)


def test_a_verbatim_search_uses_the_users_own_words() -> None:
    knowledge = FakeKnowledge()
    searched(knowledge, "not even JSON", verbatim=True)
    assert knowledge.asked[0][2] == "How long?"


def test_an_empty_query_falls_back_to_the_question() -> None:
    knowledge = FakeKnowledge()
    searched(knowledge, '{"query":"  "}')
    assert knowledge.asked[0][2] == "How long?"


@pytest.mark.parametrize(
    ("passages", "confidence"),
    [((), 0.0), ((passage(confidence=0.25), passage(confidence=0.8)), 0.8)],
)
def test_the_trace_says_how_sure_the_search_was(
    passages: tuple[object, ...], confidence: float
) -> None:
    knowledge = FakeKnowledge()
    knowledge.passages = list(passages)  # pyright: ignore[reportAttributeAccessIssue]
    _, tracer = searched(knowledge, '{"query":"x"}')
    assert tracer.named("retrieval").attributes == {
        "passages": len(passages),
        "confidence": confidence,
    }


@pytest.mark.parametrize("arguments", ["", "{", "[]", "{}", '{"query":5}'])
def test_wrong_arguments_are_told_to_the_model(arguments: str) -> None:
    with pytest.raises(ToolFailedError, match="wrong arguments"):
        searched(FakeKnowledge(), arguments)


def test_a_calculation_runs_in_the_sandbox() -> None:
    sandbox = FakeSandbox({"6*7": "42"})
    result = calculated("6*7", sandbox)
    assert json.loads(result.text) == {"result": 42}
    assert result.origin == Origin(OriginKind.TOOL, "calculate")
    assert result.passages is None
    assert sandbox.ran == ["6*7"]


def test_a_calculation_that_fails_says_why() -> None:
    with pytest.raises(ToolFailedError, match="SyntaxError"):
        calculated("6*", FakeSandbox())


def test_an_expression_without_end_is_refused_before_it_runs() -> None:
    sandbox = FakeSandbox()
    with pytest.raises(ToolFailedError, match="over 400 characters"):
        calculated("1" * (EXPRESSION_CHARS_MAX + 1), sandbox)
    assert not sandbox.ran


@pytest.mark.parametrize("value", ['"text"', "[1]", '{"a":1}', "null"])
def test_what_is_not_a_number_is_not_arithmetic(value: str) -> None:
    with pytest.raises(ToolFailedError, match="not arithmetic"):
        calculated("x", FakeSandbox({"x": value}))


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (0.1 + 0.2, 0.3),
        (4.0, 4),
        (1 / 3, 0.333333333333),
        (2.0**60, 2.0**60),
        (7, 7),
        (True, True),
        (-0.5, -0.5),
    ],
)
def test_numbers_are_shown_as_people_write_them(value: float, number: float) -> None:
    assert shown(value) == pytest.approx(number, rel=1e-11)
    assert isinstance(shown(4.0), int)


def test_infinity_is_no_number() -> None:
    with pytest.raises(ToolFailedError):
        shown(float("inf"))


def test_a_missing_sandbox_removes_its_tool() -> None:
    knowledge, tracer = FakeKnowledge(), RecordingTracer()
    assert list(built_in(knowledge, None, tracer)) == ["search"]
    tools = built_in(knowledge, FakeSandbox(), tracer)
    assert list(tools) == ["search", "calculate"]
    assert all(tool.spec.name == name for name, tool in tools.items())
    assert all(tool.effect is Effect.READ for tool in tools.values())
    assert all(json.loads(tool.spec.parameters)["type"] == "object" for tool in tools.values())
