"""Keys in the log: what survives, what other servers learn, and who did it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from murmurate.adapters.memory import MemoryLog
from murmurate.adapters.sqlite.log import SqliteLog
from murmurate.core.errors import (
    KeyInvalidError,
    KeyReplacedError,
    KeyRevokedError,
    LogConflictError,
    LogUnavailableError,
    TooManyKeysError,
)
from murmurate.core.ports import Entry, Log, Stored
from murmurate.core.types import Caller
from murmurate.gateway.audit import AUDIT, Audit
from murmurate.gateway.keyring import Keys
from murmurate.gateway.keys import CREATED, REGISTRY, Key, KeyRecord, digest, entry_of
from murmurate.gateway.registry import (
    ENDED_KEPT_MS,
    KEYS_MAX,
    KEYS_PER_TENANT_MAX,
    Registry,
)
from tests.fakes import FakeClock, RecordingLog, seeded_ids, until

BY = Caller("key_boss", "default")
RECORD = KeyRecord("key_1", digest("mur_right"), "acme", ("chat",), 1_000_000, label="web shop")
RIGHT = b"Bearer mur_right"


class Server:
    """One of several servers on the same log."""

    def __init__(self, log: Log, clock: FakeClock) -> None:
        self.keys = Keys(clock=clock)
        self.registry = Registry(self.keys, log=log, clock=clock, ids=seeded_ids(clock))

    def key(self, key_id: str = "key_1") -> Key:
        found = self.keys.get(key_id)
        assert found is not None
        return found


async def entries_of(log: MemoryLog, stream: str) -> list[Stored]:
    async with aclosing(log.read(REGISTRY, stream)) as entries:
        return [entry async for entry in entries]


def test_every_change_survives_and_is_in_force_at_once() -> None:
    async def story() -> None:
        clock = FakeClock()
        log = MemoryLog(clock=clock)
        server = Server(log, clock)
        await server.registry.create(RECORD, BY)
        server.keys.admit(RIGHT)
        await server.registry.rotate(server.key(), secret="mur_next", grace_ms=0, by=BY)
        server.keys.admit(b"Bearer mur_next")
        with pytest.raises(KeyReplacedError):
            server.keys.admit(RIGHT)
        again = Server(log, clock)
        await again.registry.open()
        assert again.keys.all() == server.keys.all()
        await server.registry.revoke(server.key(), by=BY)
        with pytest.raises(KeyRevokedError):
            server.keys.admit(b"Bearer mur_next")
        later = Server(log, clock)
        await later.registry.open()
        assert later.keys.all() == server.keys.all()

    asyncio.run(story())


def test_another_server_catches_up_with_what_changed_since() -> None:
    async def story() -> None:
        clock = FakeClock()
        log = MemoryLog(clock=clock)
        one, two = Server(log, clock), Server(log, clock)
        for server in (one, two):
            await server.registry.open()
        await one.registry.create(RECORD, BY)
        with pytest.raises(KeyInvalidError):
            two.keys.admit(RIGHT)
        await two.registry.catch_up()
        two.keys.admit(RIGHT)
        await one.registry.rotate(one.key(), secret="mur_next", grace_ms=0, by=BY)
        await one.registry.revoke(one.key(), by=BY)
        await two.registry.catch_up()
        assert two.key() == one.key()
        with pytest.raises(KeyRevokedError):
            two.keys.admit(b"Bearer mur_next")

    asyncio.run(story())


def test_two_servers_on_one_file_agree(tmp_path: Path) -> None:
    async def story() -> None:
        clock = FakeClock()
        logs = [SqliteLog(tmp_path / "truth.db", clock=clock) for _ in "12"]
        one, two = (Server(log, clock) for log in logs)
        for server in (one, two):
            await server.registry.open()
        await one.registry.create(RECORD, BY)
        await two.registry.catch_up()
        await two.registry.rotate(two.key(), secret="mur_next", grace_ms=0, by=BY)
        await one.registry.catch_up()
        await one.registry.revoke(one.key(), by=BY)
        await two.registry.catch_up()
        late = Server(logs[1], clock)
        await late.registry.open()
        for server in (one, two, late):
            assert server.key() == one.key()
            with pytest.raises(KeyRevokedError):
                server.keys.admit(b"Bearer mur_next")
        for log in logs:
            await log.close()

    asyncio.run(story())


def test_of_two_servers_that_change_a_key_at_once_one_is_told_to_read_again() -> None:
    async def story() -> None:
        clock = FakeClock()
        log = MemoryLog(clock=clock)
        one, two = Server(log, clock), Server(log, clock)
        await one.registry.create(RECORD, BY)
        await two.registry.open()
        await one.registry.rotate(one.key(), secret="mur_a", grace_ms=0, by=BY)
        with pytest.raises(LogConflictError):
            await two.registry.rotate(two.key(), secret="mur_b", grace_ms=0, by=BY)
        with pytest.raises(KeyInvalidError):
            two.keys.admit(b"Bearer mur_b")
        assert len(await entries_of(log, AUDIT)) == 2

    asyncio.run(story())


class SlowReader(MemoryLog):
    """A log whose readers of a key get what it held when they asked, but only at the gate."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock=clock)
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = 0

    async def read(self, tenant: str, stream: str, *, after: int = 0) -> AsyncGenerator[Stored]:
        async with aclosing(super().read(tenant, stream, after=after)) as entries:
            page = [entry async for entry in entries]
        if stream != AUDIT:
            self.waiting += 1
            await self.gate.wait()
            self.waiting -= 1
        for entry in page:
            yield entry


