"""The tokens at hand: who is asking, by a token that an issuer signed, and until when.

A token is checked once; after that it costs a look-up, until it ends or its issuer's keys change.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from murmurate.config import AuthConfig
from murmurate.core.clock import Clock
from murmurate.core.ports import EventLog
from murmurate.core.types import Caller
from murmurate.gateway.issuers import Trust
from murmurate.gateway.keyring import Ticket
from murmurate.gateway.keys import digest
from murmurate.gateway.ports import Issuer, Published
from murmurate.gateway.roles import Roles
from murmurate.gateway.times import shown
from murmurate.gateway.tokens import (
    TokenExpiredError,
    TokenInvalidError,
    caller_of,
    check,
    opened,
)

TOKENS_MAX = 10_000
"""Checked tokens that are remembered; the one that came first makes room."""


@dataclass(frozen=True, slots=True)
class _Trusted:
    """An issuer: what the configuration says of it, and its keys."""

    name: str
    config: AuthConfig
    trust: Trust


@dataclass(frozen=True, slots=True)
class _Checked:
    """A token that was found good by these keys of its issuer."""

    ticket: Ticket
    trust: Trust
    by: Published


class Tokens:
    """All issuers that are trusted, and the tokens of theirs that were seen. Holds no token."""

    def __init__(
        self,
        config: Mapping[str, AuthConfig],
        issuers: Mapping[str, Issuer],
        *,
        roles: Roles,
        clock: Clock,
        events: EventLog,
    ) -> None:
        self._clock = clock
        self._roles = roles
        self._checked: dict[str, _Checked] = {}
        self._issuers = {
            auth.issuer: _Trusted(
                name,
                auth,
                Trust(name, issuers[name], outage_s=auth.outage_s, clock=clock, events=events),
            )
            for name, auth in config.items()
        }

    def __bool__(self) -> bool:
        """Tell whether anybody's tokens are taken."""
        return bool(self._issuers)

    async def admit(self, token: str) -> Ticket:
        """Return whom a token stands for.

        Raises:
            TokenInvalidError: It is not good here, or not any more.
            IssuerUnreachableError: Nobody can tell now.
        """
        sha256 = digest(token)
        known = self._checked.get(sha256)
        if known is None or known.trust.current() is not known.by:
            known = await self._check(token, sha256)
        if (error := self._refusal(known.ticket.caller)) is not None:
            self._checked.pop(sha256, None)
            raise error
        return known.ticket

    @asynccontextmanager
    async def held(self, ticket: Ticket) -> AsyncGenerator[None]:
        """Run the block until the token ends, then cancel it with that error."""
        assert ticket.caller.ends_ms is not None, "every token ends"
        left_s = max(ticket.caller.ends_ms - self._clock.unix_ms(), 0) / 1000
        ends = asyncio.timeout(left_s)
        try:
            async with ends:
                yield
        except TimeoutError as cause:
            if not ends.expired():
                raise
            raise _expired(ticket.caller.ends_ms) from cause

    async def _check(self, token: str, sha256: str) -> _Checked:
        """Check a token from scratch, and remember it when it is good."""
        unproven = opened(token)
        issuer = self._issuers.get(unproven.claims.iss)
        if issuer is None:
            raise TokenInvalidError(f"iss: {unproven.claims.iss[:200]!r} is not trusted here")
        check(unproven, issuer.config, self._clock.unix_ms() / 1000)
        algorithm = unproven.header.alg
        key, by = await issuer.trust.key(unproven.header.kid, algorithm)
        if not key.signed(token, algorithm):
            raise TokenInvalidError("the token's signature is wrong")
        caller = caller_of(unproven, issuer.name, issuer.config, self._roles)
        checked = _Checked(Ticket(caller, sha256), issuer.trust, by)
        if len(self._checked) >= TOKENS_MAX:
            del self._checked[next(iter(self._checked))]
        self._checked[sha256] = checked
        return checked

    def _refusal(self, caller: Caller) -> TokenExpiredError | None:
        assert caller.ends_ms is not None, "every token ends"
        return None if self._clock.unix_ms() < caller.ends_ms else _expired(caller.ends_ms)


def _expired(ends_ms: int) -> TokenExpiredError:
    return TokenExpiredError(f"the token ended at {shown(ends_ms)}: get a new one of its issuer")
