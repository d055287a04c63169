"""Responses that were stored, as entries of the log: `response/ID` holds one, written once.

A response in the background is written when it is accepted, together with the run that works on
it (`run/ID`, the same ID): what became of it is read from there. Items carry the id of their
response, so nobody keeps an index of them.
"""

import re
from collections.abc import Sequence
from contextlib import aclosing

import msgspec

from murmurate.core.errors import (
    BadRequestError,
    EngineFailedError,
    LogCorruptError,
    NotFoundError,
)
from murmurate.core.ports import Entry, Log
from murmurate.core.types import Cited, Delta, Finished, Frozen, Text
from murmurate.gateway.ports import Archive, RunAnswer, Runs, RunView
from murmurate.gateway.responses.items import Item, encoded, since_question
from murmurate.gateway.responses.output import Output
from murmurate.gateway.responses.resource import ENDED, Resource, failed
from murmurate.gateway.responses.terms import allowed_of

KIND = "response"
CHAIN_MAX = 256
"""How many responses a conversation may go back."""
CHAIN_BYTES_MAX = 4 * 1024 * 1024
"""How much they may be together; as much as a body may be by default."""

_ITEM_ID = re.compile(r"[a-z]+_([0-9a-z]{26})_i?[0-9]{1,6}")


class Kept(Frozen, frozen=True):
    """A stored response and what was given to it."""

    response: Resource
    input: tuple[Item, ...]


def stream_of(response_id: str) -> str:
    """Return the log's stream of a response."""
    return f"response/{response_id}"


def run_of(response_id: str) -> str:
    """Return the run that works on a response in the background."""
    return f"run_{response_id.partition('_')[2]}"


def entry_of(tenant: str, kept: Kept) -> Entry:
    """Return the entry that stores a response."""
    return Entry(tenant, stream_of(kept.response.id), KIND, msgspec.json.encode(kept))


