"""What a client reads from a response: a whole object, a stream of events, or an error."""

from dataclasses import dataclass, field
from typing import Any

import msgspec

from tests.sim.connection import Call

DONE = b"[DONE]"


class ErrorBody(msgspec.Struct):
    """OpenAI's error."""

    message: str
    type: str
    param: str | None
    code: str


class Delta(msgspec.Struct):
    """What a message, or a piece of it, carries."""

    role: str | None = None
    content: str | None = None
    annotations: list[dict[str, Any]] = []
    tool_calls: list[dict[str, Any]] = []


class Choice(msgspec.Struct):
    """The only choice. A whole answer has a message, a chunk has a delta."""

    finish_reason: str | None
    message: Delta | None = None
    delta: Delta | None = None


class Chunk(msgspec.Struct):
    """An event of a stream, or a whole answer."""

    choices: list[Choice] = []
    usage: dict[str, Any] | None = None
    error: ErrorBody | None = None


@dataclass(slots=True)
class Answer:
    """What was read. `wrong` says what no server may send."""

    text: str = ""
    reason: str | None = None
    annotations: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    tool_calls: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    usage: dict[str, Any] | None = None
    error: ErrorBody | None = None
    done: bool = False
    wrong: list[str] = field(default_factory=list[str])

    def take(self, part: Delta) -> None:
        """Add a message or a piece of one."""
        self.text += part.content or ""
        self.annotations += part.annotations
        self.tool_calls += part.tool_calls


_DECODE = msgspec.json.Decoder(Chunk).decode


def read_chat(call: Call) -> Answer:
    """Read the response of a chat, in whatever form it came."""
    answer = Answer()
    if call.status == 200 and call.headers.get("content-type", "").startswith("text/event-stream"):
        _read_events(call, answer)
    elif call.ends:
        _read_whole(call, answer)
    return answer


def error_of(call: Call) -> ErrorBody | None:
    """Return the error of a refused request, None when it has not the form of one."""
    try:
        return _DECODE(b"".join(call.pieces)).error
    except msgspec.DecodeError:
        return None


def _read_whole(call: Call, answer: Answer) -> None:
    body = b"".join(call.pieces)
    if int(call.headers.get("content-length", "-1")) != len(body):
        answer.wrong.append("content-length is not the body's length")
    chunk = _DECODE(body)
    answer.error = chunk.error
    answer.usage = chunk.usage
    for choice in chunk.choices:
        answer.reason = choice.finish_reason
        if choice.message is None:
            answer.wrong.append("a whole answer without a message")
        else:
            answer.take(choice.message)
    answer.done = True


def _read_events(call: Call, answer: Answer) -> None:
    events = b"".join(call.pieces).split(b"\n\n")
    if events.pop() != b"":
        answer.wrong.append("the stream ends within an event")
    for number, event in enumerate(events):
        if answer.done or answer.error:
            answer.wrong.append("an event after the last one")
            return
        data = event.removeprefix(b"data: ")
        if data == DONE:
            answer.done = True
            continue
        chunk = _DECODE(data)
        if chunk.error is not None:
            answer.error = chunk.error
        elif chunk.choices:
            _take_chunk(chunk.choices[0], answer, opens=number == 0)
        else:
            answer.usage = chunk.usage


def _take_chunk(choice: Choice, answer: Answer, *, opens: bool) -> None:
    if answer.reason is not None:
        answer.wrong.append("a piece of the answer after its finish_reason")
    if choice.delta is None or (choice.delta.role is not None) != opens:
        answer.wrong.append("the first chunk, and only it, names the role")
    else:
        answer.take(choice.delta)
    answer.reason = choice.finish_reason
