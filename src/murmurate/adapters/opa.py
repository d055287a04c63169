"""Decisions of an Open Policy Agent, over its REST Data API.

https://www.openpolicyagent.org/docs/rest-api: `POST /v1/data/PATH` with `{"input": …}` answers
`{"result": …}`, without `result` where the policies say nothing. All else is no decision.
"""

import asyncio
from typing import Any

import msgspec

from murmurate.core.clock import Clock
from murmurate.core.errors import FetchFailedError, FetchRefusedError
from murmurate.core.fetch import Fetch, Fetcher
from murmurate.core.types import Caller
from murmurate.gateway.policy import PolicyUnavailableError
from murmurate.gateway.ports import Action, Decision, Resource

ANSWERS_MAX = 10_000
"""Answers that are remembered; the one that came first makes room."""
AT_A_TIME_MAX = 32
BYTES_MAX = 64 * 1024
REASON_CHARS_MAX = 300
AGAIN_S = 1.0


class Answer(msgspec.Struct, frozen=True):
    """What OPA says; undefined where its policies say nothing."""

    result: "bool | Result | msgspec.UnsetType" = msgspec.UNSET


class Result(msgspec.Struct, frozen=True):
    """A decision with its reason; further fields are the policy's own."""

    allow: bool
    reason: str = ""


class Opa:
    """Asks an Open Policy Agent; see the port `Policy`. Its answers count for `kept_s`."""

    def __init__(
        self,
        url: str,
        fetcher: Fetcher,
        *,
        clock: Clock,
        key: str | None = None,
        whole_s: float,
        kept_s: float,
    ) -> None:
        self._url = url
        self._fetcher = fetcher
        self._clock = clock
        self._headers = {"Content-Type": "application/json"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"
        self._whole_s = whole_s
        self._kept_s = kept_s
        self._places = asyncio.Semaphore(AT_A_TIME_MAX)
        self._known: dict[bytes, tuple[Decision, float]] = {}

    async def decide(self, caller: Caller, action: Action, resource: Resource) -> Decision:
        """Return what OPA says of it, or said a moment ago."""
        body = msgspec.json.encode({"input": _input(caller, action, resource)})
        known = self._known.get(body)
        if known is not None and self._clock.now_s() < known[1]:
            return known[0]
        decision = await self._asked(body)
        self._known.pop(body, None)
        if len(self._known) >= ANSWERS_MAX:
            del self._known[next(iter(self._known))]
        self._known[body] = (decision, self._clock.now_s() + self._kept_s)
        return decision

    async def _asked(self, body: bytes) -> Decision:
        try:
            fetch = Fetch(
                target=self._fetcher.target(self._url),
                method="POST",
                headers=self._headers,
                body=body,
                whole_s=self._whole_s,
                bytes_max=BYTES_MAX,
            )
            async with asyncio.timeout(self._whole_s), self._places:
                fetched = await self._fetcher.fetch(fetch)
        except TimeoutError:
            raise self._no_decision(f"did not answer within {self._whole_s:g} s") from None
        except (FetchFailedError, FetchRefusedError) as cause:
            raise self._no_decision(cause.detail) from cause
        if fetched.status != 200 or fetched.cut:
            raise self._no_decision(f"answers with status {fetched.status}")
        try:
            result = msgspec.json.decode(fetched.body, type=Answer).result
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise self._no_decision("answers with what is no decision") from None
        match result:
            case bool():
                return Decision(result)
            case Result():
                return Decision(result.allow, result.reason[:REASON_CHARS_MAX])
            case _:
                return Decision(allowed=False, reason="the policies say nothing of it")

    def _no_decision(self, how: str) -> PolicyUnavailableError:
        return PolicyUnavailableError(
            f"the policy server {how}: nothing is allowed until it answers", retry_s=AGAIN_S
        )


def _input(caller: Caller, action: Action, resource: Resource) -> dict[str, Any]:
    """Return what policies see; no secret, and nothing that differs between equal requests."""
    return {
        "caller": {
            "id": caller.key_id,
            "tenant": caller.tenant,
            "roles": caller.roles,
            "scopes": caller.scopes,
            "kind": "key" if caller.ends_ms is None else "token",
        },
        "action": action,
        "resource": resource,
    }