class Store:
    """Keeps responses, finds them, forgets them. What is another tenant's is `NotFoundError`."""

    def __init__(
        self,
        log: Log,
        *,
        runs: Runs,
        archive: Archive,
        chain_max: int = CHAIN_MAX,
        chain_bytes_max: int = CHAIN_BYTES_MAX,
    ) -> None:
        self._log = log
        self._runs = runs
        self._archive = archive
        self._chain_max = chain_max
        self._chain_bytes_max = chain_bytes_max

    async def keep(self, entries: Sequence[Entry]) -> None:
        """Store what became of a response, all in one; it is durable when this returns."""
        await self._log.append(entries)

    async def find(self, tenant: str, response_id: str) -> Kept:
        """Return a response as it is now, or `NotFoundError`."""
        kept = await self.find_accepted(tenant, response_id)
        if not kept.response.background:
            return kept
        try:
            run = await self._runs.show(tenant, run_of(response_id))
        except NotFoundError as cause:
            raise NotFoundError(
                f"there is no response {response_id[:64]!r} any more: its run was forgotten"
            ) from cause
        return msgspec.structs.replace(kept, response=current(kept.response, run))

    async def find_accepted(self, tenant: str, response_id: str) -> Kept:
        """Return a response as it was stored: one in the background before its first word."""
        async with aclosing(self._log.read(tenant, stream_of(response_id))) as entries:
            stored = await anext(entries, None)
        if stored is None:
            raise NotFoundError(f"there is no response {response_id[:64]!r}")
        try:
            return msgspec.json.decode(stored.body, type=Kept)
        except msgspec.MsgspecError as cause:
            raise LogCorruptError(f"the response {response_id[:64]!r} can't be read") from cause

    async def forget(self, tenant: str, response_id: str) -> None:
        """Forget a response, and the run that worked on it.

        `BadRequestError`: it is still worked on.
        """
        kept = await self.find_accepted(tenant, response_id)
        if kept.response.background and not await self._archive.forget(tenant, run_of(response_id)):
            raise BadRequestError(
                f"{response_id} is still worked on: cancel it, then delete it", param="response_id"
            )
        await self._log.forget(tenant, stream_of(response_id))

    async def history(self, tenant: str, last: str | None, *, may_cut: bool) -> Sequence[Item]:
        """Return the items of a response and of those that it continues, the oldest first.

        Where it may be cut it goes back as far as it can; else what can't be had, or is too much,
        is refused.
        """
        chain: list[list[Item]] = []
        size, is_cut = 0, False
        previous = last
        while previous is not None:
            try:
                if len(chain) == self._chain_max:
                    raise _refused(f"goes back over more than {self._chain_max} responses")
                kept = await self._link(tenant, previous, last)
                items = [*kept.input, *kept.response.output]
                size += sum(len(bytes(raw)) for raw in encoded(items))
                if size > self._chain_bytes_max:
                    raise _refused(f"goes back over more than {self._chain_bytes_max} bytes")
            except (NotFoundError, BadRequestError):
                is_cut = may_cut and bool(chain)
                if is_cut:
                    break
                raise
            chain.append(items)
            previous = kept.response.previous_response_id
        told = [item for items in reversed(chain) for item in items]
        return since_question(told) if is_cut else told

    async def _link(self, tenant: str, response_id: str, first: str | None) -> Kept:
        try:
            kept = await self.find(tenant, response_id)
        except NotFoundError as cause:
            why = "" if response_id == first else f", which {first} continues"
            raise NotFoundError(
                f"there is no response {response_id[:64]!r}{why}", param="previous_response_id"
            ) from cause
        if kept.response.status not in ENDED:
            raise BadRequestError(
                f"previous_response_id: {response_id} is still worked on: wait for its end",
                param="previous_response_id",
            )
        return kept

    async def resolved(
        self,
        tenant: str,
        items: Sequence[Item | str],
        *,
        near: Sequence[Item] = (),
        field: str = "input",
    ) -> list[Item]:
        """Return items, those of stored responses in the place of their ids; or those `near`."""
        known: dict[str, dict[str, Item]] = {}
        at_hand = {item.id: item for item in near}
        found: list[Item] = []
        room = self._chain_bytes_max  # for all that is referred to, as often as it is
        for index, item in enumerate(items):
            if not isinstance(item, str):
                found.append(item)
                continue
            if item in at_hand:
                found.append(at_hand[item])
                room -= len(msgspec.json.encode(found[-1]))
                _check_room(room, self._chain_bytes_max, field)
                continue
            named = _ITEM_ID.fullmatch(item)
            suffix = named[1] if named else ""
            if named and suffix not in known:
                if len(known) == self._chain_max:
                    raise BadRequestError(
                        f"{field}: refers to items of more than {self._chain_max} responses",
                        param=field,
                    )
                known[suffix] = await self._items(tenant, f"resp_{suffix}")
            if item not in known.get(suffix, {}):
                where = f"{field}[{index}].id"
                raise NotFoundError(f"{where}: there is no item {item[:64]!r}", param=where)
            found.append(known[suffix][item])
            room -= len(msgspec.json.encode(found[-1]))
            _check_room(room, self._chain_bytes_max, field)
        return found

    async def _items(self, tenant: str, response_id: str) -> dict[str, Item]:
        try:
            kept = await self.find(tenant, response_id)
        except NotFoundError:
            return {}
        return {item.id: item for item in (*kept.input, *kept.response.output)}


def _refused(what: str) -> BadRequestError:
    return BadRequestError(
        f"previous_response_id: the conversation {what}: let it be truncated"
        ' ("truncation": "auto"), or begin a new one',
        param="previous_response_id",
    )


def current(response: Resource, run: RunView) -> Resource:
    """Return a response in the background as far as its run is."""
    match run.status:
        case "queued":
            return response
        case "cancelled":
            return msgspec.structs.replace(response, status="cancelled")
        case "failed" if run.error is not None:
            return failed(response, run.error.code, run.error.detail)
        case "finished" if run.answer is not None:
            return answered(response, run.answer, (run.ended_ms or 0) // 1000)
        case _:
            return msgspec.structs.replace(response, status="in_progress")


def answered(response: Resource, answer: RunAnswer, ended_s: int) -> Resource:
    """Return a response with the answer of its run."""
    output = Output(response, allowed=allowed_of(response))
    try:
        for delta in deltas_of(answer):
            output.take(delta)
    except EngineFailedError as error:
        return output.broken(error)
    return output.whole(ended_s)


def deltas_of(answer: RunAnswer) -> list[Delta]:
    """Return an answer that is whole as deltas: its words are one."""
    deltas: list[Delta] = [Text(answer.text)] if answer.text else []
    if answer.citations:
        deltas.append(Cited(tuple(answer.citations)))
    return [*deltas, *answer.calls, answer.usage, Finished(answer.reason)]


def _check_room(room: int, bytes_max: int, field: str) -> None:
    if room < 0:
        raise BadRequestError(
            f"{field}: what it refers to is over {bytes_max} bytes together", param=field
        )
