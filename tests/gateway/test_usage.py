"""The route of the book, and who is noted in it."""

import pytest

from murmurate.core.types import Usage
from tests.gateway.client import House

DAY = 86_400.0


def test_the_last_thirty_days_are_split_by_day_and_model() -> None:
    house = House()
    house.clock.time_s = 20_778 * DAY  # 2026-11-21
    answer = house.get("/api/usage").json()
    assert house.ledger.asked_for == [("a", "2026-10-23", "2026-11-21", ("day", "model"))]
    assert answer == {
        "tenant": "a",
        "currency": "EUR",
        "since": "2026-10-23",
        "until": "2026-11-21",
        "rows": [{"used": {"requests": 1}}],
    }


def test_days_and_parts_may_be_named() -> None:
    house = House()
    house.get("/api/usage?since=2026-01-02&until=2026-02-01&by=key,hour")
    house.get("/api/usage?until=2026-02-01&by=")
    assert house.ledger.asked_for == [
        ("a", "2026-01-02", "2026-02-01", ("key", "hour")),
        ("a", "2026-01-03", "2026-02-01", ()),
    ]


@pytest.mark.parametrize(
    ("query", "status", "param"),
    [
        ("since=yesterday", 400, "since"),
        ("until=2026-02-30", 400, "until"),
        ("days=3", 400, "days"),
        ("tenant=b", 403, None),
    ],
)
def test_what_makes_no_sense_is_refused(query: str, status: int, param: str | None) -> None:
    house = House(scopes=("usage",))
    answer = house.get(f"/api/usage?{query}")
    assert (answer.status, answer.error["param"]) == (status, param)
    assert house.ledger.asked_for == []


def test_chats_and_embeddings_are_noted_with_their_key() -> None:
    house = House()
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
    house.post("/v1/chat/completions", chat)
    house.post("/v1/embeddings", {"model": "minilm", "input": "abcde"})
    refused = {"model": "nobodys", "messages": [{"role": "user", "content": "hello"}]}
    assert house.post("/v1/chat/completions", refused).status == 404
    assert house.ledger.noted == [
        ("a", "key_1", "tiny", None),
        ("a", "key_1", "minilm", None),
        ("a", "key_1", "minilm", Usage(5, 0)),
    ]