@pytest.mark.parametrize("forgotten", [False, True])
def test_a_slow_look_at_the_log_brings_no_revoked_key_back(*, forgotten: bool) -> None:
    async def story() -> None:
        clock = FakeClock()
        log = SlowReader(clock)
        server = Server(log, clock)
        if forgotten:
            filled(server, KEYS_PER_TENANT_MAX - 1, "acme")
        await server.registry.create(RECORD, BY)
        log.gate.clear()
        looks = [asyncio.create_task(server.registry.catch_up()) for _ in "12"]
        await until(lambda: log.waiting > 0)
        await server.registry.revoke(server.key(), by=BY)
        if forgotten:
            await server.registry.create(msgspec.structs.replace(RECORD, id="k", sha256="2"), BY)
        assert not admitted(server.keys, "mur_right")
        log.gate.set()
        await asyncio.gather(*looks)
        assert not admitted(server.keys, "mur_right")
        assert log.waiting == 0

    asyncio.run(story())


def test_following_outlasts_an_outage_and_notes_it_once() -> None:
    class Flaky(MemoryLog):
        """A log that can't be read for a while."""

        failures = 3

        def read(self, tenant: str, stream: str, *, after: int = 0):  # type: ignore[no-untyped-def] # noqa: ANN202
            if self.failures:
                self.failures -= 1
                raise LogUnavailableError("the file is locked")
            return super().read(tenant, stream, after=after)

    async def story() -> None:
        clock = FakeClock()
        log = Flaky(clock=clock)
        server, events = Server(log, clock), RecordingLog()
        await Server(log, clock).registry.create(RECORD, BY)
        following = asyncio.create_task(server.registry.follow(events))
        while server.keys.get("key_1") is None:
            await asyncio.sleep(0)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        [event] = events.named("keys.unread")
        assert event["code"] == "log.unavailable"
        assert set(clock.slept_s) == {1.0}

    asyncio.run(story())


