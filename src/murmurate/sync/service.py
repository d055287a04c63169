"""Keeps each turn of a session: durable before the client hears that the answer is complete."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec

from murmurate.core.clock import Clock
from murmurate.core.errors import NotFoundError
from murmurate.core.ids import Ids
from murmurate.core.journal import Journal, Journals
from murmurate.core.ports import Entry, Log, Model, Tracer
from murmurate.core.types import Delta, Finished, Message, Request, Role, SessionRef
from murmurate.sync.entries import (
    KIND,
    SessionMessage,
    added,
    answer_citations,
    answer_parts,
    continued,
    decode,
    encode,
    next_hlc,
    stream_of,
)

HISTORY_MAX = 400
"""The newest messages of a session that reach the model; older ones stay in the log."""


class Sessions:
    """A `Model` that continues stored sessions; a request without one passes through."""

    def __init__(
        self,
        below: Model,
        *,
        log: Log,
        journals: Journals,
        clock: Clock,
        ids: Ids,
        tracer: Tracer,
        writer: str,
    ) -> None:
        self._below = below
        self._log = log
        self._journals = journals
        self._clock = clock
        self._ids = ids
        self._tracer = tracer
        self._writer = writer
        self._hlc = ""
        """The newest clock value given out: turns stored side by side get theirs in order."""

    def answer(self, request: Request) -> AsyncGenerator[Delta]:
        """Answer with the stored history in front; store the turn before `Finished` goes out."""
        if request.session is None:
            return self._below.answer(request)
        return self._continue(request, request.session)

    async def _continue(self, request: Request, session: SessionRef) -> AsyncGenerator[Delta]:
        journal = self._journals.of(request)
        stored, end = await self._stored(request.tenant, session, until=journal.seen)
        journal.sees(end)
        whole = msgspec.structs.replace(request, messages=continued(stored, request.messages))
        answer: list[Delta] = []
        async with aclosing(self._below.answer(whole)) as deltas:
            async for delta in deltas:
                answer.append(delta)
                if isinstance(delta, Finished):
                    await self._store(request, journal, stored, answer)
                yield delta

    async def history(self, tenant: str, session: SessionRef) -> list[SessionMessage]:
        """Return the newest messages of a session, or `NotFoundError`."""
        stored, _ = await self._stored(tenant, session, until=None)
        return stored

    async def _stored(
        self, tenant: str, session: SessionRef, *, until: int | None
    ) -> tuple[list[SessionMessage], int]:
        """Return the newest messages up to the entry `until` (None: all), and the last one's seq.

        A run that another server goes on with reads what its first attempt has read.
        """
        if session.new:
            return [], 0
        stream = stream_of(session.id)
        async with aclosing(self._log.streams(tenant, stream)) as found:
            # A name comes before all that begin with it: only the first one can be this session,
            # and an id that is cut short must not list every session of the tenant.
            info = await anext(found, None)
        if info is None or info.stream != stream:
            raise NotFoundError(f"there is no session {session.id!r}", param="x-murmurate-session")
        end = info.head if until is None else until
        after = max(end - HISTORY_MAX, 0)
        async with aclosing(self._log.read(tenant, stream, after=after)) as entries:
            kept = [decode(entry.body) async for entry in entries if entry.seq <= end]
        # Where older ones were left out, begin with a turn, not in the middle of one.
        first = next((i for i, m in enumerate(kept) if m.role is Role.USER), 0)
        return (kept[first:] if after else kept), end

    async def _store(
        self,
        request: Request,
        journal: Journal,
        stored: Sequence[SessionMessage],
        answer: Sequence[Delta],
    ) -> None:
        """Append the fresh messages and the answer together, with the end of the run if it is one.

        A turn is kept whole or not at all. `journal` is the one with which it was begun: another
        attempt at the same run may have its own by now, and this one's must be refused.
        """
        assert request.session is not None
        stream = stream_of(request.session.id)
        turn = self._ids.new("turn")
        said = [
            *added(stored, request.messages),
            Message(Role.ASSISTANT, answer_parts(answer, request.model)),
        ]
        last = stored[-1] if stored else None
        after = last.id if last else None
        entries: list[Entry] = []
        for message in said:
            seen = max(self._hlc, last.hlc if last else "")
            hlc = self._hlc = next_hlc(seen or None, self._clock.unix_ms(), self._writer)
            citations = answer_citations(answer) if message.role is Role.ASSISTANT else ()
            kept = SessionMessage(
                self._ids.new("msg"), hlc, turn, after, message.role, message.parts, citations
            )
            after = kept.id
            entries.append(Entry(request.tenant, stream, KIND, encode(kept)))
        with self._tracer.span(request.trace, "store", entries=len(entries)):
            await journal.finish(entries, answer)
