"""The loop: ask the model, run the tools it asks for, ask again, until it answers."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing

import msgspec

from murmurate.agents.permissions import denial, permission_of, refusal
from murmurate.agents.ports import AgentTool, Effect, Quoter, ToolContext, ToolResult
from murmurate.agents.turn import (
    Reply,
    deltas_of,
    heard,
    opening,
    question_of,
    quoted,
    said,
    unknown,
)
from murmurate.config import AgentConfig, AnswerStyle, Permission
from murmurate.core.errors import BadRequestError, RunWaitingError, ToolFailedError
from murmurate.core.journal import Journal, Journals, Step, StepKind
from murmurate.core.ports import Model, Tracer
from murmurate.core.types import (
    Cited,
    Delta,
    Finished,
    FinishReason,
    Message,
    Passage,
    Request,
    Text,
    ToolCall,
    Usage,
)

CALLS_PER_STEP_MAX = 8
TOOL_S_MAX = 30.0
OWN_OPTIONS = frozenset(
    {"tool_choice", "parallel_tool_calls", "response_format", "grammar", "ignore_eos"}
)
"""Engine options that an agent's own model calls rest on."""


class Agents:
    """A `Model` that serves agents under their names and passes every other name down."""

    def __init__(
        self,
        below: Model,
        *,
        agents: Mapping[str, AgentConfig],
        tools: Mapping[str, AgentTool],
        quoter: Quoter,
        journals: Journals,
        tracer: Tracer,
    ) -> None:
        self._below = below
        self._agents = agents
        self._tools = tools
        self._quoter = quoter
        self._journals = journals
        self._tracer = tracer

    def answer(self, request: Request) -> AsyncGenerator[Delta]:
        """Yield the agent's text, its citations, the usage of all its model calls, and the end."""
        agent = self._agents.get(request.model)
        return self._below.answer(request) if agent is None else self._answer(agent, request)

    async def _answer(self, agent: AgentConfig, request: Request) -> AsyncGenerator[Delta]:
        _check(request)
        with self._tracer.span(request.trace, "agent", agent=request.model) as span:
            work = msgspec.structs.replace(request, trace=span.ref)
            async with aclosing(self._work(agent, work)) as deltas:
                async for delta in deltas:
                    yield delta

    async def _work(self, agent: AgentConfig, request: Request) -> AsyncGenerator[Delta]:
        """Go round until the model answers without a tool, or the steps are used up."""
        journal = self._journals.of(request)
        messages = opening(agent.instructions, request.messages, chars_max=agent.history_chars_max)
        usage, repeatable = Usage(0, 0), True
        for _ in range(agent.steps_max):
            reply = Reply()
            asked = self._ask(agent, request, messages)
            async with aclosing(self._said(asked, journal, reply)) as deltas:
                async for delta in deltas:
                    yield delta
            usage = usage.plus(reply.usage)
            if not reply.calls:
                yield usage
                yield Finished(reply.reason, repeatable)
                return
            calls = reply.calls[:CALLS_PER_STEP_MAX]
            results = await self._run(agent, request, journal, calls)
            repeatable = repeatable and not any(self._is_once(agent, call) for call in calls)
            repeatable = repeatable and not any(result.failed for result in results)
            passages = [p for r in results if r.passages is not None for p in r.passages]
            searched = any(result.passages is not None for result in results)
            if searched and agent.answers is AnswerStyle.QUOTE:
                for delta in self._quote(request, passages):
                    yield delta
                yield usage
                yield Finished(FinishReason.STOP, repeatable)
                return
            answers = (heard(c, r.text, r.origin) for c, r in zip(calls, results, strict=True))
            messages = (*messages, said(reply.text, calls, agent.model), *answers)
        yield Text(f"I stopped after {agent.steps_max} steps without an answer.")
        yield usage
        yield Finished(FinishReason.LENGTH, repeatable)

    async def _said(self, asked: Request, journal: Journal, reply: Reply) -> AsyncGenerator[Delta]:
        """Gather the model's reply, from the journal if it is there; yield what the user sees."""
        step = journal.step(StepKind.MODEL, asked.model)
        if step.outcome is not None:
            for delta in deltas_of(step.outcome):
                if (visible := reply.take(delta)) is not None:
                    yield visible
            return
        async with aclosing(self._below.answer(asked)) as deltas:
            async for delta in deltas:
                if (visible := reply.take(delta)) is not None:
                    yield visible
        if reply.calls:
            await step.done(reply.kept())
        else:
            step.ends(reply.kept())

    def _ask(self, agent: AgentConfig, request: Request, messages: tuple[Message, ...]) -> Request:
        """Return the agent's own question to its model; a tool that is denied is not offered."""
        tools = tuple(
            self._tools[name].spec
            for name in agent.tools
            if self._permission(agent, name) not in {None, Permission.DENY}
        )
        return msgspec.structs.replace(request, model=agent.model, messages=messages, tools=tools)

    async def _run(
        self, agent: AgentConfig, request: Request, journal: Journal, calls: Sequence[ToolCall]
    ) -> list[ToolResult]:
        """Run the calls side by side, those that ask once all of them are decided.

        Results come in the order of the calls.
        """
        denials = self._denials(agent, journal, calls)
        made = [call for call, denied in zip(calls, denials, strict=True) if denied is None]
        steps = [journal.step(kind_of(call.name), call.name, call.arguments) for call in made]
        runs = (
            self._once(agent, request, call, step) for call, step in zip(made, steps, strict=True)
        )
        results = await asyncio.gather(*runs, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        found = (result for result in results if isinstance(result, ToolResult))
        return [next(found) if denied is None else denied for denied in denials]

    def _denials(
        self, agent: AgentConfig, journal: Journal, calls: Sequence[ToolCall]
    ) -> list[ToolResult | None]:
        """Return what comes of each call without making it; None: it is to be made.

        `RunWaitingError`: somebody must decide first. Nothing of the model's reply is done before.
        """
        asking = [self._permission(agent, call.name) is Permission.ASK for call in calls]
        steps = [
            journal.step(StepKind.APPROVAL, call.name, call.arguments) if asks else None
            for call, asks in zip(calls, asking, strict=True)
        ]
        said = [None if step is None else step.outcome for step in steps]
        waiting = [
            f"{call.name} ({step.key})"
            for call, step, outcome in zip(calls, steps, said, strict=True)
            if step is not None and outcome is None
        ]
        if waiting:
            raise RunWaitingError(
                f"the agent may not call {', '.join(waiting)} before somebody approves it"
                " (`murmurate runs approvals`). The run goes on by itself once that is decided",
                patience_s=agent.approval_s,
            )
        return [
            None if outcome is None else denial(call, outcome)
            for call, outcome in zip(calls, said, strict=True)
        ]

    async def _once(
        self, agent: AgentConfig, request: Request, call: ToolCall, step: Step
    ) -> ToolResult:
        """Run one call, unless the journal knows what it came to."""
        if step.outcome is not None:
            return msgspec.json.decode(step.outcome, type=ToolResult)
        result = await self._call(agent, request, call, key=step.key)
        await step.done(msgspec.json.encode(result))
        return result

    async def _call(
        self, agent: AgentConfig, request: Request, call: ToolCall, *, key: str
    ) -> ToolResult:
        """Run one call. The model hears of a tool's refusal; a dead worker ends the turn."""
        permission = self._permission(agent, call.name)
        known = permission is not None
        # A name that the model made up is its words, and those don't belong into a trace.
        name = f"tool {call.name}" if known else "tool unknown"
        with self._tracer.span(request.trace, name) as span:
            context = ToolContext(
                tenant=request.tenant,
                question=question_of(request.messages),
                collections=agent.knowledge,
                verbatim=agent.answers is AnswerStyle.QUOTE,
                key=key,
                trace=span.ref,
            )
            try:
                if not known:
                    raise ToolFailedError(f"there is no tool {call.name!r}")  # noqa: TRY301
                if permission is Permission.DENY:
                    raise ToolFailedError(f"this agent may not use {call.name!r}")  # noqa: TRY301
                async with asyncio.timeout(TOOL_S_MAX):
                    return await self._tools[call.name].call(call.arguments, context)
            except TimeoutError:
                failure = f"took longer than {TOOL_S_MAX:g} s"
            except ToolFailedError as error:
                failure = error.detail
            span.note(failed=True)
            return refusal(call, failure)

    def _permission(self, agent: AgentConfig, name: str) -> Permission | None:
        """Return whether the agent may use a tool; None: it has none of that name."""
        tool = self._tools.get(name) if name in agent.tools else None
        return None if tool is None else permission_of(agent, tool)

    def _is_once(self, agent: AgentConfig, call: ToolCall) -> bool:
        """Tell whether the same answer to somebody else would need the call to be made again."""
        tool = self._tools.get(call.name)
        changes = tool is not None and tool.effect is not Effect.READ
        return changes or self._permission(agent, call.name) is Permission.ASK

    def _quote(self, request: Request, passages: Sequence[Passage]) -> list[Delta]:
        """Return the words of the best passage with their place, or "I don't know"."""
        question = question_of(request.messages)
        citation = self._quoter(question, passages)
        if citation is None:
            return [Text(unknown(question))]
        return [Text(quoted(citation)), Cited((citation,))]


def kind_of(tool: str) -> StepKind:
    """Return what a call of the tool is in a journal."""
    return StepKind.RETRIEVAL if tool == "search" else StepKind.TOOL


def _check(request: Request) -> None:
    """Refuse what would reach past the agent into its own talk with its model."""
    if request.tools:
        raise BadRequestError(
            f"agent {request.model!r} brings its own tools: leave `tools` out", param="tools"
        )
    for name, value in request.sampling.options.items():
        if name in OWN_OPTIONS and value != "auto":
            raise BadRequestError(
                f"agent {request.model!r} decides that itself: leave `{name}` out", param=name
            )
