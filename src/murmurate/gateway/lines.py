"""What the lines of a batch may ask for: the routes of single requests, without their exchange.

An endpoint is one row of the table that `compose` makes: `asking` where a line is work with steps
of its own, `computing` where it is a pure function of its body.
"""

import asyncio
from collections.abc import Mapping, Sequence

from murmurate.core.errors import BadRequestError, MurmurateError
from murmurate.core.ports import Embedder
from murmurate.core.types import Caller, Delta, Request, TraceRef, Usage
from murmurate.gateway.chat import ChatBody, Encoder
from murmurate.gateway.completions import embedder_of
from murmurate.gateway.embeddings import EmbeddingsBody, encode, texts_of
from murmurate.gateway.policy import EMBED, Gate
from murmurate.gateway.ports import Ledger
from murmurate.gateway.requests import Requests
from murmurate.gateway.scopes import Scope
from murmurate.gateway.validate import decode

SIDE_BY_SIDE = 16
"""So many lines of a group are embedded at a time."""


class ChatLines:
    """Lines for `/v1/chat/completions`."""

    scope = Scope.CHAT.value

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    async def request(
        self, caller: Caller, body: bytes, *, run_id: str, trace: TraceRef
    ) -> Request:
        """Return what a line asks for. `BadRequestError`, `ModelUnknownError`: it can't be."""
        asked = decode(body, ChatBody)
        if asked.stream:
            raise BadRequestError("stream: a line of a batch is answered in whole", param="stream")
        return await self._requests.alone(caller, asked, id_=run_id, trace=trace)

    def begun(self, request: Request) -> None:
        """Note that a line has begun."""
        self._requests.begun(request)

    def written(self, deltas: Sequence[Delta], *, run_id: str, model: str, at_ms: int) -> bytes:
        """Return an answer as the body of a response."""
        completion_id = f"chatcmpl_{run_id.rpartition('_')[2]}"
        return Encoder(completion_id, model, at_ms // 1000, usage=False).whole(deltas)


class EmbeddingLines:
    """Lines for `/v1/embeddings`."""

    scope = Scope.EMBEDDINGS.value

    def __init__(self, embedders: Mapping[str, Embedder], *, gate: Gate, ledger: Ledger) -> None:
        self._embedders = embedders
        self._gate = gate
        self._ledger = ledger

    async def computed(
        self, caller: Caller, bodies: Sequence[bytes]
    ) -> Sequence[bytes | MurmurateError]:
        """Return the body of each response, or why there is none; in order."""
        room = asyncio.Semaphore(SIDE_BY_SIDE)

        async def one(body: bytes) -> bytes | MurmurateError:
            async with room:
                try:
                    asked = decode(body, EmbeddingsBody)
                    embedder = embedder_of(self._embedders, asked.model)
                    await self._gate.check(caller, EMBED, asked.model)
                    place = (caller.tenant, caller.key_id, asked.model)
                    self._ledger.asked(*place)
                    made = await embedder.embed(texts_of(asked))
                    self._ledger.used(*place, Usage(made.tokens, 0))
                    return encode(asked, made.vectors, made.tokens)
                except MurmurateError as error:
                    return error

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(body)) for body in bodies]
        return [task.result() for task in tasks]
