"""Fakes of the ports that models need, and a short way to write a request."""

import asyncio
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import contextmanager
from typing import Any

from murmurate.core.ports import Model
from murmurate.core.types import (
    Delta,
    Message,
    Origin,
    OriginKind,
    Request,
    ResultPart,
    Role,
    TextPart,
    TraceRef,
)

TRACE = TraceRef("0" * 31 + "1")


class FakeClock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.time_s = 0.0
        self.slept_s: list[float] = []

    def now_s(self) -> float:
        return self.time_s

    def unix_ms(self) -> int:
        return round(self.time_s * 1000)

    async def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.time_s += seconds
        await asyncio.sleep(0)


class FakeSpan:
    def __init__(self, name: str, attributes: dict[str, Any]) -> None:
        self.name = name
        self.attributes = attributes
        self.ref = TraceRef(TRACE.trace_id, name)

    def note(self, **attributes: str | float | bool) -> None:
        self.attributes.update(attributes)


class FakeTracer:
    def __init__(self) -> None:
        self.spans: list[FakeSpan] = []

    @contextmanager
    def span(
        self, parent: TraceRef, name: str, **attributes: str | float | bool
    ) -> Generator[FakeSpan]:
        self.spans.append(FakeSpan(name, dict(attributes)))
        yield self.spans[-1]

    @property
    def facts(self) -> list[dict[str, Any]]:
        return [span.attributes for span in self.spans]


class FakeModel:
    """Yields what it was given; an exception among it is raised. Remembers who asked and closed."""

    def __init__(self, *deltas: Delta | Exception) -> None:
        self.deltas = deltas
        self.asked: list[Request] = []
        self.closed = 0

    async def answer(self, request: Request) -> AsyncGenerator[Delta]:
        self.asked.append(request)
        try:
            for delta in self.deltas:
                if isinstance(delta, Exception):
                    raise delta
                yield delta
        finally:
            self.closed += 1


def user(text: str) -> Message:
    return Message(Role.USER, (TextPart(text, Origin(OriginKind.USER)),))


def result(call_id: str, text: str) -> Message:
    return Message(Role.TOOL, (ResultPart(call_id, text, Origin(OriginKind.TOOL)),))


def ask(*messages: str | Message, **fields: Any) -> Request:
    turns = tuple(user(it) if isinstance(it, str) else it for it in messages or ("hello",))
    defaults: dict[str, Any] = {"id": "req", "tenant": "a", "model": "tiny", "trace": TRACE}
    return Request(messages=turns, **{**defaults, **fields})


async def all_of(model: Model, request: Request) -> Sequence[Delta]:
    return [delta async for delta in model.answer(request)]