def test_the_audit_says_who_did_what_and_holds_no_secret_and_no_hash() -> None:
    async def story() -> None:
        clock = FakeClock()
        log = MemoryLog(clock=clock)
        server = Server(log, clock)
        secrets: list[str] = []
        await server.registry.ensure_operator(lambda _, secret: secrets.append(secret))
        await server.registry.create(RECORD, BY)
        await server.registry.rotate(server.key(), secret="mur_next", grace_ms=5, by=BY)
        await server.registry.revoke(server.key(), by=BY)
        kept = await entries_of(log, AUDIT)
        said = [msgspec.json.decode(entry.body, type=Audit) for entry in kept]
        assert [(it.action, it.by, it.by_tenant, it.tenant) for it in said] == [
            ("key.created", None, None, "default"),
            ("key.created", "key_boss", "default", "acme"),
            ("key.rotated", "key_boss", "default", "acme"),
            ("key.revoked", "key_boss", "default", "acme"),
        ]
        assert said[1].facts["label"] == "web shop"
        assert said[2].facts == {"grace_ms": 5}
        whole = b"".join(entry.body for entry in kept).decode()
        for secret in ("mur_right", "mur_next", *secrets):
            assert secret not in whole
            assert digest(secret) not in whole

    asyncio.run(story())


def test_a_first_key_is_made_only_where_none_manages_all_others() -> None:
    async def story() -> None:
        clock = FakeClock()
        server = Server(MemoryLog(clock=clock), clock)
        secrets: list[str] = []
        for _ in range(2):
            await server.registry.ensure_operator(lambda _, secret: secrets.append(secret))
        assert len(secrets) == 1
        assert server.keys.admit(f"Bearer {secrets[0]}".encode()).caller.scopes == ("*",)

    asyncio.run(story())


def test_keys_that_ended_long_ago_are_forgotten() -> None:
    async def story() -> None:
        clock = FakeClock()
        log = MemoryLog(clock=clock)
        server = Server(log, clock)
        expires_ms, kept_s = clock.unix_ms() + 1000, ENDED_KEPT_MS / 1000
        expiring = msgspec.structs.replace(RECORD, id="key_2", sha256="2", expires_ms=expires_ms)
        for record in (RECORD, expiring, msgspec.structs.replace(RECORD, id="key_3", sha256="3")):
            await server.registry.create(record, BY)
        await server.registry.revoke(server.key(), by=BY)
        began_s = clock.time_s
        for after_s, ids in ((0, [1, 2, 3]), (kept_s + 0.5, [2, 3]), (kept_s + 2, [3])):
            clock.time_s = began_s + after_s
            again = Server(log, clock)
            await again.registry.open()
            assert [key.record.id for key in again.keys.all()] == [f"key_{n}" for n in ids]
        kinds = [entry.kind for entry in await entries_of(log, AUDIT)]
        assert kinds[-2:] == ["key.forgotten"] * 2

    asyncio.run(story())


def test_a_damaged_key_opens_nothing_and_an_unknown_one_is_nothing() -> None:
    async def story() -> None:
        clock = FakeClock()
        log = MemoryLog(clock=clock)
        server = Server(log, clock)
        audit = Audit(CREATED, "key_gone", "acme", None, None, 0)
        await log.append([Entry(REGISTRY, AUDIT, CREATED, msgspec.json.encode(audit))])
        await server.registry.catch_up()
        assert server.keys.all() == []
        await log.append([entry_of(RECORD), Entry(REGISTRY, "key/key_1", "key.odd", b"{}")])
        fresh = Server(log, clock)
        [damaged] = await fresh.registry.open()
        assert "key_1 is 'key.odd'" in str(damaged)
        assert fresh.keys.all() == []

    asyncio.run(story())


async def noted(server: Server, count: int) -> list[tuple[str, str]]:
    """Follow until something damaged was noted so often; return which keys, and the codes."""
    events = RecordingLog()
    following = asyncio.create_task(server.registry.follow(events))
    await until(lambda: following.done() or len(events.named("keys.damaged")) >= count)
    following.cancel()
    [end] = await asyncio.gather(following, return_exceptions=True)
    assert isinstance(end, asyncio.CancelledError), "it goes on for ever"
    return sorted((it["key"], it["code"]) for it in events.named("keys.damaged"))


