"""Deltas become items and events, in the order of the specification."""

import json
from collections.abc import Iterable
from typing import Any

import pytest

from murmurate.core.errors import EngineFailedError
from murmurate.core.types import Cited, Delta, Finished, FinishReason, Text, ToolCall, Usage
from murmurate.gateway.responses.body import ResponseBody
from murmurate.gateway.responses.output import Event, Output, frames
from murmurate.gateway.responses.resource import Resource
from murmurate.gateway.responses.terms import opened
from tests.gateway.test_chat import CITATION

ID = "resp_01m7zx323afh1rfg2db7a1g2nz"
MESSAGE = "msg_01m7zx323afh1rfg2db7a1g2nz_0"
DONE = Finished(FinishReason.STOP)
CUT = Finished(FinishReason.LENGTH)


def response(**fields: Any) -> Resource:
    return opened(ResponseBody(model="tiny", input="hi", **fields), ID, 1000)


def told(events: Iterable[Event]) -> list[dict[str, Any]]:
    """Return events as a client reads them."""
    blocks = frames(events).decode().split("\n\n")[:-1]
    return [json.loads(block.split("\ndata: ", 1)[1]) for block in blocks]


def stream(*deltas: Delta) -> list[dict[str, Any]]:
    """Return all events of an answer."""
    output = Output(response())
    events = output.opening()
    for delta in deltas:
        events += output.take(delta)
    return told([*events, *output.ending(output.whole(1002))])


def test_the_events_of_an_answer_have_one_order() -> None:
    events = stream(Text("Hel"), Text("lo"), Usage(3, 2, 1), DONE)
    assert [event["type"] for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(10))
    place = {"item_id": MESSAGE, "output_index": 0, "content_index": 0}
    assert events[2]["item"] == {
        "type": "message",
        "id": MESSAGE,
        "status": "in_progress",
        "role": "assistant",
        "content": [],
    }
    empty = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    whole = empty | {"text": "Hello"}
    assert events[3].items() >= {**place, "part": empty}.items()
    assert [event["delta"] for event in events[4:6]] == ["Hel", "lo"]
    assert all(event.items() >= place.items() for event in events[3:8])
    assert events[6]["text"] == "Hello"
    assert events[7]["part"] == whole
    item = events[2]["item"] | {"status": "completed", "content": [whole]}
    assert events[8]["item"] == item
    assert events[9]["response"]["output"] == [item]


def test_a_frame_has_its_events_type_as_its_name() -> None:
    [created, *_] = frames(Output(response()).opening()).split(b"\n\n")
    assert created.startswith(b'event: response.created\ndata: {"type":"response.created",')


def test_the_response_is_in_progress_until_it_is_complete() -> None:
    events = stream(Text("hi"), Usage(3, 2, 1), DONE)
    for event in events[:2]:
        assert event["response"]["status"] == "in_progress"
        assert event["response"]["output"] == []
        assert event["response"]["usage"] is None
    end = events[-1]["response"]
    assert (end["status"], end["completed_at"]) == ("completed", 1002)
    assert end["usage"] == {
        "input_tokens": 3,
        "input_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 0},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 5,
    }


def test_a_call_comes_whole_and_closes_the_words_before_it() -> None:
    calls = (ToolCall("c1", "now", '{"a":1}'), ToolCall("c2", "then", "{}"))
    events = stream(Text("Well"), *calls, Usage(1, 1), Finished(FinishReason.TOOL_CALLS))
    assert [event["type"] for event in events[4:]] == [
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        *(
            "response.output_item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
        )
        * 2,
        "response.completed",
    ]
    added, delta, done, item = events[8:12]
    call = {
        "type": "function_call",
        "id": MESSAGE.replace("msg", "fc")[:-1] + "1",
        "call_id": "c1",
        "name": "now",
    }
    assert added["item"] == {**call, "arguments": "", "status": "in_progress"}
    assert delta["delta"] == done["arguments"] == '{"a":1}'
    assert delta["item_id"] == done["item_id"] == call["id"]
    assert done["name"] == "now"
    assert item["item"] == {**call, "arguments": '{"a":1}', "status": "completed"}
    assert [event["output_index"] for event in events[8:16]] == [1] * 4 + [2] * 4
    output = events[-1]["response"]["output"]
    assert [it["type"] for it in output] == ["message", "function_call", "function_call"]


def test_words_behind_a_call_are_another_message() -> None:
    events = stream(ToolCall("c1", "now", "{}"), Text("so"), DONE)
    output = events[-1]["response"]["output"]
    assert [it["type"] for it in output] == ["function_call", "message"]
    assert output[1]["id"].endswith("_1")
    assert output[1]["content"][0]["text"] == "so"


def test_citations_are_annotations_of_the_words_before_them() -> None:
    events = stream(Text("It is so."), Cited((CITATION, CITATION)), DONE)
    added = [e for e in events if e["type"] == "response.output_text.annotation.added"]
    assert [event["annotation_index"] for event in added] == [0, 1]
    assert added[0]["annotation"] == {
        "type": "file_citation",
        "file_id": CITATION.document,
        "filename": CITATION.path,
        "index": 9,
        "start_index": CITATION.start,
        "end_index": CITATION.end,
        "first_line": CITATION.line_first,
        "last_line": CITATION.line_last,
        "page": CITATION.page,
        "quote": CITATION.quote,
        "score": round(CITATION.score, 4),
    }
    [message] = events[-1]["response"]["output"]
    assert message["content"][0]["annotations"] == [event["annotation"] for event in added]


def test_an_answer_without_a_word_is_an_empty_message() -> None:
    events = stream(DONE)
    assert "response.output_text.delta" not in [event["type"] for event in events]
    [message] = events[-1]["response"]["output"]
    assert message["content"][0]["text"] == ""


def test_an_answer_that_is_too_long_is_incomplete_with_its_last_item() -> None:
    *_, done, end = stream(Text("and so"), CUT)
    assert done["item"]["status"] == "incomplete"
    assert end["type"] == "response.incomplete"
    assert end["response"]["status"] == "incomplete"
    assert end["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert end["response"]["completed_at"] is None


def test_an_error_is_told_nested_and_flat_and_then_the_response_has_failed() -> None:
    output = Output(response())
    events = [*output.opening(), *output.take(Text("Hel"))]
    error = EngineFailedError("broke off")
    failed = output.broken(error)
    *_, trouble, end = told([*events, output.trouble(error), *output.ending(failed)])
    assert trouble == {
        "type": "error",
        "sequence_number": 5,
        "code": "engine.failed",
        "message": "broke off",
        "param": None,
        "error": {
            "type": "server_error",
            "code": "engine.failed",
            "message": "broke off",
            "param": None,
        },
    }
    assert (end["type"], end["sequence_number"]) == ("response.failed", 6)
    assert end["response"]["error"] == {"code": "engine.failed", "message": "broke off"}
    [message] = end["response"]["output"]
    assert (message["status"], message["content"][0]["text"]) == ("incomplete", "Hel")


def test_a_call_that_is_not_allowed_is_the_models_fault() -> None:
    output = Output(response(), allowed=frozenset({"now"}))
    output.take(ToolCall("c1", "now", "{}"))
    with pytest.raises(EngineFailedError, match="'then', which `tool_choice` does not allow"):
        output.take(ToolCall("c2", "then", "{}"))
