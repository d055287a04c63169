"""Input becomes items, each with an id."""

from typing import Any

import pytest

from murmurate.core.errors import BadRequestError
from murmurate.gateway.responses.input import items_of
from murmurate.gateway.responses.items import (
    CallItem,
    CompactionItem,
    InputText,
    MessageItem,
    OutputText,
    ReasoningItem,
    ReasoningText,
    Refusal,
    ResultItem,
    SummaryText,
)
from tests.gateway.responses.test_body import body


def test_a_text_is_a_users_message() -> None:
    assert items_of(body().input, "1") == [
        MessageItem("msg_1_i0", "completed", "user", (InputText("hi"),))
    ]
    assert items_of(None, "1") == []


def test_a_message_needs_no_type_and_its_content_may_be_pieces() -> None:
    pieces = [{"type": "input_text", "text": "h"}, {"type": "input_text", "text": "i"}]
    first, second = items_of(
        body(
            input=[
                {"role": "system", "content": "so"},
                {"type": "message", "role": "user", "content": pieces, "status": "completed"},
            ]
        ).input,
        "1",
    )
    assert first == MessageItem("msg_1_i0", "completed", "system", (InputText("so"),))
    assert isinstance(second, MessageItem)
    assert second.content == (InputText("h"), InputText("i"))


def test_what_a_response_put_out_can_be_put_in_again() -> None:
    said = {
        "id": "msg_x_0",
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [
            {"type": "output_text", "text": "no", "annotations": [{"type": "url_citation"}]},
            {"type": "refusal", "refusal": "never"},
        ],
    }
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "id": "fc_x"}
    result = {"type": "function_call_output", "call_id": "c", "output": "4"}
    pieces = {**result, "output": [{"type": "input_text", "text": "4"}]}
    thought = {
        "type": "reasoning",
        "id": "rs_x",
        "summary": [{"type": "summary_text", "text": "hm"}],
        "content": [{"type": "reasoning_text", "text": "let me see"}],
        "encrypted_content": "abc",
    }
    short = {"type": "compaction", "encrypted_content": "c28="}
    assert items_of(body(input=[said, call, result, pieces, thought, short]).input, "1") == [
        MessageItem("msg_x_0", "completed", "assistant", (OutputText("no"), Refusal("never"))),
        CallItem("fc_x", "c", "f", "{}", "completed"),
        ResultItem("fco_1_i2", "c", "4", "completed"),
        ResultItem("fco_1_i3", "c", (InputText("4"),), "completed"),
        ReasoningItem("rs_x", (SummaryText("hm"),), (ReasoningText("let me see"),), "abc"),
        CompactionItem.of("cmp_1_i5", "so"),
    ]


def test_a_reference_is_the_id_of_an_item() -> None:
    given = [{"type": "item_reference", "id": "msg_x_0"}, {"id": "msg_x_1"}]
    assert items_of(body(input=given).input, "1") == ["msg_x_0", "msg_x_1"]


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({}, "input[0].id"),
        ({"type": "computer_call"}, "input[0].type"),
        ({"type": "message", "content": "hi"}, "input[0].role"),
        ({"role": "user"}, "input[0].content"),
        ({"role": "user", "content": [{"type": "input_image"}]}, "input[0].content[0].type"),
        ({"role": "user", "content": [{"type": "input_file"}]}, "input[0].content[0].type"),
        ({"role": "user", "content": [{"type": "input_text"}]}, "input[0].content[0].text"),
        ({"role": "user", "content": [{"type": "refusal"}]}, "input[0].content[0].type"),
        ({"role": "assistant", "content": [{"type": "refusal"}]}, "input[0].content[0].refusal"),
        ({"type": "function_call", "name": "f", "arguments": ""}, "input[0].call_id"),
        ({"type": "function_call", "call_id": "c", "arguments": ""}, "input[0].name"),
        ({"type": "function_call", "call_id": "c", "name": "f"}, "input[0].arguments"),
        ({"type": "function_call_output", "call_id": "c"}, "input[0].output"),
        ({"type": "function_call_output", "output": "x"}, "input[0].call_id"),
        (
            {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image"}]},
            "input[0].output[0].type",
        ),
        ({"type": "item_reference"}, "input[0].id"),
        ({"type": "compaction"}, "input[0].encrypted_content"),
        ({"type": "compaction", "encrypted_content": "gAAA!"}, "input[0].encrypted_content"),
        ({"type": "compaction", "encrypted_content": "/w=="}, "input[0].encrypted_content"),
        ({"type": "compaction", "encrypted_content": "木"}, "input[0].encrypted_content"),
    ],
)
def test_an_item_that_lacks_something_says_where(item: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequestError) as refused:
        items_of(body(input=[item]).input, "1")
    assert refused.value.param == param
    assert refused.value.detail.startswith(param)
