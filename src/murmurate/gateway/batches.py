"""OpenAI's batches: files of requests that are answered in the background.

Field by field after https://platform.openai.com/docs/api-reference/batch.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from murmurate.core.errors import BadRequestError
from murmurate.core.ports import Span
from murmurate.core.types import Caller
from murmurate.gateway.exchange import Exchange
from murmurate.gateway.files import EXPIRES_S_MAX, EXPIRES_S_MIN, limit_of
from murmurate.gateway.ports import Batches, BatchTerms, LineEndpoint
from murmurate.gateway.scopes import Scope, check_scope
from murmurate.gateway.times import duration_ms
from murmurate.gateway.validate import decode

LISTED, LISTED_MAX = 20, 100
WINDOW_MS_MAX = 7 * 86_400_000
METADATA_MAX = 16
METADATA_KEY_CHARS_MAX = 64

Text = Annotated[str, Meta(max_length=512)]


class ExpiresBody(msgspec.Struct, forbid_unknown_fields=True):
    """When the results are deleted."""

    seconds: Annotated[int, Meta(ge=EXPIRES_S_MIN, le=EXPIRES_S_MAX)]
    anchor: Literal["created_at"] = "created_at"


class BatchBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /v1/batches`."""

    input_file_id: Text
    endpoint: Text
    completion_window: Text = "24h"
    metadata: dict[str, Text] | None = None
    output_expires_after: ExpiresBody | None = None


class BatchRoutes:
    """The routes of batches."""

    def __init__(
        self, batches: Batches, endpoints: Mapping[str, LineEndpoint], *, body_bytes_max: int
    ) -> None:
        """`endpoints` are what lines may ask for, by path."""
        self._batches = batches
        self._endpoints = endpoints
        self._body_bytes_max = body_bytes_max

    async def create(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """Begin a batch.

        The body is `{"input_file_id", "endpoint", "completion_window", "metadata",
        "output_expires_after"}`. The file, of purpose `batch`, has a request on each line; the
        endpoint is `/v1/chat/completions` or `/v1/embeddings`, and the key needs its scope, too.
        The window is `24h`, or another time from `1s` to `7d`; lines that were not answered by its
        end are answered with `batch_expired`.
        """
        body = decode(await exchange.body(self._body_bytes_max), BatchBody)
        endpoint = self._endpoints.get(body.endpoint)
        if endpoint is None:
            known = ", ".join(self._endpoints)
            raise BadRequestError(
                f"endpoint: expected one of {known}, not {body.endpoint[:64]!r}", param="endpoint"
            )
        check_scope(caller, Scope(endpoint.scope))
        batch = await self._batches.create(
            caller,
            endpoint=body.endpoint,
            input_file_id=body.input_file_id,
            terms=_terms(body),
        )
        span.note(batch=batch.id)
        await exchange.answer_json(200, batch)

    async def listing(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """List batches, the newest first.

        Of the URL: `limit` (1 to 100, default 20) and `after`, the id of the last one seen.
        """
        del span
        query = exchange.query()
        page = await self._batches.listing(
            caller.tenant,
            after=query.get("after"),
            limit=limit_of(query, default=LISTED, most=LISTED_MAX),
        )
        await exchange.answer_json(200, page)

    async def show(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """Show a batch: its status, how many of its lines are done, and the files with results."""
        del span
        await exchange.answer_json(200, await self._batches.show(caller.tenant, _id(exchange)))

    async def cancel(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """End a batch; what its lines have come to by then is in its files."""
        del span
        await exchange.answer_json(200, await self._batches.cancel(caller.tenant, _id(exchange)))


def _terms(body: BatchBody) -> BatchTerms:
    metadata = body.metadata
    if metadata is not None and (
        len(metadata) > METADATA_MAX or any(len(k) > METADATA_KEY_CHARS_MAX for k in metadata)
    ):
        raise BadRequestError(
            f"metadata: expected at most {METADATA_MAX} keys of {METADATA_KEY_CHARS_MAX}"
            " characters",
            param="metadata",
        )
    window_ms = duration_ms(body.completion_window, param="completion_window", max_ms=WINDOW_MS_MAX)
    if window_ms == 0:
        raise BadRequestError(
            "completion_window: expected 24h, or 1s to 7d", param="completion_window"
        )
    expires = body.output_expires_after
    return BatchTerms(
        window=body.completion_window,
        window_ms=window_ms,
        metadata=metadata,
        output_expires_s=None if expires is None else float(expires.seconds),
    )


def _id(exchange: Exchange) -> str:
    return exchange.path.split("/")[3]
