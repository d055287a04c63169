"""Which calls an agent may make, and what its model hears of those that it may not. Pure."""

import msgspec

from murmurate.agents.ports import AgentTool, Effect, ToolResult
from murmurate.config import AgentConfig, Permission
from murmurate.core.journal import Decision
from murmurate.core.types import Origin, OriginKind, ToolCall


def permission_of(agent: AgentConfig, tool: AgentTool) -> Permission:
    """Return what the agent's configuration says; without a word, whatever has effects asks."""
    default = Permission.ALLOW if tool.effect is Effect.READ else Permission.ASK
    return agent.permissions.get(tool.spec.name, default)


def denial(call: ToolCall, outcome: bytes) -> ToolResult | None:
    """Return what comes of a call that was decided; None: it is to be made."""
    decision = msgspec.json.decode(outcome, type=Decision)
    if decision.approved:
        return None
    reason = f": {decision.reason}" if decision.reason else ""
    return refusal(call, f"the call of {call.name!r} was denied{reason}")


def refusal(call: ToolCall, why: str) -> ToolResult:
    """Return what a model hears of a call that came to nothing."""
    text = msgspec.json.encode({"error": why}).decode()
    return ToolResult(text, Origin(OriginKind.TOOL, call.name), failed=True)
