"""The input of a request as items: checked, and each with an id by which it can be found. Pure."""

from murmurate.gateway.responses.body import ItemBody, PartBody, need, refused
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
)


def items_of(
    given: str | list[ItemBody] | None, suffix: str, *, field: str = "input"
) -> list[Item | str]:
    """Return the input as items; a text stands for the id of an item that is referred to."""
    if given is None:
        return []
    if isinstance(given, str):
        given = [ItemBody(role="user", content=given)]
    return [
        _item(item, f"{field}[{index}]", f"{suffix}_i{index}") for index, item in enumerate(given)
    ]


def _item(body: ItemBody, where: str, name: str) -> Item | str:
    match body.type or ("message" if body.role is not None else "item_reference"):
        case "message":
            return _message(body, where, name)
        case "function_call":
            return CallItem(
                id=body.id or f"fc_{name}",
                call_id=need(body.call_id, f"{where}.call_id"),
                name=need(body.name, f"{where}.name"),
                arguments=need(body.arguments, f"{where}.arguments"),
                status="completed",
            )
        case "function_call_output":
            return _result(body, where, name)
        case "reasoning":
            return ReasoningItem(
                body.id or f"rs_{name}",
                tuple(SummaryText(part.text or "") for part in body.summary or ()),
                tuple(ReasoningText(p.text or "") for p in body.content or () if p.text)
                if not isinstance(body.content, str)
                else (),
                body.encrypted_content,
            )
        case "compaction":
            return _compaction(body, where, name)
        case "item_reference":
            return need(body.id, f"{where}.id")
        case other:
            raise refused(
                f"{where}.type",
                f"{other[:64]!r}: expected message, function_call, function_call_output, reasoning,"
                " compaction or item_reference",
            )


def _message(body: ItemBody, where: str, name: str) -> MessageItem:
    role: Speaker = need(body.role, f"{where}.role")
    content = need(body.content, f"{where}.content")
    mine = OutputText if role == "assistant" else InputText
    parts: list[Content] = []
    for index, part in enumerate([PartBody(text=content)] if isinstance(content, str) else content):
        place = f"{where}.content[{index}]"
        if part.type == "refusal" and role == "assistant":
            parts.append(Refusal(need(part.refusal, f"{place}.refusal")))
        else:
            parts.append(mine(_text(part, place)))
    return MessageItem(body.id or f"msg_{name}", "completed", role, tuple(parts))


def _result(body: ItemBody, where: str, name: str) -> ResultItem:
    output = need(body.output, f"{where}.output")
    if not isinstance(output, str):
        output = tuple(
            InputText(_text(part, f"{where}.output[{index}]")) for index, part in enumerate(output)
        )
    call_id = need(body.call_id, f"{where}.call_id")
    return ResultItem(body.id or f"fco_{name}", call_id, output, "completed")


def _compaction(body: ItemBody, where: str, name: str) -> CompactionItem:
    place = f"{where}.encrypted_content"
    item = CompactionItem(body.id or f"cmp_{name}", need(body.encrypted_content, place))
    try:
        _ = item.text
    except ValueError as cause:
        raise refused(place, "this server did not write it") from cause
    return item


def _text(part: PartBody, where: str) -> str:
    if part.type not in {"input_text", "output_text", "text"}:
        raise refused(f"{where}.type", f"{part.type[:64]!r}: only text is understood here")
    return need(part.text, f"{where}.text")