def test_a_key_that_is_damaged_later_opens_nothing_and_the_others_are_followed() -> None:
    async def story() -> None:
        clock = FakeClock()
        log = MemoryLog(clock=clock)
        one, two = Server(log, clock), Server(log, clock)
        await one.registry.create(RECORD, BY)
        await two.registry.catch_up()
        audit = Audit("key.odd", "key_1", "acme", None, None, 0)
        await log.append(
            [
                Entry(REGISTRY, "key/key_1", "key.odd", b"{}"),
                Entry(REGISTRY, AUDIT, "key.odd", msgspec.json.encode(audit)),
            ]
        )
        other = msgspec.structs.replace(RECORD, id="key_2", sha256=digest("mur_other"))
        await one.registry.create(other, BY)
        assert await noted(two, 1) == [("key_1", "log.corrupt")]
        assert not admitted(two.keys, "mur_right"), "what can't be read may be its revocation"
        assert admitted(two.keys, "mur_other")

    asyncio.run(story())


@pytest.mark.parametrize("body", [b"{}", b"\xff", b"nonsense"])
def test_an_entry_of_the_audit_that_cannot_be_read_hides_no_change(body: bytes) -> None:
    async def story() -> None:
        clock = FakeClock()
        log = MemoryLog(clock=clock)
        one, two = Server(log, clock), Server(log, clock)
        forgotten = msgspec.structs.replace(RECORD, id="key_2", sha256=digest("mur_old"))
        for record in (RECORD, forgotten):
            await one.registry.create(record, BY)
        await two.registry.catch_up()
        await log.append([Entry(REGISTRY, AUDIT, CREATED, body)])
        await one.registry.revoke(one.key(), by=BY)
        await log.forget(REGISTRY, "key/key_2")
        other = msgspec.structs.replace(RECORD, id="key_3", sha256=digest("mur_other"))
        await one.registry.create(other, BY)
        assert await noted(two, 1) == [(AUDIT, "log.corrupt")]
        good = [it for it in ("mur_right", "mur_old", "mur_other") if admitted(two.keys, it)]
        assert good == ["mur_other"]
        await two.registry.catch_up()
        assert len(await entries_of(log, AUDIT)) == 5
        assert two.registry._damaged == {}, "it is noted once"

    asyncio.run(story())


def filled(server: Server, count: int, tenant: str) -> None:
    for number in range(count):
        name = f"{tenant}_{number}"
        fields = {"id": name, "sha256": name, "tenant": tenant}
        server.keys.put(Key(msgspec.structs.replace(RECORD, **fields), 1))


def test_there_is_an_end_to_the_keys_of_a_tenant_and_others_still_have_room() -> None:
    async def story() -> None:
        clock = FakeClock()
        server = Server(MemoryLog(clock=clock), clock)
        filled(server, KEYS_PER_TENANT_MAX, "acme")
        with pytest.raises(TooManyKeysError, match="'acme' has 1000 keys, as"):
            await server.registry.create(RECORD, BY)
        await server.registry.create(msgspec.structs.replace(RECORD, tenant="birch"), BY)

    asyncio.run(story())


