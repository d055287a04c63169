"""`/api/keys`: keys are listed, made, rotated and revoked over HTTP."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from murmurate.config import TENANT_NAME
from murmurate.core.clock import Clock
from murmurate.core.errors import BadRequestError, KeyInvalidError, NotFoundError
from murmurate.core.ids import Ids
from murmurate.core.ports import Span
from murmurate.core.types import Caller, Lane
from murmurate.gateway.exchange import Exchange, at_place
from murmurate.gateway.grants import (
    check_active,
    check_grant,
    check_leaves_operator,
    check_manages,
    sees,
)
from murmurate.gateway.keyring import Keys
from murmurate.gateway.keys import (
    REGISTRY,
    Key,
    KeyRecord,
    Standing,
    bearer,
    digest,
    rate_of,
)
from murmurate.gateway.quota import Rate
from murmurate.gateway.registry import OnSecret, Registry
from murmurate.gateway.roles import Roles, checked_roles, scopes_of
from murmurate.gateway.scopes import OPERATOR_TENANT, SCOPES_DEFAULT, checked
from murmurate.gateway.times import duration_ms, moment_ms, shown
from murmurate.gateway.validate import decode

PATH = "/api/keys"
BODY_BYTES_MAX = 16 * 1024
EXPIRES_MS_MAX = 3650 * 86_400_000
GRACE_MS_MAX = 30 * 86_400_000


class LimitsBody(msgspec.Struct, forbid_unknown_fields=True):
    """How fast the new key may ask; what is left out is as for every key."""

    requests_per_minute: Annotated[float, Meta(gt=0, le=1e9)] | None = None
    burst: Annotated[int, Meta(ge=1, le=1_000_000_000)] | None = None


class CreateBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /api/keys`; without a tenant, the key belongs to the maker's own.

    A key has what its roles open now, and its `scopes` besides.
    """

    label: Annotated[str, Meta(max_length=100)] = ""
    tenant: Annotated[str, Meta(pattern=rf"\A{TENANT_NAME.pattern}\Z")] | None = None
    scopes: Annotated[list[str], Meta(max_length=32)] | None = None
    roles: Annotated[list[str], Meta(max_length=32)] = []
    expires: Annotated[str, Meta(max_length=64)] | None = None
    lane: Lane = Lane.URGENT
    limits: LimitsBody = msgspec.field(default_factory=LimitsBody)


class RotateBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /api/keys/ID/rotate`: how long the old secret stays good."""

    grace: Annotated[str, Meta(max_length=64)] = "0s"


class Administration:
    """The routes below `/api/keys`. Another tenant's key is as unknown as one that never was."""

    def __init__(
        self,
        keys: Keys,
        registry: Registry,
        *,
        roles: Roles,
        rate: Rate,
        clock: Clock,
        ids: Ids,
        on_secret: OnSecret,
    ) -> None:
        self._keys = keys
        self._registry = registry
        self._roles = roles
        self._rate = rate
        self._clock = clock
        self._ids = ids
        self._on_secret = on_secret

    async def listing(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """List the keys that the caller manages, never a secret."""
        del span
        await self._registry.catch_up()
        actor = self._actor(caller)
        shown_keys = [self._shown(key) for key in self._keys.all() if sees(actor, key)]
        await exchange.answer_json(200, {"keys": shown_keys})

    async def show(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """Show one key, never its secret."""
        del span
        await self._registry.catch_up()
        _, key = self._named(exchange, caller)
        await exchange.answer_json(200, self._shown(key))

    async def create(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """Make a key; its `secret` stands in this answer and nowhere else."""
        body = decode(await exchange.body(BODY_BYTES_MAX) or b"{}", CreateBody)
        await self._registry.catch_up()
        secret = self._ids.secret("mur")
        record = self._record(body, caller, digest(secret))
        check_grant(self._actor(caller), record, self._rate)
        key = await self._registry.create(record, at_place(caller, exchange))
        span.note(key=record.id)
        await exchange.answer_json(200, {**self._shown(key), "secret": secret})

    async def rotate(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """Give a key a new `secret`; it stands in this answer and nowhere else.

        `{"grace": "1h"}` keeps the old one good for an hour.
        """
        body = decode(await exchange.body(BODY_BYTES_MAX) or b"{}", RotateBody)
        grace_ms = duration_ms(body.grace, param="grace", max_ms=GRACE_MS_MAX)
        await self._registry.catch_up()
        actor, key = self._named(exchange, caller)
        check_manages(actor, key)
        check_active(key, self._clock.unix_ms())
        secret = self._ids.secret("mur")
        by = at_place(caller, exchange)
        fresh = await self._registry.rotate(key, secret=secret, grace_ms=grace_ms, by=by)
        self._on_secret(key.sha256, secret)
        span.note(key=key.record.id)
        await exchange.answer_json(200, {**self._shown(fresh), "secret": secret})

    async def revoke(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """Revoke a key; to do it again changes nothing."""
        await self._registry.catch_up()
        actor, key = self._named(exchange, caller)
        check_manages(actor, key)
        if key.standing(self._clock.unix_ms()) is not Standing.REVOKED:
            check_leaves_operator(key, self._keys.all(), self._clock.unix_ms())
            key = await self._registry.revoke(key, by=at_place(caller, exchange))
        span.note(key=key.record.id)
        await exchange.answer_json(200, self._shown(key))

    def _record(self, body: CreateBody, caller: Caller, sha256: str) -> KeyRecord:
        """Return the key that a body asks for, checked but for what its maker may give."""
        now_ms = self._clock.unix_ms()
        tenant = body.tenant or caller.tenant
        if tenant == REGISTRY:
            raise BadRequestError(f"tenant: {REGISTRY!r} is the server's own", param="tenant")
        if not body.label.isprintable():
            raise BadRequestError("label: expected printable characters", param="label")
        roles = checked_roles(body.roles, self._roles)
        opened = scopes_of(roles, self._roles, tenant=OPERATOR_TENANT)  # `checked` refuses others
        by_default = () if roles else SCOPES_DEFAULT
        scopes = {*opened, *(by_default if body.scopes is None else body.scopes)}
        expires_ms = None
        if body.expires is not None:
            expires_ms = moment_ms(
                body.expires, now_ms=now_ms, param="expires", max_ms=EXPIRES_MS_MAX
            )
        return KeyRecord(
            id=self._ids.new("key"),
            sha256=sha256,
            tenant=tenant,
            scopes=checked(scopes, tenant),
            created_ms=now_ms,
            label=body.label,
            expires_ms=expires_ms,
            lane=body.lane,
            requests_per_minute=body.limits.requests_per_minute,
            burst=body.limits.burst,
            roles=roles,
        )

    def _actor(self, caller: Caller) -> Key:
        """Return the caller's key, or what stands for it where there is a token."""
        if caller.ends_ms is not None:
            return bearer(caller)
        key = self._keys.get(caller.key_id)
        if key is None:  # ended and forgotten at another server, as was learned right now
            raise KeyInvalidError("this key is not known here")
        return key

    def _named(self, exchange: Exchange, caller: Caller) -> tuple[Key, Key]:
        """Return the caller's own key and the one that the path names."""
        key_id = exchange.path.removeprefix(PATH + "/").partition("/")[0]
        actor, key = self._actor(caller), self._keys.get(key_id)
        if key is None or not sees(actor, key):
            raise NotFoundError(f"there is no key {key_id[:64]!r}")
        return actor, key

    def _shown(self, key: Key) -> dict[str, Any]:
        """Return what may be told of a key: never a secret, never a hash."""
        record, now_ms = key.record, self._clock.unix_ms()
        rate = rate_of(key, self._rate)
        old_until_ms = key.rotation.old_until_ms if key.rotation is not None else 0
        return {
            "id": record.id,
            "label": record.label,
            "tenant": record.tenant,
            "scopes": record.scopes,
            "roles": record.roles,
            "lane": record.lane.value,
            "limits": {
                "requests_per_minute": round(rate.per_s * 60, 6),
                "burst": int(rate.burst),
            },
            "state": key.standing(now_ms).value,
            "created_at": shown(record.created_ms),
            "expires_at": _shown_or_none(record.expires_ms),
            "rotated_at": _shown_or_none(key.rotation.at_ms if key.rotation else None),
            "old_secret_until": _shown_or_none(old_until_ms if old_until_ms > now_ms else None),
            "revoked_at": _shown_or_none(key.revoked_ms),
            "last_used_at": _shown_or_none(self._keys.last_used_ms(record.id)),
        }


def _shown_or_none(unix_ms: int | None) -> str | None:
    return None if unix_ms is None else shown(unix_ms)
