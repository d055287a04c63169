"""What a run did and what its replay did, side by side. Pure."""

from collections.abc import Iterator, Sequence
from enum import StrEnum

import msgspec

from murmurate.core.journal import StepKind
from murmurate.core.types import Cited, Delta, Frozen, Text, ToolCall
from murmurate.jobs.entries import Answer, Failed, StepDone


class Verdict(StrEnum):
    """How a step, or the answer, is in the replay."""

    SAME = "same"
    OTHER_ARGUMENTS = "other arguments"
    OTHER_REPLY = "other reply"
    OTHER_ANSWER = "other answer"
    MISSING = "missing"
    ADDITIONAL = "additional"
    NOT_REACHED = "not reached"


class Again(Frozen, frozen=True):
    """A step of a replay. `past` is the number of the step whose place it took."""

    kind: StepKind
    name: str
    arguments: str = ""
    past: int | None = None
    reply: bytes | None = None
    """What a model said, as a journal keeps it; None where it said nothing to the end."""


class StepChange(Frozen, frozen=True, omit_defaults=True):
    """A step of the run, of the replay, or of both; `was` and `now` where they differ."""

    verdict: Verdict
    kind: StepKind
    name: str
    number: int | None = None
    """Its number in the run; None for an additional one."""
    was: str | None = None
    now: str | None = None
    stopped: bool = False
    """Nothing is recorded for this call, so the replay went no further."""


class AnswerChange(Frozen, frozen=True, omit_defaults=True):
    """What was answered, or why nothing was; `was` and `now` where they differ."""

    verdict: Verdict
    was: str | None = None
    now: str | None = None


def step_changes(
    record: Sequence[StepDone], again: Sequence[Again], *, stopped: bool
) -> tuple[StepChange, ...]:
    """Return all steps of both, those of the run in its order, each once.

    A call that found no record is held against the run's next call of that tool that was not made
    again: it has other arguments. Where there is none, it is additional.
    """
    left = {step.number: step for step in sorted(record, key=lambda it: it.number)}
    taken = [(step, None if step.past is None else left.pop(step.past)) for step in again]
    rows: list[StepChange] = []
    for step, past in taken:
        meant = past or next((it for it in left.values() if _is_meant(it, step)), None)
        if meant is not None:
            left.pop(meant.number, None)
            rows += [_missing(left.pop(n)) for n in [*left] if n < meant.number]
        rows.append(_change(step, meant))
    rows += [
        _missing(it, Verdict.NOT_REACHED if stopped else Verdict.MISSING) for it in left.values()
    ]
    return tuple(rows)


def answer_change(was: Answer | Failed | None, now: Answer | Failed | None) -> AnswerChange:
    """Return how the answers differ; None for what was cancelled, or stopped on its way."""
    before, after = _words(was), _words(now)
    if now is None:
        return AnswerChange(Verdict.NOT_REACHED, was=before)
    if before == after:
        return AnswerChange(Verdict.SAME)
    return AnswerChange(Verdict.OTHER_ANSWER, was=before, now=after)


def canonical(arguments: str) -> str:
    """Return a call's arguments in one way of writing them; what is no JSON stays as it is."""
    try:
        value = msgspec.json.decode(arguments)
    except msgspec.DecodeError:
        return arguments
    return msgspec.json.encode(value, order="sorted").decode()


def _is_meant(recorded: StepDone, step: Again) -> bool:
    return (recorded.kind, recorded.name) == (step.kind, step.name) != (StepKind.MODEL, step.name)


def _change(step: Again, past: StepDone | None) -> StepChange:
    """Return how one step of the replay differs from that of the run."""
    is_model = step.kind is StepKind.MODEL
    now = _reply(step.reply) if is_model else canonical(step.arguments)
    if past is None:
        return StepChange(Verdict.ADDITIONAL, step.kind, step.name, now=now, stopped=not is_model)
    was = _said(past)
    place = (step.kind, step.name, past.number)
    if was == now:
        return StepChange(Verdict.SAME, *place)
    verdict = Verdict.OTHER_REPLY if is_model else Verdict.OTHER_ARGUMENTS
    return StepChange(verdict, *place, was=was, now=now, stopped=not is_model)


def _missing(step: StepDone, verdict: Verdict = Verdict.MISSING) -> StepChange:
    return StepChange(verdict, step.kind, step.name, step.number, was=_said(step))


def _said(step: StepDone) -> str | None:
    """Return what a model replied, or what a tool was called with."""
    is_model = step.kind is StepKind.MODEL
    return _reply(bytes(step.outcome)) if is_model else canonical(step.arguments)


def _reply(kept: bytes | None) -> str | None:
    """Return what a model said, as people read it: its words, then its calls, without their ids."""
    if kept is None:
        return None
    return "\n".join(_lines(msgspec.json.decode(kept, type=list[Delta])))


def _lines(deltas: Sequence[Delta]) -> Iterator[str]:
    for delta in deltas:
        match delta:
            case Text(text):
                yield text
            case ToolCall(name=name, arguments=arguments):
                yield f"{name}({canonical(arguments)})"
            case Cited():
                yield from _places(delta)
            case _:
                pass


def _words(answer: Answer | Failed | None) -> str | None:
    """Return an answer as people read it, with the places that it cites and how it ended."""
    match answer:
        case None:
            return None
        case Failed(code, detail):
            return f"failed: {code}: {detail}"
        case Answer(text, reason, _, citations):
            ended = () if reason == "stop" else (f"[ended: {reason.value}]",)
            return "\n".join([text, *_places(Cited(citations)), *ended])


def _places(cited: Cited) -> Iterator[str]:
    for it in cited.citations:
        yield f"[{it.path}, lines {it.line_first}-{it.line_last}: {it.quote}]"