def test_there_is_an_end_to_all_keys() -> None:
    async def story() -> None:
        clock = FakeClock()
        server = Server(MemoryLog(clock=clock), clock)
        for number in range(KEYS_MAX // KEYS_PER_TENANT_MAX):
            filled(server, KEYS_PER_TENANT_MAX, f"t{number}")
        with pytest.raises(TooManyKeysError) as raised:
            await server.registry.create(RECORD, BY)
        assert not any(digit in raised.value.detail for digit in "0123456789"), "others' business"

    asyncio.run(story())


def test_the_key_that_ended_first_makes_room_on_every_server() -> None:
    async def story() -> None:
        clock = FakeClock()
        log = MemoryLog(clock=clock)
        server, other = Server(log, clock), Server(log, clock)
        filled(server, KEYS_PER_TENANT_MAX - 3, "acme")
        expires_ms = clock.unix_ms() + 5000
        for name, fields in (
            ("key_1", {}),
            ("key_2", {"sha256": "2", "expires_ms": expires_ms}),
            ("key_3", {"sha256": "3"}),
        ):
            await server.registry.create(msgspec.structs.replace(RECORD, id=name, **fields), BY)
        clock.time_s += 6
        await server.registry.revoke(server.key("key_1"), by=BY)
        await other.registry.open()
        await server.registry.create(msgspec.structs.replace(RECORD, id="key_4", sha256="4"), BY)
        for it in (server, other):
            await it.registry.catch_up()
            known = [name for name in ("key_1", "key_2", "key_3", "key_4") if it.keys.get(name)]
            assert known == ["key_1", "key_3", "key_4"]
        assert await entries_of(log, "key/key_2") == []
        last = (await entries_of(log, AUDIT))[-2]
        assert (last.kind, b'"by":null' in last.body) == ("key.forgotten", True)

    asyncio.run(story())


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["create", "rotate", "revoke", "wait"]),
        st.integers(0, 1),
        st.integers(0, 3),
        st.sampled_from([0, 1000, 5000]),
    ),
    max_size=12,
)


class Expected:
    """What is true of the secrets, kept without a log: when each of them ends."""

    def __init__(self) -> None:
        self.current: dict[str, str] = {}
        self.ends_ms: dict[str, float] = {}
        self.expires_ms: dict[str, float] = {}

    def create(self, name: str, secret: str, expires_ms: float) -> None:
        self.current[name] = secret
        self.ends_ms[secret] = self.expires_ms[name] = expires_ms

    def rotate(self, name: str, secret: str, now_ms: int, grace_ms: int) -> None:
        old = self.current[name]
        for kept in [it for it in self.ends_ms if it.startswith(f"{name} ") and it != old]:
            self.ends_ms[kept] = 0
        self.ends_ms[old] = min(now_ms + grace_ms, self.ends_ms[old])
        self.ends_ms[secret] = self.expires_ms[name]
        self.current[name] = secret

    def revoke(self, name: str) -> None:
        for secret in self.ends_ms:
            if secret.startswith(f"{name} "):
                self.ends_ms[secret] = 0


@given(STEPS)
@settings(max_examples=60, deadline=None)
def test_whatever_is_changed_where_all_servers_admit_the_same_secrets(
    steps: list[tuple[str, int, int, int]],
) -> None:
    async def story() -> None:
        clock = FakeClock()
        log = MemoryLog(clock=clock)
        servers = [Server(log, clock), Server(log, clock)]
        expected = Expected()
        for number, (step, which, key, ms) in enumerate(steps):
            name, secret, server = f"key_{key}", f"key_{key} {number}", servers[which]
            known = server.keys.get(name)
            if step == "create" and known is None:
                expires_ms = clock.unix_ms() + ms if ms else None
                fields = {"id": name, "sha256": digest(secret), "expires_ms": expires_ms}
                await server.registry.create(msgspec.structs.replace(RECORD, **fields), BY)
                expected.create(name, secret, expires_ms or float("inf"))
            elif step == "rotate" and known is not None:
                await server.registry.rotate(known, secret=secret, grace_ms=ms, by=BY)
                if known.revoked_ms is None:
                    expected.rotate(name, secret, clock.unix_ms(), ms)
            elif step == "revoke" and known is not None:
                await server.registry.revoke(known, by=BY)
                expected.revoke(name)
            elif step == "wait":
                clock.time_s += ms / 1000
            for it in servers:
                await it.registry.catch_up()
            late = Server(log, clock)
            await late.registry.open()
            good = {s for s, end_ms in expected.ends_ms.items() if clock.unix_ms() < end_ms}
            for it in (*servers, late):
                assert {s for s in expected.ends_ms if admitted(it.keys, s)} == good

    asyncio.run(story())


def admitted(keys: Keys, secret: str) -> bool:
    try:
        keys.admit(f"Bearer {secret}".encode())
    except KeyInvalidError:
        return False
    return True
