"""Items as a model sees them."""

from collections.abc import Sequence

import msgspec
import pytest

from murmurate.core.errors import BadRequestError
from murmurate.core.types import (
    CallPart,
    Message,
    Origin,
    OriginKind,
    ResultPart,
    Role,
    TextPart,
)
from murmurate.gateway.responses.items import (
    CallItem,
    CompactionItem,
    Content,
    InputText,
    Item,
    MessageItem,
    OutputText,
    ReasoningItem,
    ReasoningText,
    Refusal,
    ResultItem,
    Speaker,
    SummaryText,
    encoded,
    messages_of,
    since_question,
)
from tests.fakes import user


def says(role: Speaker, *content: Content) -> MessageItem:
    return MessageItem("msg_1", "completed", role, content)


HI = says("user", InputText("hi"))
CALL = CallItem("fc_1", "c1", "now", "{}", "completed")
RESULT = ResultItem("fco_1", "c1", "noon", "completed")


def model(text: str) -> TextPart:
    return TextPart(text, Origin(OriginKind.MODEL))


def test_instructions_come_first_and_developers_are_systems() -> None:
    [first, second, third] = messages_of("Be brief.", [says("developer", InputText("Or not.")), HI])
    assert (first.role, first.text) == (Role.SYSTEM, "Be brief.")
    assert (second.role, second.text) == (Role.SYSTEM, "Or not.")
    assert third == user("hi")


def test_a_call_and_the_words_before_it_are_one_message() -> None:
    second = msgspec.structs.replace(CALL, call_id="c2")
    results = [RESULT, msgspec.structs.replace(RESULT, call_id="c2")]
    said = messages_of(None, [HI, says("assistant", OutputText("Well")), CALL, second, *results])
    parts = (model("Well"), CallPart("c1", "now", "{}"), CallPart("c2", "now", "{}"))
    assert said[1] == Message(Role.ASSISTANT, parts)
    origin = Origin(OriginKind.TOOL, "now")
    assert said[2] == Message(Role.TOOL, (ResultPart("c1", "noon", origin),))
    assert [message.role for message in said[2:]] == [Role.TOOL, Role.TOOL]


def test_a_call_without_words_is_a_message_of_its_own() -> None:
    assert messages_of(None, [HI, CALL, RESULT])[1].parts == (CallPart("c1", "now", "{}"),)


def test_refusals_and_pieces_are_words_and_reasoning_is_none() -> None:
    thought = ReasoningItem("rs_1", (SummaryText("hm"),), (ReasoningText("let me see"),), "x")
    said = says("assistant", OutputText("I "), Refusal("won't"))
    pieces = ResultItem("fco_1", "c1", (InputText("no"), InputText("on")), "completed")
    [_, answer, _] = messages_of(None, [HI, thought, said, HI])
    [_, _, result] = messages_of(None, [HI, CALL, pieces, thought])
    assert answer.parts == (model("I won't"),)
    assert isinstance(result.parts[0], ResultPart)
    assert result.parts[0].text == "noon"


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([], "at the end"),
        ([says("assistant", OutputText("so"))], "at the end"),
        ([says("system", InputText("so"))], "at the end"),
        ([HI, RESULT], "no function call has the call_id 'c1'"),
        ([RESULT, CALL, HI], "no function call has the call_id 'c1'"),
        ([HI, CALL, HI], "no function_call_output for the call 'c1'"),
    ],
)
def test_a_conversation_that_makes_no_sense_is_refused(items: Sequence[Item], words: str) -> None:
    with pytest.raises(BadRequestError, match=words) as refused:
        messages_of(None, items)
    assert refused.value.param == "input"


def test_a_result_may_answer_a_call_of_the_session_that_is_continued() -> None:
    [message] = messages_of(None, [RESULT], continues=True)
    assert message.parts == (ResultPart("c1", "noon", Origin(OriginKind.TOOL)),)


def test_a_summary_is_the_models_word() -> None:
    shortened = CompactionItem.of("cmp_1", "Alice asked for 木.")
    assert shortened.text == "Alice asked for 木."
    first, second = messages_of(None, [shortened, HI])
    assert first.parts == (model("What was said before, in short:\nAlice asked for 木."),)
    assert second == user("hi")


def test_a_conversation_that_was_cut_begins_with_a_question() -> None:
    assert since_question([RESULT, says("assistant", OutputText("so")), HI, CALL]) == [HI, CALL]
    assert since_question([RESULT]) == ()


def test_items_are_read_as_they_were_written() -> None:
    thought = ReasoningItem("rs_1", (SummaryText("hm"),))
    items: list[Item] = [HI, CALL, RESULT, thought, CompactionItem.of("cmp_1", "so")]
    again = [msgspec.json.decode(bytes(raw), type=Item) for raw in encoded(items)]
    assert again == items
