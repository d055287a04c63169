"""What clients ask of batches; each tenant sees its own."""

import asyncio
from typing import Any

import pytest

from murmurate.core.errors import (
    BadRequestError,
    BatchesFullError,
    BatchOverError,
    LogConflictError,
    NotFoundError,
    OverloadedError,
)
from murmurate.core.ports import Entry
from murmurate.core.types import Caller
from murmurate.jobs.batch_lines import stream_of
from murmurate.jobs.batches.service import TRIES_MAX
from murmurate.jobs.batches.state import BatchView
from murmurate.testing.stories import all_of, names_of
from tests.fakes import run_skipping_time
from tests.jobs.batches.stage import ASK, DAY_S, Echo, Server, Terms, line
from tests.jobs.stage import new_log


def quiet() -> Server:
    """Return a server that works on nothing."""
    return Server("one", new_log(), Echo())


def test_a_batch_is_shown_to_its_tenant_as_it_was_begun() -> None:
    async def story() -> None:
        server = quiet()
        batch = await server.begin(line(0), metadata={"a": "b"}, window="1h", window_ms=3_600_000)
        assert await server.batches.show("a", batch.id) == batch
        assert (batch.completion_window, batch.expires_at - batch.created_at) == ("1h", 3600)
        with pytest.raises(NotFoundError, match="there is no batch"):
            await server.batches.show("b", batch.id)
        with pytest.raises(NotFoundError):
            await server.batches.cancel("b", batch.id)
        with pytest.raises(NotFoundError):
            await server.batches.show("a", batch.id[:-1])

    asyncio.run(story())


def test_its_input_is_a_file_of_the_tenant_that_is_meant_for_it() -> None:
    async def story() -> None:
        server = quiet()
        caller = Caller("key_1", "b", ("*",))
        file = await server.put(line(0))
        with pytest.raises(NotFoundError, match="there is no file"):
            await server.batches.create(caller, endpoint=ASK, input_file_id=file.id, terms=Terms())
        other = await server.put(line(0), tenant="b", purpose="user_data")
        with pytest.raises(BadRequestError, match="has the purpose 'user_data'"):
            await server.batches.create(caller, endpoint=ASK, input_file_id=other.id, terms=Terms())

    asyncio.run(story())


def test_a_tenant_has_so_many_at_a_time_and_others_do_not_feel_it() -> None:
    async def story() -> None:
        server = quiet()
        for _ in range(3):
            await server.begin(line(0))
        with pytest.raises(BatchesFullError, match="the most is 3"):
            await server.begin(line(0))
        await server.begin(line(0), tenant="b")

    asyncio.run(story())


def test_lists_have_the_newest_first_and_come_in_pages() -> None:
    async def story() -> None:
        server = quiet()
        made: list[BatchView] = []
        for _ in range(3):
            await server.clock.sleep(0.01)
            made.insert(0, await server.begin(line(0)))
        page = await server.batches.listing("a", after=None, limit=2)
        assert (page.data, page.has_more) == (made[:2], True)
        assert (page.first_id, page.last_id) == (made[0].id, made[1].id)
        rest = await server.batches.listing("a", after=page.last_id, limit=2)
        assert (rest.data, rest.has_more) == (made[2:], False)
        none = await server.batches.listing("b", after=None, limit=2)
        assert (none.data, none.first_id, none.last_id) == ([], None, None)
        with pytest.raises(NotFoundError):
            await server.batches.listing("b", after=made[0].id, limit=2)

    asyncio.run(story())


def test_a_damaged_one_keeps_no_other_from_the_list() -> None:
    async def story() -> None:
        server = quiet()
        batch, damaged = await server.begin(line(0)), await server.begin(line(0))
        await server.wire._log.append([Entry("a", stream_of(damaged.id), "batch.state", b"?")])
        page = await server.batches.listing("a", after=None, limit=10)
        assert [it.id for it in page.data] == [batch.id]

    asyncio.run(story())


def test_what_is_over_can_not_be_cancelled() -> None:
    async def story() -> None:
        server = await Server("one", new_log(), Echo()).up()
        batch = await server.begin(line(0))
        await server.over(batch)
        with pytest.raises(BatchOverError, match="is completed"):
            await server.batches.cancel("a", batch.id)
        await server.down()

    run_skipping_time(story())


def test_a_wish_to_cancel_that_comes_second_is_made_again_and_given_up_at_last() -> None:
    async def story() -> None:
        server = quiet()
        log, rivals = server.wire._log, TRIES_MAX
        append = log.append

        async def late(entries: Any, **options: Any) -> Any:
            nonlocal rivals
            if rivals and options.get("expected"):
                rivals -= 1
                raise LogConflictError("a step came first")
            return await append(entries, **options)

        batch = await server.begin(line(0))
        log.append = late  # type: ignore[method-assign]
        with pytest.raises(OverloadedError):
            await server.batches.cancel("a", batch.id)
        rivals = 1
        assert (await server.batches.cancel("a", batch.id)).status == "cancelling"

    asyncio.run(story())


def test_what_was_over_for_long_is_forgotten_with_all_that_belongs_to_it() -> None:
    async def story() -> None:
        server = await Server("one", new_log(), echo := Echo()).up()
        over = await server.begin(line(0))
        await server.over(over)
        echo.open.clear()
        waits = await server.begin(line(0), window_ms=int(60 * DAY_S * 1000))
        damaged = await server.begin(line(0))
        await server.clock.sleep(1)
        await server.down()
        log = server.wire._log
        await log.append([Entry("a", stream_of(damaged.id), "batch.state", b"?")])
        assert await server.batches.sweep("a") == 0, "it is not old enough"
        await server.clock.sleep(31 * DAY_S)
        assert await server.batches.sweep("a") == 1
        names = names_of(await all_of(log.streams("a", "batch")))
        assert names == sorted(stream_of(it.id) for it in (waits, damaged))

    run_skipping_time(story())
