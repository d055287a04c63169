"""Questions about the service itself: models, health, metrics, traces, sessions, knowledge."""

from contextlib import aclosing
from typing import Annotated

import msgspec
from msgspec import Meta

from murmurate.core.errors import ForbiddenError, ModelUnknownError, MurmurateError
from murmurate.core.ports import Span
from murmurate.core.types import Caller
from murmurate.gateway.audit import Fact, Trail
from murmurate.gateway.auth import check_place
from murmurate.gateway.chat import error_line
from murmurate.gateway.exchange import LINES, Exchange, at_place
from murmurate.gateway.policy import EMBED, Gate
from murmurate.gateway.ports import Meter, Platform
from murmurate.gateway.validate import decode

QUESTION_CHARS_MAX = 8000
PASSAGES_MAX = 50
COLLECTIONS_MAX = 100
PATHS_MAX = 1000
PATH_CHARS_MAX = 4096
"""As long as Linux takes a path (PATH_MAX)."""
NOTED_MAX = 20
"""Paths that the trail names."""
LOOPBACK = ("127.0.0.1", "::1", "")


Names = Annotated[list[str], Meta(max_length=COLLECTIONS_MAX)]
Paths = Annotated[list[Annotated[str, Meta(max_length=PATH_CHARS_MAX)]], Meta(max_length=PATHS_MAX)]


class IngestBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /api/ingest`: which collections to read again; none means all.

    `paths` names collections by files or folders of theirs, as absolute paths on the server.
    """

    collections: Names = []
    paths: Paths = []


class SearchBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /api/search`; no collections means all."""

    question: Annotated[str, Meta(min_length=1, max_length=QUESTION_CHARS_MAX)]
    collections: Names = []
    limit: Annotated[int, Meta(ge=1, le=PASSAGES_MAX)] = 5


class Management:
    """The routes that are not OpenAI's, and the list of models."""

    def __init__(
        self, platform: Platform, *, gate: Gate, trail: Trail, meter: Meter, body_bytes_max: int
    ) -> None:
        self._platform = platform
        self._gate = gate
        self._trail = trail
        self._meter = meter
        self._body_bytes_max = body_bytes_max

    async def models(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """List the agents, models and embedders that the caller may use, or show one."""
        del span
        chat = self._platform.chat_models(caller.tenant)
        embedders = [it for it in self._platform.models(caller.tenant) if it not in chat]
        usable = [
            *await self._gate.usable(caller, chat),
            *await self._gate.usable(caller, embedders, action=EMBED),
        ]
        models = [
            {"id": name, "object": "model", "created": 0, "owned_by": "murmurate"}
            for name in usable
        ]
        if exchange.path == "/v1/models":
            await exchange.answer_json(200, {"object": "list", "data": models})
            return
        name = exchange.path.removeprefix("/v1/models/")
        for model in models:
            if model["id"] == name:
                await exchange.answer_json(200, model)
                return
        raise ModelUnknownError(f"no model {name!r} is served here", param="model")

    async def trace(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """Show the spans of a trace."""
        del span
        trace_id = exchange.path.removeprefix("/api/traces/")
        spans = await self._platform.trace(caller.tenant, trace_id)
        await exchange.answer_json(200, {"trace_id": trace_id, "spans": spans})

    async def session(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """Show the messages of a stored session."""
        del span
        session_id = exchange.path.removeprefix("/api/sessions/")
        messages = await self._platform.session(caller.tenant, session_id)
        await exchange.answer_json(200, {"id": session_id, "messages": messages})

    async def knowledge(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """Show the state of every collection.

        That is: documents, chunks, embedder and its dimensions, last sync, problems by
        file; `index_bytes`, of all tenants together, for operators (else `null`).
        """
        del span
        state = await self._platform.knowledge(caller)
        await exchange.answer_json(200, {"collections": state})

    async def search(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """Find passages of the documents, word for word, without a model.

        The body is `{"question", "collections", "limit"}`; no collections means all, 100 can
        be named.
        """
        del span
        body = decode(await exchange.body(self._body_bytes_max), SearchBody)
        passages = await self._platform.search(
            caller.tenant, body.collections, body.question, limit=body.limit
        )
        await exchange.answer_json(200, {"passages": passages})

    async def ingest(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """Read the folders again.

        The body is `{"collections", "paths"}`, up to 100 and 1,000, empty: all; progress
        comes as JSON lines, the last one says how it ended.
        """
        del span
        body = decode(await exchange.body(self._body_bytes_max) or b"{}", IngestBody)
        facts: dict[str, Fact] = {"collections": body.collections, "paths": body.paths[:NOTED_MAX]}
        await self._trail.note("ingest", at_place(caller, exchange), facts=facts, result="begun")
        await exchange.while_connected(self._progress(exchange, caller, body))

    async def _progress(self, exchange: Exchange, caller: Caller, body: IngestBody) -> None:
        steps_of = self._platform.ingest(caller.tenant, body.collections, paths=body.paths)
        async with aclosing(steps_of) as steps:
            step = await anext(steps, None)
            await exchange.open(LINES)
            try:
                while step is not None:
                    await exchange.write(msgspec.json.encode(step) + b"\n")
                    step = await anext(steps, None)
            except MurmurateError as error:
                await exchange.write(error_line(error))
        await exchange.end()

    async def healthz(self, exchange: Exchange) -> None:
        """Answer 200 as soon as the process does."""
        await exchange.answer_json(200, {"status": "ok"})

    async def readyz(self, exchange: Exchange) -> None:
        """Answer 200 when requests can be served, 503 before.

        Says which part is missing, and which process dies again and again (its last words
        on this machine only).
        """
        readiness = await self._platform.readiness()
        ready = readiness.ready
        parts = readiness.parts | (readiness.parts_here if _is_here(exchange) else {})
        body = {"status": "ready" if ready else "not ready", "parts": parts}
        await exchange.answer_json(200 if ready else 503, body)

    async def metrics(self, exchange: Exchange) -> None:
        """Show counters for Prometheus, on loopback only."""
        if not _is_here(exchange):
            raise ForbiddenError("/metrics is open on loopback only")
        page, kind = self._meter.exposition()
        await exchange.answer(200, page, (b"content-type", kind.encode()))


def _is_here(exchange: Exchange) -> bool:
    """Tell whether somebody on this machine asks, and not a page that was led here by its name."""
    if exchange.client not in LOOPBACK:
        return False
    try:
        check_place(exchange.header(b"host"), exchange.header(b"origin"), ())
    except ForbiddenError:
        return False
    return True
