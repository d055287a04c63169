"""What happens in a run, in lines that people read. Pure."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from murmurate.agents.ports import ToolResult
from murmurate.cli.client import STRANGE, RefusedError
from murmurate.core.journal import Decision, StepKind
from murmurate.core.types import Delta, Role, Text, ToolCall
from murmurate.jobs.entries import Answer, Asked, Begun, Failed, Kind, StepDone, Stumbled
from murmurate.jobs.views import RunEvent, RunView

_T = TypeVar("_T")

SHORT_CHARS = 72
ENDS = {Kind.FINISHED.value, Kind.FAILED.value, Kind.CANCELLED.value}


def typed(answer: Any, kind: type[_T]) -> _T:  # noqa: ANN401 - what JSON gave
    """Return what the server sent as the type that it should have, or say that it is strange."""
    return _decoded(json.dumps(answer).encode(), kind)


def run_lines(run: RunView) -> list[str]:
    """Return a run as a tree of its steps, and below it the answer or why there is none."""
    facts = [f"took {took(run.began_ms, run.ended_ms)}"] if run.ended_ms else []
    facts += [f"session {run.session}"] if run.session else []
    asked = [message.text for message in run.messages if message.role is Role.USER]
    began = f"{datetime.fromtimestamp(run.began_ms / 1000, UTC).astimezone():%Y-%m-%d %H:%M:%S}"
    lines = [
        f"{run.id}  {run.model}  {run.status}",
        ", ".join([f"began {began}", *facts]),
        *(f"question: {short(text)}" for text in asked[-1:]),
        *step_tree(run.steps),
        *(f"asks: {asks}" for asks in map(asked_line, run.asked)),
    ]
    if run.asked:
        decided = "murmurate runs approve, or deny"
        lines += ["", f"{decided}, {run.id} (--step NUMBER, where it asks for several)"]
    if run.answer is not None:
        lines += ["", run.answer.text]
    if run.error is not None:
        lines += ["", failed(run.error), f"murmurate runs resume {run.id} tries again"]
    return lines


def step_tree(steps: Sequence[StepDone]) -> list[str]:
    """Return the steps in their order, each call below the reply that made it."""
    replies: list[tuple[StepDone, list[StepDone]]] = []
    for step in sorted(steps, key=lambda it: it.number):
        if step.kind is StepKind.MODEL or not replies:
            replies.append((step, []))
        else:
            replies[-1][1].append(step)
    lines: list[str] = []
    for step, calls in replies:
        is_last = step is replies[-1][0]
        lines.append(f"{'└─' if is_last else '├─'} {step_line(step)}")
        stem = "   " if is_last else "│  "
        lines += [f"{stem}{'└─' if it is calls[-1] else '├─'} {step_line(it)}" for it in calls]
    return lines


def step_line(step: StepDone) -> str:
    """Return a step in a line: its number, what it was, and what it came to."""
    called = f"({short(step.arguments)})" if step.arguments else ""
    return f"{step.number} {step.kind.value} {short(step.name)}{called}: {outcome(step)}"


def asked_line(asked: Asked) -> str:
    """Return what somebody must decide: the number of its step, and the call."""
    return f"{asked.number} {short(asked.name)}({short(asked.arguments)})"


def outcome(step: StepDone) -> str:
    """Return what a step came to, in few words."""
    raw = bytes(step.outcome)
    match step.kind:
        case StepKind.MODEL:
            deltas = _decoded(raw, list[Delta])
            text = "".join(delta.text for delta in deltas if isinstance(delta, Text))
            calls = [short(delta.name) for delta in deltas if isinstance(delta, ToolCall)]
            said = [f'"{short(text)}"'] if text or not calls else []
            return ", ".join(said + ([f"calls {', '.join(calls)}"] if calls else []))
        case StepKind.TOOL | StepKind.RETRIEVAL:
            result = _decoded(raw, ToolResult)
            if result.failed:
                return f"failed: {short(result.text)}"
            if result.passages is None:
                return short(result.text)
            count = len(result.passages)
            return "1 passage" if count == 1 else f"{count} passages"
        case StepKind.APPROVAL:
            decision = _decoded(raw, Decision)
            how = "approved" if decision.approved else "denied"
            by = "" if decision.by is None else f" by {short(decision.by)}"
            return short(f"{how}{by}{': ' if decision.reason else ''}{decision.reason}")


def event_line(event: RunEvent) -> str | None:
    """Return what happened, and when; None for what only servers need to know."""
    said = _said(event)
    if said is None:
        return None
    return f"{datetime.fromtimestamp(event.at_ms / 1000, UTC).astimezone():%H:%M:%S}  {said}"


def _said(event: RunEvent) -> str | None:
    body = bytes(event.body)
    match event.kind:
        case Kind.BEGUN:
            request = _decoded(body, Begun).request
            asked = [message.text for message in request.messages if message.role is Role.USER]
            return f"began: {request.model}, asked {short(asked[-1] if asked else '')!r}"
        case Kind.STEP:
            return step_line(_decoded(body, StepDone))
        case Kind.ASKED:
            return f"asks: {asked_line(_decoded(body, Asked))}: murmurate runs approvals"
        case Kind.STUMBLED:
            stumbled = _decoded(body, Stumbled)
            wait_s = max(stumbled.again_ms - event.at_ms, 0) / 1000
            return f"stumbled: {stumbled.code}: {short(stumbled.detail)}; again in {wait_s:.1f} s"
        case Kind.FAILED:
            return failed(_decoded(body, Failed))
        case Kind.CANCEL:
            return "asked to stop"
        case Kind.READ:
            return None
        case _:
            return short(event.kind.removeprefix("run."))


def answer_of(event: RunEvent) -> str | None:
    """Return the answer, if this is the event that brings it."""
    return _decoded(bytes(event.body), Answer).text if event.kind == Kind.FINISHED else None


def failed(failure: Failed) -> str:
    """Return why a run was given up."""
    return f"failed: {failure.code}: {short(failure.detail, chars=500)}"


def took(began_ms: int, ended_ms: int | None) -> str:
    """Return how long something took, as people say it."""
    if ended_ms is None:
        return "–"
    minutes, seconds = divmod(max(ended_ms - began_ms, 0) / 1000, 60)
    if not minutes:
        return f"{seconds:.1f} s"
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds:.0f} s"


def short(text: str, *, chars: int = SHORT_CHARS) -> str:
    """Return a text in one line of bounded length, without what would move a terminal's cursor."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= chars else f"{line[: chars - 1]}…"


def printable(line: str) -> str:
    """Return a line without control characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in line)


def _decoded(raw: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as cause:
        raise RefusedError(STRANGE) from cause
