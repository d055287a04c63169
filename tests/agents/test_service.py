"""The agents' loop, over models that follow a script."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from murmurate.adapters.memory import MemoryLog
from murmurate.agents.ports import AgentTool, Effect, ToolContext, ToolResult
from murmurate.agents.service import CALLS_PER_STEP_MAX, TOOL_S_MAX, Agents
from murmurate.agents.tools import built_in
from murmurate.agents.turn import UNKNOWN_EN, UNKNOWN_ZH
from murmurate.config import AgentConfig, AnswerStyle, Permission
from murmurate.core.errors import (
    BadRequestError,
    EngineFailedError,
    ToolFailedError,
    WorkerUnreachableError,
)
from murmurate.core.journal import Journals, NothingKept
from murmurate.core.ports import Model
from murmurate.core.types import (
    CallPart,
    Citation,
    Cited,
    Delta,
    Finished,
    FinishReason,
    Message,
    Origin,
    OriginKind,
    Passage,
    Request,
    ResultPart,
    Role,
    Sampling,
    Text,
    Tool,
    ToolCall,
    Usage,
)
from tests.fakes import (
    DONE,
    FakeClock,
    FakeKnowledge,
    FakeSandbox,
    InTurn,
    RecordingTracer,
    Saying,
    all_of,
    answered,
    ask,
    assistant,
    passage,
    run_skipping_time,
    text_of,
    until,
    user,
)

CALLS = Finished(FinishReason.TOOL_CALLS)
ANSWER = Saying(Text("It is 42."), Usage(10, 5), DONE)


class FakeTool:
    """Answers its name; or raises; or waits for an event that others can set."""

    def __init__(
        self,
        name: str,
        *,
        effect: Effect = Effect.READ,
        failure: Exception | None = None,
        gate: asyncio.Event | None = None,
    ) -> None:
        self.spec = Tool(name, "", "{}")
        self.effect = effect
        self.failure = failure
        self.gate = gate
        self.called: list[tuple[str, ToolContext]] = []
        self.order: list[str] = []

    async def call(self, arguments: str, context: ToolContext) -> ToolResult:
        self.called.append((arguments, context))
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return ToolResult(f'"{self.spec.name}"', Origin(OriginKind.TOOL, self.spec.name))


def quoter(question: str, passages: Sequence[Passage]) -> Citation | None:
    """Quote the first passage that has a word of the question."""
    for p in passages:
        if any(word in p.text for word in question.split()):
            return Citation(p.document, p.path, p.start, p.end, 3, 3, p.text, p.confidence)
    return None


def agents(
    below: Model,
    tools: Mapping[str, AgentTool] | None = None,
    tracer: RecordingTracer | None = None,
    /,
    *,
    journals: Journals | None = None,
    **settings: Any,
) -> Agents:
    tools = tools or {}
    defaults: dict[str, Any] = {"model": "tiny", "tools": tuple(tools)}
    agent = AgentConfig(**{**defaults, **settings})
    return Agents(
        below,
        agents={"helper": agent},
        tools=tools,
        quoter=quoter,
        journals=journals or NothingKept(MemoryLog(clock=FakeClock())),
        tracer=tracer or RecordingTracer(),
    )


def searching(below: Model, knowledge: FakeKnowledge, style: AnswerStyle) -> Agents:
    tools = built_in(knowledge, FakeSandbox({"6*7": "42"}), RecordingTracer())
    return agents(below, tools, knowledge=("docs",), answers=style)


def helped(model: Agents, *messages: str | Message, **fields: Any) -> list[Delta]:
    return answered(model, ask(*messages, model="helper", **fields))


def calling(*calls: ToolCall, usage: Usage = Usage(1, 1)) -> Saying:  # noqa: B008 - frozen
    return Saying(*calls, usage, CALLS)


def call(name: str, arguments: str = "{}", call_id: str = "c1") -> ToolCall:
    return ToolCall(call_id, name, arguments)


def told(request: Request) -> list[Any]:
    """Return what the tools told the model."""
    parts = [part for message in request.messages for part in message.parts]
    return [json.loads(part.text) for part in parts if isinstance(part, ResultPart)]


# Without a tool.


def test_an_answer_without_a_tool_is_the_models_own() -> None:
    below = InTurn(ANSWER)
    tracer = RecordingTracer()
    deltas = helped(agents(below, {}, tracer, instructions="Be brief."), "How?")
    assert deltas == [Text("It is 42."), Usage(10, 5), DONE]
    (asked,) = below.asked
    assert asked.model == "tiny"
    assert [m.text for m in asked.messages] == ["Be brief.", "How?"]
    assert asked.trace.span_id == "agent"
    assert tracer.named("agent").attributes == {"agent": "helper"}


def test_the_reason_of_the_last_step_is_the_answers() -> None:
    deltas = helped(agents(Saying(Text("It"), Finished(FinishReason.LENGTH))))
    assert deltas[-1] == Finished(FinishReason.LENGTH)


def test_other_names_pass_down_unchanged() -> None:
    below = InTurn(ANSWER)
    request = ask("hi", model="tiny", tools=(Tool("mine", "", "{}"),))
    assert answered(agents(below), request)[-1] == DONE
    assert below.asked == [request]


def test_a_client_with_tools_of_its_own_is_refused() -> None:
    with pytest.raises(BadRequestError, match="brings its own tools") as raised:
        helped(agents(ANSWER), tools=(Tool("mine", "", "{}"),))
    assert raised.value.param == "tools"


def test_the_model_sees_the_newest_history_that_fits() -> None:
    below = InTurn(ANSWER)
    model = agents(below, history_chars_max=12)
    helped(model, "old question", assistant("old answer"), "new", assistant("yes"), "newest")
    assert [m.text for m in below.asked[0].messages] == ["new", "yes", "newest"]


def test_an_error_of_the_model_goes_up() -> None:
    with pytest.raises(EngineFailedError):
        helped(agents(Saying(EngineFailedError("broke"))))


# With tools.


def test_the_model_is_offered_the_agents_tools_that_exist() -> None:
    below = InTurn(ANSWER)
    tool = FakeTool("one")
    model = agents(below, {"one": tool, "two": FakeTool("two")}, tools=("one", "missing"))
    helped(model)
    assert below.asked[0].tools == (tool.spec,)


def test_a_call_and_its_result_follow_the_question_in_the_next_step() -> None:
    below = InTurn(Saying(Text("hm"), call("one", '{"a":1}'), CALLS), ANSWER)
    tool = FakeTool("one")
    deltas = helped(agents(below, {"one": tool}), "How?")
    assert text_of(deltas) == "hmIt is 42."
    question, said, heard = below.asked[1].messages
    assert question == user("How?")
    assert said.text == "hm"
    assert said.parts[1] == CallPart("c1", "one", '{"a":1}')
    assert heard.role is Role.TOOL
    assert heard.parts == (ResultPart("c1", '"one"', Origin(OriginKind.TOOL, "one")),)
    ((arguments, context),) = tool.called
    assert arguments == '{"a":1}'
    assert (context.tenant, context.question) == ("a", "How?")
    assert context.trace.span_id == "tool one"


def test_calls_run_side_by_side_and_results_keep_their_order() -> None:
    async def story() -> None:
        gate = asyncio.Event()
        slow, fast = FakeTool("slow", gate=gate), FakeTool("fast")
        below = InTurn(calling(call("slow"), call("fast", call_id="c2")), ANSWER)
        model = agents(below, {"slow": slow, "fast": fast})
        answering = asyncio.ensure_future(all_of(model, ask(model="helper")))
        await until(lambda: bool(slow.called and fast.called))
        gate.set()
        await answering
        assert told(below.asked[1]) == ["slow", "fast"]

    asyncio.run(story())


def test_no_more_calls_run_in_a_step_than_its_bound() -> None:
    tool = FakeTool("one")
    many = [call("one", call_id=f"c{n}") for n in range(CALLS_PER_STEP_MAX + 3)]
    below = InTurn(calling(*many), ANSWER)
    helped(agents(below, {"one": tool}))
    assert len(tool.called) == CALLS_PER_STEP_MAX
    assert len(told(below.asked[1])) == CALLS_PER_STEP_MAX
    said = below.asked[1].messages[-CALLS_PER_STEP_MAX - 1]
    assert len(said.parts) == CALLS_PER_STEP_MAX


def test_the_usage_of_all_steps_is_summed() -> None:
    below = InTurn(calling(call("one"), usage=Usage(3, 2, 1)), ANSWER)
    assert helped(agents(below, {"one": FakeTool("one")}))[-2] == Usage(13, 7, 1)


@pytest.mark.parametrize(("effect", "flag"), [(Effect.READ, True), (Effect.WRITE, False)])
def test_a_tool_that_writes_flags_the_answer(effect: Effect, flag: bool) -> None:
    below = InTurn(calling(call("one")), calling(call("two")), ANSWER)
    tools = {"one": FakeTool("one", effect=effect), "two": FakeTool("two")}
    asked = agents(below, tools, permissions={"one": Permission.ALLOW})
    assert helped(asked)[-1] == Finished(FinishReason.STOP, repeatable=flag)


def test_a_writing_tool_that_fails_flags_the_answer_too() -> None:
    tool = FakeTool("one", effect=Effect.WRITE, failure=ToolFailedError("half done"))
    allowed = {"one": Permission.ALLOW}
    asked = agents(InTurn(calling(call("one")), ANSWER), {"one": tool}, permissions=allowed)
    deltas = helped(asked)
    assert len(tool.called) == 1
    assert deltas[-1] == Finished(FinishReason.STOP, repeatable=False)


def test_an_answer_on_which_a_tool_failed_may_come_out_otherwise_next_time() -> None:
    tool = FakeTool("one", effect=Effect.READ, failure=ToolFailedError("the disk is full"))
    deltas = helped(agents(InTurn(calling(call("one")), ANSWER), {"one": tool}))
    assert deltas[-1] == Finished(FinishReason.STOP, repeatable=False)


@pytest.mark.parametrize("option", ["tool_choice", "grammar", "response_format", "ignore_eos"])
def test_options_that_would_reach_into_the_agents_own_calls_are_refused(option: str) -> None:
    with pytest.raises(BadRequestError, match=option):
        helped(agents(InTurn(ANSWER), {}), sampling=Sampling(options={option: "none"}))


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (ToolFailedError("the disk is full"), "the disk is full"),
        (TimeoutError(), "took longer than 30 s"),
    ],
)
def test_a_failing_tool_is_told_to_the_model_which_goes_on(failure: Exception, words: str) -> None:
    below = InTurn(calling(call("one")), ANSWER)
    tracer = RecordingTracer()
    model = agents(below, {"one": FakeTool("one", failure=failure)}, tracer)
    assert text_of(helped(model)) == "It is 42."
    assert told(below.asked[1]) == [{"error": words}]
    assert tracer.named("tool one").attributes == {"failed": True}  # words stay out of traces


def test_a_tool_that_never_ends_is_stopped_and_the_model_told() -> None:
    async def story() -> None:
        below = InTurn(calling(call("one")), ANSWER)
        model = agents(below, {"one": FakeTool("one", gate=asyncio.Event())})
        began_s = asyncio.get_running_loop().time()
        await all_of(model, ask(model="helper"))
        assert asyncio.get_running_loop().time() - began_s >= TOOL_S_MAX
        assert told(below.asked[1]) == [{"error": "took longer than 30 s"}]

    run_skipping_time(story())


@pytest.mark.parametrize("name", ["invented", "forbidden"])
def test_a_tool_that_is_unknown_or_not_the_agents_is_told_to_the_model(name: str) -> None:
    below = InTurn(calling(call(name)), ANSWER)
    forbidden = FakeTool("forbidden", effect=Effect.READ)
    tools = {"one": FakeTool("one"), "forbidden": forbidden}
    helped(agents(below, tools, tools=("one",)))
    assert told(below.asked[1]) == [{"error": f"there is no tool '{name}'"}]
    assert not forbidden.called


def test_broken_arguments_are_told_to_the_model() -> None:
    below = InTurn(calling(call("calculate", '{"expr')), ANSWER)
    helped(searching(below, FakeKnowledge(), AnswerStyle.COMPOSE))
    (heard,) = told(below.asked[1])
    assert heard["error"].startswith("wrong arguments")


def test_a_dead_worker_ends_the_turn() -> None:
    tools = {
        "one": FakeTool("one", failure=WorkerUnreachableError("gone")),
        "two": FakeTool("two"),
    }
    below = InTurn(calling(call("one"), call("two", call_id="c2")), ANSWER)
    with pytest.raises(WorkerUnreachableError):
        helped(agents(below, tools))


def test_an_agent_that_finds_no_end_says_so() -> None:
    below = InTurn(calling(call("one")))
    *_, text, usage, end = helped(agents(below, {"one": FakeTool("one")}, steps_max=3))
    assert text == Text("I stopped after 3 steps without an answer.")
    assert usage == Usage(3, 3)
    assert end == Finished(FinishReason.LENGTH)
    assert len(below.asked) == 3


def test_closing_early_closes_the_model() -> None:
    async def story() -> None:
        below = Saying(Text("a"), Text("b"), DONE)
        async with aclosing(agents(below).answer(ask(model="helper"))) as deltas:
            assert await anext(deltas) == Text("a")
        assert below.closed_early == 1

    asyncio.run(story())


def test_closing_early_closes_the_model_under_another_name_too() -> None:
    async def story() -> None:
        below = Saying(Text("a"), Text("b"), DONE)
        async with aclosing(agents(below).answer(ask(model="tiny"))) as deltas:
            await anext(deltas)
        assert below.closed_early == 1

    asyncio.run(story())


def test_leaving_while_a_tool_runs_stops_the_tool() -> None:
    async def story() -> None:
        tool = FakeTool("one", gate=asyncio.Event())
        tracer = RecordingTracer()
        model = agents(InTurn(calling(call("one"))), {"one": tool}, tracer)
        answering = asyncio.ensure_future(all_of(model, ask(model="helper")))
        await until(lambda: bool(tool.called))
        answering.cancel()
        await until(answering.done)
        assert isinstance(tracer.named("tool one").error, asyncio.CancelledError)

    asyncio.run(story())


# Answering from documents.

FOUND = passage("The limit is 12 hours.")
SEARCH = call("search", '{"query":"something else"}')


def test_a_quoting_agent_answers_with_the_passage_and_its_place() -> None:
    below = InTurn(calling(SEARCH, usage=Usage(5, 2)))
    knowledge = FakeKnowledge(FOUND)
    text, cited, usage, end = helped(
        searching(below, knowledge, AnswerStyle.QUOTE), "What limit is there?"
    )
    assert text == Text("The limit is 12 hours.\n\n(quoted from limits.md, line 3)")
    citation = Citation("doc_1", "limits.md", 10, 32, 3, 3, "The limit is 12 hours.", 0.9)
    assert cited == Cited((citation,))
    assert (usage, end) == (Usage(5, 2), DONE)
    assert len(below.asked) == 1


def test_a_quoting_agent_searches_with_the_users_own_words() -> None:
    knowledge = FakeKnowledge(FOUND)
    helped(searching(InTurn(calling(SEARCH)), knowledge, AnswerStyle.QUOTE), "What limit?")
    assert knowledge.asked == [("a", ("docs",), "What limit?", 5)]


@pytest.mark.parametrize(
    ("question", "answer"), [("Who won?", UNKNOWN_EN), ("谁赢了？", UNKNOWN_ZH)]
)
@pytest.mark.parametrize("passages", [(), (FOUND,)])
def test_a_quoting_agent_says_when_nothing_answers(
    question: str, answer: str, passages: tuple[Passage, ...]
) -> None:
    model = searching(InTurn(calling(SEARCH)), FakeKnowledge(*passages), AnswerStyle.QUOTE)
    assert helped(model, question) == [Text(answer), Usage(1, 1), DONE]


def test_a_quoting_agent_that_does_not_search_goes_on() -> None:
    below = InTurn(calling(call("calculate", '{"expression":"6*7"}')), ANSWER)
    deltas = helped(searching(below, FakeKnowledge(), AnswerStyle.QUOTE), "What is 6*7?")
    assert text_of(deltas) == "It is 42."
    assert told(below.asked[1]) == [{"result": 42}]


def test_a_composing_agent_gives_its_model_the_passages_as_a_documents_words() -> None:
    below = InTurn(calling(SEARCH), ANSWER)
    knowledge = FakeKnowledge(FOUND)
    deltas = helped(searching(below, knowledge, AnswerStyle.COMPOSE), "What limit?")
    assert text_of(deltas) == "It is 42."
    assert knowledge.asked[0][2] == "something else"
    heard = below.asked[1].messages[-1]
    assert heard.role is Role.TOOL
    (part,) = heard.parts
    assert isinstance(part, ResultPart)
    assert part.origin == Origin(OriginKind.DOCUMENT, "docs")
    assert json.loads(part.text)["passages"][0]["text"] == "The limit is 12 hours."
