"""`GET /api/audit`: admins see what was done in their tenant, operators what was done anywhere."""

import pytest

from tests.gateway.client import KEY, Answer, House, run


def with_key(secret: str) -> dict[str, str | None]:
    return {"authorization": f"Bearer {secret}"}


def audit(house: House, query: str = "", secret: str = KEY) -> Answer:
    return house.get(f"/api/audit{query}", headers=with_key(secret))


def test_a_key_s_life_stands_there_with_who_what_when_where_and_how_it_ended() -> None:
    house = House()

    async def story() -> None:
        made = (await house.send("POST", "/api/keys", {"label": "x"}, client="10.1.2.3")).json()
        house.clock.time_s += 5
        await house.send("POST", f"/api/keys/{made['id']}/rotate", {}, client="10.1.2.4")
        await house.send("DELETE", f"/api/keys/{made['id']}")
        await house.send("POST", "/api/ingest", {"collections": ["docs"]}, client="10.1.2.5")
        found = (await house.send("GET", "/api/audit")).json()["entries"]
        assert [entry["action"] for entry in found] == [
            "ingest",
            "key.revoked",
            "key.rotated",
            "key.created",
        ]
        facts = found[3].pop("facts")
        assert found[3] == {
            "number": 1,
            "at": "1970-01-01T00:16:40Z",
            "action": "key.created",
            "result": "done",
            "tenant": "a",
            "by": "key_1",
            "by_tenant": "a",
            "place": "10.1.2.3",
            "key": made["id"],
        }
        assert (facts["label"], facts["scopes"]) == ("x", ["chat", "embeddings", "models"])
        assert (found[2]["place"], found[2]["at"]) == ("10.1.2.4", "1970-01-01T00:16:45Z")
        assert (found[0]["result"], found[0]["place"]) == ("begun", "10.1.2.5")
        assert found[0]["facts"]["collections"] == ["docs"]
        assert made["secret"] not in repr(found)

    run(story)


def test_filters_narrow_it_and_pages_go_on() -> None:
    house = House()
    ids = [house.post("/api/keys", {"label": str(n)}).json()["id"] for n in range(5)]
    first = audit(house, "?limit=2").json()
    assert [entry["key"] for entry in first["entries"]] == [ids[4], ids[3]]
    second = audit(house, f"?limit=2&before={first['more']}").json()
    assert [entry["key"] for entry in second["entries"]] == [ids[2], ids[1]]
    last = audit(house, f"?limit=2&before={second['more']}").json()
    assert ([entry["key"] for entry in last["entries"]], last["more"]) == ([ids[0]], None)
    assert len(audit(house, f"?key={ids[1]}&action=key&by=key_1&since=1h").json()["entries"]) == 1
    assert audit(house, "?since=1970-01-02").json()["entries"] == []
    assert audit(house, "?action=ingest").json()["entries"] == []
    behind = audit(house, "?after=3").json()
    assert ([entry["number"] for entry in behind["entries"]], behind["more"]) == ([4, 5], 5)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("?limit=0", "limit"),
        ("?limit=201", "limit"),
        ("?limit=x", "limit"),
        ("?before=-1", "before"),
        ("?after=9999999999999999", "after"),
        ("?since=soon", "since"),
        ("?since=2027-01-31T12:00:00", "since"),
        ("?whom=me", "whom"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(query: str, param: str) -> None:
    answer = audit(House(), query)
    assert (answer.status, answer.error["param"]) == (400, param)


def test_another_tenant_is_for_operators() -> None:
    answer = audit(House(), "?tenant=b")
    assert (answer.status, answer.error["code"]) == (403, "forbidden")
    assert audit(House(), "?tenant=a").status == 200


def test_refused_tries_to_administer_are_counted() -> None:
    house = House()
    secret = house.post("/api/keys", {"scopes": ["chat", "admin"]}).json()["secret"]
    low = house.post("/api/keys", {"scopes": ["models"]}).json()["secret"]
    for _ in range(3):
        assert house.get("/api/keys", headers=with_key(low)).status == 403
    wide = house.post("/api/keys", {"scopes": ["*"]}, headers=with_key(secret))
    assert wide.status == 403
    assert house.chat(headers=with_key(low)).status == 403, "no administration: in the log only"
    run(house.trail.write_counts)
    found = audit(house, "?action=denied").json()["entries"]
    assert [(entry["result"], entry["facts"]) for entry in found] == [
        ("refused", {"what": "POST /api/keys", "code": "key.grant_too_wide", "count": 1}),
        ("refused", {"what": "GET /api/keys", "code": "key.scope_missing", "count": 3}),
    ]
