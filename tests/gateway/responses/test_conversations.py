"""Conversations in the log."""

import pytest

from murmurate.adapters.memory import MemoryLog
from murmurate.core.errors import BadRequestError, LogCorruptError, NotFoundError
from murmurate.core.ports import Entry
from murmurate.gateway.responses.conversations import (
    Begun,
    Conversations,
    Kind,
    added,
    item_of,
    stream_of,
)
from murmurate.gateway.responses.items import (
    CallItem,
    InputText,
    Item,
    MessageItem,
    OutputText,
    ResultItem,
)
from tests.fakes import FakeClock
from tests.gateway.client import run

ID = "conv_1"


def asks(number: int, words: str = "?") -> Item:
    return MessageItem(f"msg_{number}", "completed", "user", (InputText(words),))


def says(number: int, words: str = "!") -> Item:
    return MessageItem(f"msg_{number}", "completed", "assistant", (OutputText(words),))


class Stage:
    """A log, and conversations in it."""

    def __init__(self, **bounds: int) -> None:
        self.log = MemoryLog(clock=FakeClock())
        self.conversations = Conversations(self.log, **bounds)

    async def begin(self, *items: Item) -> None:
        await self.conversations.begin("a", ID, Begun({"a": "b"}, items))

    async def ids(self) -> list[str]:
        return [item.id for item in (await self.conversations.read("a", ID)).items]


def test_a_conversation_has_its_items_in_their_order() -> None:
    async def story() -> None:
        stage = Stage()
        await stage.begin(asks(1))
        await stage.conversations.add("a", ID, [says(2), asks(3)])
        await stage.log.append([added("a", ID, [asks(1), says(4)])])
        assert await stage.ids() == ["msg_1", "msg_2", "msg_3", "msg_4"], "what was there stays"
        talk = await stage.conversations.read("a", ID)
        assert (talk.conversation.created_at, talk.conversation.metadata) == (1000, {"a": "b"})
        assert item_of(talk, "msg_2") == says(2)

    run(story)


def test_what_is_changed_is_changed() -> None:
    async def story() -> None:
        stage = Stage()
        await stage.begin(asks(1), says(2))
        updated = await stage.conversations.update("a", ID, {"c": "d"})
        assert updated.metadata == {"c": "d"}
        assert (await stage.conversations.drop("a", ID, "msg_1")).metadata == {"c": "d"}
        assert await stage.ids() == ["msg_2"]
        with pytest.raises(NotFoundError, match="conv_1 has no item 'msg_1'"):
            await stage.conversations.drop("a", ID, "msg_1")

    run(story)


def test_what_is_forgotten_is_gone_whatever_comes_late() -> None:
    async def story() -> None:
        stage = Stage()
        await stage.begin(asks(1))
        await stage.conversations.forget("a", ID)
        for late in (None, added("a", ID, [says(2)])):
            if late is not None:
                await stage.log.append([late])
            with pytest.raises(NotFoundError, match="no conversation 'conv_1'"):
                await stage.conversations.read("a", ID)

    run(story)


def test_it_belongs_to_its_tenant() -> None:
    async def story() -> None:
        stage = Stage()
        await stage.begin()
        with pytest.raises(NotFoundError):
            await stage.conversations.read("b", ID)

    run(story)


def test_an_item_is_added_once() -> None:
    async def story() -> None:
        stage = Stage()
        await stage.begin(asks(1))
        with pytest.raises(BadRequestError, match="an item 'msg_1' already") as twice:
            await stage.conversations.add("a", ID, [says(2), asks(1)])
        assert twice.value.param == "items[1].id"
        assert await stage.ids() == ["msg_1"]

    run(story)


@pytest.mark.parametrize("bound", [{"items_max": 2}, {"bytes_max": 330}])
def test_a_full_conversation_takes_nothing_more(bound: dict[str, int]) -> None:
    async def story() -> None:
        stage = Stage(**bound)
        await stage.begin(asks(1))
        await stage.conversations.add("a", ID, [says(2)])
        with pytest.raises(BadRequestError, match="conv_1 is full: it has 2 items"):
            await stage.conversations.add("a", ID, [asks(3)])

    run(story)


def test_what_is_too_long_is_cut_before_a_question_or_refused() -> None:
    async def story() -> None:
        stage = Stage(told_bytes_max=600)
        call = CallItem("fc_4", "c1", "now", "{}", "completed")
        result = ResultItem("fco_5", "c1", "noon", "completed")
        await stage.begin(asks(1), says(2, "!" * 300), asks(3), call, result, says(6))
        talk = await stage.conversations.read("a", ID)
        told = stage.conversations.history(talk, may_cut=True)
        assert [item.id for item in told] == ["msg_3", "fc_4", "fco_5", "msg_6"]
        with pytest.raises(BadRequestError, match="more than 600 bytes"):
            stage.conversations.history(talk, may_cut=False)
        await stage.conversations.add("a", ID, [says(7, "!" * 300)])
        talk = await stage.conversations.read("a", ID)
        assert stage.conversations.history(talk, may_cut=True) == (), "no result loses its call"

    run(story)


def test_what_is_short_is_told_whole() -> None:
    async def story() -> None:
        stage = Stage()
        await stage.begin(asks(1), says(2))
        talk = await stage.conversations.read("a", ID)
        assert stage.conversations.history(talk, may_cut=False) == talk.items

    run(story)


def test_damage_is_said_and_a_later_versions_word_is_not() -> None:
    async def story() -> None:
        stage = Stage()
        await stage.begin(asks(1))
        await stage.log.append([Entry("a", stream_of(ID), "conversation.later", b"{}")])
        assert await stage.ids() == ["msg_1"]
        await stage.log.append([Entry("a", stream_of(ID), Kind.ITEMS.value, b"{}")])
        with pytest.raises(LogCorruptError, match="entry 3 of conv_1"):
            await stage.conversations.read("a", ID)

    run(story)
