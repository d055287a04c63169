"""`/api/keys` through the whole gateway: what it makes, shows and refuses."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import msgspec
import pytest

from murmurate.config import RoleConfig
from murmurate.core.ports import Entry
from murmurate.core.types import Lane
from murmurate.gateway.audit import AUDIT, Audit
from murmurate.gateway.exchange import ABORT
from murmurate.gateway.keys import REGISTRY, Key, KeyRecord, digest
from murmurate.gateway.roles import roles_of
from tests.fakes import DONE, LoopClock, Saying, Text, run_skipping_time, until
from tests.gateway.client import KEY, Answer, Call, House, run

EVERYTHING = {
    "label": "nightly 报告",
    "scopes": ["chat", "models"],
    "expires": "30d",
    "lane": "batch",
    "limits": {"requests_per_minute": 30, "burst": 3},
}


def tenant_a(**fields: Any) -> House:
    """A gateway whose key is the admin of tenant `a`."""
    return House(**fields)


def with_key(secret: str) -> dict[str, str | None]:
    return {"authorization": f"Bearer {secret}"}


def create(house: House, body: dict[str, Any], **options: Any) -> Answer:
    return house.post("/api/keys", body, **options)


def add(house: House, tenant: str, *scopes: str, id: str, **fields: Any) -> str:
    """Add a key past all checks; return its secret."""
    secret = f"mur_{id}"
    record = KeyRecord(id, digest(secret), tenant, scopes, 1, **fields)
    house.keys.put(Key(record, 1))
    return secret


def test_a_key_is_made_with_all_that_was_asked_for_and_works() -> None:
    model = Saying(Text("hi"), DONE)
    house = tenant_a(model=model)
    made = create(house, EVERYTHING).json()
    secret = made.pop("secret")
    assert made == {
        "id": made["id"],
        "label": "nightly 报告",
        "tenant": "a",
        "scopes": ["chat", "models"],
        "roles": [],
        "lane": "batch",
        "limits": {"requests_per_minute": 30.0, "burst": 3},
        "state": "active",
        "created_at": "1970-01-01T00:16:40Z",
        "expires_at": "1970-01-31T00:16:40Z",
        "rotated_at": None,
        "old_secret_until": None,
        "revoked_at": None,
        "last_used_at": None,
    }
    assert house.get(f"/api/keys/{made['id']}").json() == made
    assert [house.chat(headers=with_key(secret)).status for _ in range(4)] == [200] * 3 + [429]
    assert model.asked[0].lane is Lane.BATCH
    assert model.asked[0].scopes == ("chat", "models")
    house.chat(headers={**with_key(secret), "x-murmurate-lane": "urgent"})
    shown = house.get(f"/api/keys/{made['id']}").json()
    assert shown["last_used_at"] == "1970-01-01T00:16:40Z"


def test_a_key_says_itself_where_its_requests_wait_unless_it_is_asked() -> None:
    model = Saying(DONE)
    house = tenant_a(model=model)
    secret = create(house, {"lane": "batch"}).json()["secret"]
    house.chat(headers={**with_key(secret), "x-murmurate-lane": "urgent"})
    assert model.asked[0].lane is Lane.URGENT


def test_an_empty_body_makes_a_key_for_an_application() -> None:
    made = run(lambda: tenant_a().send("POST", "/api/keys")).json()
    assert made["scopes"] == ["chat", "embeddings", "models"]
    assert (made["lane"], made["expires_at"], made["tenant"]) == ("urgent", None, "a")
    assert made["limits"] == {"requests_per_minute": 600.0, "burst": 60}


def test_a_key_ends_when_it_was_to() -> None:
    house = tenant_a()
    secret = create(house, {"expires": "1h"}).json()["secret"]
    house.clock.time_s += 3600
    answer = house.get("/v1/models", headers=with_key(secret))
    assert answer.status == 401
    assert answer.error["code"] == "key.expired"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert [key["state"] for key in house.get("/api/keys").json()["keys"]] == ["active", "expired"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"scopes": ["chta"]}, "scopes"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["operator"]}, "scopes"),
        ({"scopes": "chat"}, "scopes"),
        ({"scopes": [1]}, "scopes[0]"),
        ({"expires": "tomorrow"}, "expires"),
        ({"expires": "0s"}, "expires"),
        ({"lane": "slow"}, "lane"),
        ({"limits": {"requests_per_minute": 0}}, "limits.requests_per_minute"),
        ({"limits": {"burst": 0}}, "limits.burst"),
        ({"limits": {"tokens": 5}}, "limits"),
        ({"label": "x" * 101}, "label"),
        ({"label": "a\u001b[31mb"}, "label"),
        ({"tenant": "Acme/1"}, "tenant"),
        ({"tenant": "a\n"}, "tenant"),
        ({"tenant": ""}, "tenant"),
        ({"tenant": "system"}, "tenant"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_wrong_field_is_a_400_that_names_it(body: dict[str, Any], param: str) -> None:
    house = tenant_a()
    answer = create(house, body)
    assert (answer.status, answer.error["param"]) == (400, param), answer.error
    assert len(house.keys) == 1


@pytest.mark.parametrize(
    ("body", "param"),
    [({"tenant": "b"}, "tenant"), ({"scopes": ["ingest"]}, "scopes"), ({"limits": {}}, "scopes")],
)
def test_a_key_can_not_give_more_than_it_has(body: dict[str, Any], param: str) -> None:
    house = tenant_a(scopes=("admin", "models"))
    answer = create(house, body)
    assert (answer.status, answer.error["code"]) == (403, "key.grant_too_wide")
    assert answer.error["param"] == param
    assert len(house.keys) == 1


def test_an_operator_makes_keys_for_every_tenant_who_then_manage_their_own() -> None:
    house = House()
    operator = with_key(add(house, "default", "*", id="key_op"))
    made = create(house, {"tenant": "b", "scopes": ["*"]}, headers=operator).json()
    theirs = with_key(made["secret"])
    assert create(house, {}, headers=theirs).json()["tenant"] == "b"
    listed = house.get("/api/keys", headers=theirs).json()["keys"]
    assert {key["tenant"] for key in listed} == {"b"}
    everyones = house.get("/api/keys", headers=operator).json()["keys"]
    assert {key["tenant"] for key in everyones} == {"a", "b", "default"}


def test_no_answer_but_those_of_making_and_rotating_holds_a_secret_or_a_hash() -> None:
    house = tenant_a()
    made = create(house, {}).json()
    whole = house.get("/api/keys").body + house.get(f"/api/keys/{made['id']}").body
    for secret in (KEY, made["secret"]):
        assert secret.encode() not in whole
        assert digest(secret).encode() not in whole


def test_a_rotated_key_has_a_new_secret_and_the_old_one_its_grace() -> None:
    house = tenant_a()
    made = create(house, {}).json()
    place = f"/api/keys/{made['id']}/rotate"
    fresh = house.post(place, {"grace": "1h"}).json()
    assert (fresh["id"], fresh["scopes"]) == (made["id"], made["scopes"])
    assert fresh["old_secret_until"] == "1970-01-01T01:16:40Z"
    assert house.new_secrets == [(digest(made["secret"]), fresh["secret"])]
    for secret in (made["secret"], fresh["secret"]):
        assert house.get("/v1/models", headers=with_key(secret)).status == 200
    house.clock.time_s += 3600
    answer = house.get("/v1/models", headers=with_key(made["secret"]))
    assert (answer.status, answer.error["code"]) == (401, "key.replaced")
    assert house.get(f"/api/keys/{made['id']}").json()["old_secret_until"] is None
    last = house.post(place, b"").json()
    answer = house.get("/v1/models", headers=with_key(fresh["secret"]))
    assert answer.error["code"] == "key.replaced"
    assert house.get("/v1/models", headers=with_key(last["secret"])).status == 200


@pytest.mark.parametrize("grace", ["31d", "soon", "-1h", 5])
def test_a_wrong_grace_is_a_400(grace: Any) -> None:
    answer = tenant_a().post("/api/keys/key_1/rotate", {"grace": grace})
    assert (answer.status, answer.error["param"]) == (400, "grace")


def test_a_revoked_key_opens_nothing_from_then_on_and_revoking_again_changes_nothing() -> None:
    house = tenant_a()
    made = create(house, {}).json()
    place = f"/api/keys/{made['id']}"
    revoked = run(lambda: house.send("DELETE", place)).json()
    assert (revoked["state"], revoked["revoked_at"]) == ("revoked", "1970-01-01T00:16:40Z")
    answer = house.get("/v1/models", headers=with_key(made["secret"]))
    assert (answer.status, answer.error["code"]) == (401, "key.revoked")
    house.clock.time_s += 5
    assert run(lambda: house.send("DELETE", place)).json()["revoked_at"] == revoked["revoked_at"]
    answer = house.post(f"{place}/rotate", {})
    assert (answer.status, answer.error["code"]) == (409, "key.unchangeable")


def test_a_key_may_revoke_itself_and_hears_that_it_did() -> None:
    house = tenant_a()
    answer = run(lambda: house.send("DELETE", "/api/keys/key_1"))
    assert (answer.status, answer.json()["state"]) == (200, "revoked")
    assert house.get("/api/keys").status == 401


def test_the_last_operator_can_be_rotated_but_not_revoked() -> None:
    house = House()
    operator = with_key(add(house, "default", "*", id="key_op"))
    answer = run(lambda: house.send("DELETE", "/api/keys/key_op", headers=operator))
    assert (answer.status, answer.error["code"]) == (409, "key.last_operator")


def test_keys_with_rights_that_one_lacks_are_neither_rotated_nor_revoked() -> None:
    house = tenant_a(scopes=("admin",))
    add(house, "a", "chat", id="key_2")
    answers = [
        house.post("/api/keys/key_2/rotate", {}),
        run(lambda: house.send("DELETE", "/api/keys/key_2")),
    ]
    assert [answer.error["code"] for answer in answers] == ["key.grant_too_wide"] * 2


def test_a_key_that_another_server_revoked_and_forgot_meanwhile_is_refused() -> None:
    house = tenant_a()
    audit = Audit("key.forgotten", "key_1", "a", None, None, 0)
    said = Entry(REGISTRY, AUDIT, "key.forgotten", msgspec.json.encode(audit))
    house.kept._store(said, 0)
    answer = house.get("/api/keys")
    assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")


def test_another_server_that_was_faster_is_a_conflict() -> None:
    house = tenant_a()
    key = house.keys.get("key_1")
    assert key is not None
    house.keys.put(msgspec.structs.replace(key, seq=7))
    answer = house.post("/api/keys/key_1/rotate", {})
    assert (answer.status, answer.error["code"]) == (409, "log.conflict")
    assert house.new_secrets == []


# A key that ends while something runs with it.


def end_by_revoking(house: House) -> None:
    key = house.keys.get("key_2")
    assert key is not None
    house.keys.put(msgspec.structs.replace(key, seq=2, revoked_ms=1))


def test_a_stream_whose_key_is_revoked_ends_with_the_error_and_no_end_mark() -> None:
    async def story() -> None:
        model = Saying(Text("one "), asyncio.Event(), Text("two"), DONE)
        house = House(model=model)
        secret = add(house, "a", "chat", id="key_2")
        call, served = house.start(
            "POST",
            "/v1/chat/completions",
            b'{"model":"tiny","messages":[{"role":"user","content":"hi"}],"stream":true}',
            headers=with_key(secret),
        )
        await until(lambda: b"one " in call.answer.body)
        end_by_revoking(house)
        await served
        *_, last = call.answer.events()
        assert last["error"]["code"] == "key.revoked"
        assert call.answer.ended
        assert house.log.named("stream.broken") == [{"code": "key.revoked"}]
        assert model.closed_early == 1, "the engine below was told"

    asyncio.run(story())


def test_a_stream_whose_key_expires_ends_at_that_time() -> None:
    async def story() -> None:
        model = Saying(Text("one "), asyncio.Event(), Text("two"), DONE)
        house = House(model=model, clock=LoopClock())
        expires_ms = house.clock.unix_ms() + 60_000
        secret = add(house, "a", "chat", id="key_2", expires_ms=expires_ms)
        call, served = house.start(
            "POST",
            "/v1/chat/completions",
            b'{"model":"tiny","messages":[{"role":"user","content":"hi"}],"stream":true}',
            headers=with_key(secret),
        )
        await served
        assert b"one " in call.answer.body
        assert call.answer.events()[-1]["error"]["code"] == "key.expired"
        assert abs(house.clock.unix_ms() - expires_ms) < 1000

    run_skipping_time(story())


def test_a_plain_answer_whose_key_is_revoked_is_a_401() -> None:
    async def story() -> None:
        model = Saying(asyncio.Event(), DONE)
        house = House(model=model)
        secret = add(house, "a", "chat", id="key_2")
        call, served = house.start(
            "POST",
            "/v1/chat/completions",
            b'{"model":"tiny","messages":[{"role":"user","content":"hi"}]}',
            headers=with_key(secret),
        )
        await until(lambda: bool(model.asked))
        end_by_revoking(house)
        await served
        assert (call.answer.status, call.answer.error["code"]) == (401, "key.revoked")

    asyncio.run(story())


def test_an_ingest_whose_key_is_revoked_says_so_in_its_last_line() -> None:
    async def story() -> None:
        house = House()
        house.platform.progress = ({"read": 1}, asyncio.Event())
        secret = add(house, "a", "ingest", id="key_2")
        call, served = house.start("POST", "/api/ingest", headers=with_key(secret))
        await until(lambda: bool(call.answer.chunks))
        end_by_revoking(house)
        await served
        assert b'"code":"key.revoked"' in call.answer.chunks[-1]
        assert house.platform.closed_early == 1

    asyncio.run(story())


def test_an_answer_that_was_sent_whole_stays_whole_when_its_key_ends_right_behind_it() -> None:
    async def story() -> None:
        house = House(model=Saying(Text("all of it"), DONE))
        secret = add(house, "a", "chat", id="key_2")
        call, served = house.start(
            "POST",
            "/v1/chat/completions",
            b'{"model":"tiny","messages":[{"role":"user","content":"hi"}]}',
            headers=with_key(secret),
        )
        await until(lambda: call.answer.ended)
        end_by_revoking(house)
        await served
        assert "all of it" in call.answer.body.decode()
        assert house.meter.requests == [("/v1/chat/completions", 200)]

    asyncio.run(story())


def test_a_plain_answer_that_waits_for_its_slow_reader_is_cut_when_its_key_ends() -> None:
    async def story() -> None:
        house = House(model=Saying(Text("all of it"), DONE))
        secret = add(house, "a", "chat", id="key_2")
        stuck = asyncio.Event()
        call = Call([b'{"model":"tiny","messages":[{"role":"user","content":"hi"}]}'])

        async def send(sent: MutableMapping[str, Any]) -> None:
            if sent["type"] == "http.response.body":
                stuck.set()
                await asyncio.Event().wait()

        dropped: list[bool] = []
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/chat/completions",
            "headers": [(b"host", b"localhost"), (b"authorization", f"Bearer {secret}".encode())],
            "extensions": {ABORT: lambda: dropped.append(True)},
        }
        served = asyncio.ensure_future(house.app(scope, call.receive, send))
        await stuck.wait()
        end_by_revoking(house)
        await served
        assert dropped == [True]
        assert house.log.named("stream.broken") == [{"code": "key.revoked"}]
        assert house.meter.requests == [("/v1/chat/completions", 499)]

    asyncio.run(story())


def test_other_keys_run_on_when_one_is_revoked() -> None:
    async def story() -> None:
        gate = asyncio.Event()
        model = Saying(gate, Text("late"), DONE)
        house = House(model=model)
        add(house, "a", "chat", id="key_2")
        call, served = house.start_chat()
        await until(lambda: bool(model.asked))
        end_by_revoking(house)
        gate.set()
        await served
        assert call.answer.status == 200

    asyncio.run(story())


def test_a_key_keeps_what_its_roles_opened_when_it_was_made() -> None:
    house = House(roles=roles_of({"reporter": RoleConfig(scopes=("runs", "traces"))}))
    made = house.post("/api/keys", {"roles": ["reporter", "viewer"], "scopes": ["chat"]}).json()
    assert made["roles"] == ["reporter", "viewer"]
    assert made["scopes"] == [
        "chat",
        "models",
        "sessions",
        "runs",
        "traces",
        "usage",
        "knowledge",
    ]
    key = house.keys.get(made["id"])
    assert key is not None
    assert key.caller.roles == ("reporter", "viewer")
    only = house.post("/api/keys", {"roles": ["user"]}).json()
    assert only["scopes"] == ["chat", "embeddings", "models"]
    house.roles = {}  # the configuration changes, the key does not
    assert house.get("/v1/models", headers=with_key(only["secret"])).status == 200


@pytest.mark.parametrize(
    ("roles", "words"),
    [
        (["usr"], "there is no role 'usr'; there are: admin, developer"),
        (["operator"], "'operator' is for keys of the tenant 'default' only"),
        ("user", "Expected `array`"),
    ],
)
def test_a_role_that_cannot_be_given_is_named(roles: object, words: str) -> None:
    answer = House().post("/api/keys", {"roles": roles})
    assert answer.status == 400
    assert words in answer.error["message"]
