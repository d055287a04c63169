"""Delivers notices of ended runs: at least once, with patience, and never where it must not reach.

A notice is an errand. What its attempts came to stands in its stream, `hook/RUN`; any server makes
the next one. Receivers know a repetition by its `webhook-id`.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from ipaddress import ip_address

import msgspec

from murmurate.core.clock import Clock
from murmurate.core.errors import (
    BadRequestError,
    FetchFailedError,
    FetchRefusedError,
    LogCorruptError,
)
from murmurate.core.fetch import Fetch, Fetcher
from murmurate.core.ports import NEVER_MS, Claim, Done, Entry, EventLog, Log, Offer, Stored
from murmurate.core.reach import Target
from murmurate.core.types import Frozen
from murmurate.jobs.attempts import is_poison
from murmurate.jobs.journal import strike_off
from murmurate.jobs.notices import (
    HOOKS,
    HOOKS_DEAD,
    OFFERED,
    PREFIX,
    Notice,
    body_of,
    headers_of,
    notice_stream,
)

TRIED = "hook.tried"
DELIVERED = "hook.delivered"
GIVEN_UP = "hook.given_up"

PAUSES_MS = (5_000, 30_000, 120_000, 450_000)
"""Between five attempts: ten minutes, in which most servers have come up again."""
ATTEMPT_S = 10.0
ANSWER_BYTES_MAX = 64 * 1024
GONE = 410


class Outcome(Frozen, frozen=True):
    """What an attempt came to; never what the receiver said."""

    detail: str


class Delivery(Frozen, frozen=True):
    """What the entries of a notice amount to."""

    notice: Notice
    at_ms: int
    """When the run ended."""
    attempts: int = 0
    status: str = "waiting"
    detail: str | None = None
    """What the last attempt came to."""
    epoch_last: int = 0


class Hooks:
    """Checks where notices shall go, and delivers them."""

    def __init__(
        self,
        fetcher: Fetcher,
        keys: Mapping[str, Sequence[bytes]],
        *,
        log: Log,
        clock: Clock,
        events: EventLog,
    ) -> None:
        """`keys` are what the notices of each tenant are signed with."""
        self._fetcher = fetcher
        self._keys = keys
        self._log = log
        self._clock = clock
        self._events = events

    def check(self, tenant: str, url: str) -> None:
        """Refuse a URL that no notice will ever reach: `BadRequestError` with its reason."""
        if tenant not in self._keys:
            raise BadRequestError(
                "webhooks are not configured for this tenant: the operator sets [webhooks] secret,"
                " or webhooks.secrets",
                param="webhook",
            )
        try:
            _check_scheme(self._fetcher.target(url))
        except FetchRefusedError as refusal:
            raise BadRequestError(f"webhook: {refusal.detail}", param="webhook") from refusal

    async def delivery(self, tenant: str, run_id: str, ends: int) -> Delivery | None:
        """Return how far the notice of a run's end is; None where there is none."""
        return folded(await self._entries(tenant, notice_stream(run_id, ends)))

    async def deliver(self, claim: Claim) -> None:
        """Do the errand: one attempt, and what follows from it."""
        try:
            known = folded(await self._entries(claim.tenant, claim.stream))
        except LogCorruptError as damage:
            await self._give_up(claim, damage.detail)
            return
        if known is None or known.status != "waiting":
            await strike_off(self._log, claim)
            return
        if is_poison(epoch=claim.epoch, epoch_last=known.epoch_last):
            await self._give_up(claim, "too many servers died while they delivered it")
            return
        problem, helps = await self._attempt(claim, known)
        if problem is None:
            entry = self._entry(claim, DELIVERED, "delivered")
            done = Done(claim.tenant, claim.stream)
            await self._log.append([entry], fence=claim, work=[done])
        elif not helps or known.attempts >= len(PAUSES_MS):
            await self._give_up(claim, problem)
        else:
            due_ms = self._clock.unix_ms() + PAUSES_MS[known.attempts]
            again = Offer(claim.tenant, claim.stream, HOOKS, due_ms=due_ms)
            entry = self._entry(claim, TRIED, problem)
            await self._log.append([entry], fence=claim, work=[again])

    async def _attempt(self, claim: Claim, known: Delivery) -> tuple[str | None, bool]:
        """Return what went wrong, None when nothing did, and whether another attempt may help."""
        keys = self._keys.get(claim.tenant)
        if keys is None:
            return "there is no secret to sign with any more", True
        body = body_of(known.notice, known.at_ms)
        message = claim.stream.removeprefix(PREFIX)
        headers = headers_of(body, message=message, now_ms=self._clock.unix_ms(), keys=keys)
        try:
            target = self._fetcher.target(known.notice.url)
            _check_scheme(target)
            answer = await self._fetcher.fetch(
                Fetch(
                    target=target,
                    method="POST",
                    headers=headers,
                    body=body,
                    whole_s=ATTEMPT_S,
                    bytes_max=ANSWER_BYTES_MAX,
                )
            )
        except FetchRefusedError as refusal:
            return refusal.detail, False
        except FetchFailedError as failure:
            return failure.detail, True
        if 200 <= answer.status < 300:
            return None, False
        return f"{target.origin} answered {answer.status}", answer.status != GONE

    async def _give_up(self, claim: Claim, problem: str) -> None:
        """Put the notice among the dead; the run can be asked for all the same."""
        self._events.event("hook.given_up", message=claim.stream, detail=problem)
        dead = Offer(claim.tenant, claim.stream, HOOKS_DEAD, due_ms=NEVER_MS)
        entry = self._entry(claim, GIVEN_UP, problem)
        await self._log.append([entry], fence=claim, work=[dead])

    def _entry(self, claim: Claim, kind: str, detail: str) -> Entry:
        body = msgspec.json.encode(Outcome(detail))
        return Entry(claim.tenant, claim.stream, kind, body)

    async def _entries(self, tenant: str, stream: str) -> list[Stored]:
        async with aclosing(self._log.read(tenant, stream)) as entries:
            return [stored async for stored in entries]


def folded(entries: Iterable[Stored]) -> Delivery | None:
    """Return how far a notice is; None where it was never offered. `LogCorruptError`: damaged."""
    known: Delivery | None = None
    new = msgspec.structs.replace
    for stored in entries:
        try:
            if stored.kind == OFFERED:
                notice = msgspec.json.decode(stored.body, type=Notice)
                known = Delivery(notice, stored.at_ms)
            elif known is not None and stored.kind in {TRIED, DELIVERED, GIVEN_UP}:
                detail = msgspec.json.decode(stored.body, type=Outcome).detail
                status = {TRIED: "waiting", DELIVERED: "delivered"}.get(stored.kind, "given up")
                attempts = known.attempts + 1
                known = new(known, attempts=attempts, status=status, detail=detail)
                known = new(known, epoch_last=stored.epoch)
        except msgspec.MsgspecError as cause:
            raise LogCorruptError(f"entry {stored.seq} of {stored.stream} is no notice") from cause
    return known


def _check_scheme(target: Target) -> None:
    """Refuse plain HTTP: whoever is on the way reads and changes it. Loopback has no way."""
    if target.scheme == "http" and not _is_loopback(target.host):
        raise FetchRefusedError("expected https; http only to loopback addresses")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
