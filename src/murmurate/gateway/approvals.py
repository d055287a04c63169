"""What agents ask for before they do it, and the answers of those who may decide."""

from typing import Annotated

import msgspec
from msgspec import Meta

from murmurate.core.ports import Span
from murmurate.core.types import Caller
from murmurate.gateway.exchange import Exchange
from murmurate.gateway.ports import Approvals
from murmurate.gateway.validate import decode

PATH = "/api/approvals/"
LISTED = 100
BODY_BYTES_MAX = 16 * 1024
REASON_CHARS_MAX = 1000


class DecisionBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /api/approvals/{id}`."""

    approve: bool
    reason: Annotated[str, Meta(max_length=REASON_CHARS_MAX)] = ""


class Decisions:
    """The routes of approvals."""

    def __init__(self, approvals: Approvals) -> None:
        self._approvals = approvals

    async def listing(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """List calls that wait for a decision: at most 100, those of the oldest runs first."""
        del span
        found = await self._approvals.listing(caller.tenant, limit=LISTED)
        await exchange.answer_json(200, {"approvals": found})

    async def decide(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """Approve or deny a call; its run goes on when all that it asks are decided.

        The id is that of the list, `RUN:NUMBER`, or `RUN` alone where it asks one thing. The body
        is `{"approve": true}` or `{"approve": false, "reason"}`; the model hears the reason. The
        first decision stands: who comes later gets status 409. The key that began the run gets 403.
        """
        body = decode(await exchange.body(BODY_BYTES_MAX), DecisionBody)
        name = exchange.path.removeprefix(PATH)
        decided = await self._approvals.decide(
            caller, name, approved=body.approve, reason=body.reason
        )
        span.note(approved=body.approve)
        await exchange.answer_json(200, {"approved": body.approve, "approval": decided})
