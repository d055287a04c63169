"""The routes of batches, through the whole gateway."""

import asyncio
import json
from typing import Any

import pytest

from tests.gateway.client import BATCHES_MAX, Answer, House
from tests.gateway.test_files import put


def begun(house: House, **fields: Any) -> Answer:
    listed = house.get("/v1/files").json()["data"]
    file_id = listed[0]["id"] if listed else put(house).json()["id"]
    body = {
        "input_file_id": file_id,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        **fields,
    }
    return house.post("/v1/batches", body)


def test_a_batch_is_begun_shown_listed_and_cancelled() -> None:
    house = House()
    made = begun(house, metadata={"job": "night"}, output_expires_after={"seconds": 3600})
    assert made.status == 200, made.body
    batch = made.json()
    assert (batch["object"], batch["status"]) == ("batch", "validating")
    assert batch["expires_at"] - batch["created_at"] == 86_400
    assert batch["metadata"] == {"job": "night"}
    place = f"/v1/batches/{batch['id']}"
    assert house.get(place).json() == batch
    listed = house.get("/v1/batches").json()
    assert (listed["data"], listed["has_more"]) == ([batch], False)
    assert house.get(f"/v1/batches?after={batch['id']}").json()["data"] == []
    assert house.post(f"{place}/cancel", b"").json()["status"] == "cancelling"
    kept = asyncio.run(kept_of(house, batch["id"]))
    assert kept["output_expires_s"] == 3600
    assert kept["key_id"] == "key_1"


async def kept_of(house: House, batch_id: str) -> Any:
    """Return what the log keeps of a batch."""
    stream = house.kept.read("a", f"batch/{batch_id}")
    return [json.loads(entry.body) async for entry in stream][-1]


@pytest.mark.parametrize("window", ["1s", "90m", "7d"])
def test_a_window_may_be_shorter_or_longer(window: str) -> None:
    assert begun(House(), completion_window=window).json()["completion_window"] == window


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"endpoint": "/v1/models"}, "endpoint"),
        ({"completion_window": "8d"}, "completion_window"),
        ({"completion_window": "0s"}, "completion_window"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
        ({"metadata": {"k" * 65: ""}}, "metadata"),
        ({"metadata": {"k": "v" * 513}}, ""),
        ({"output_expires_after": {"seconds": 10}}, "output_expires_after.seconds"),
        ({"output_expires_after": {"seconds": 3600, "anchor": "x"}}, "output_expires_after.anchor"),
        ({"priority": 3}, "priority"),
    ],
)
def test_a_wrong_body_begins_nothing(fields: dict[str, Any], param: str) -> None:
    house = House()
    answer = begun(house, **fields)
    assert answer.status == 400
    assert (answer.error["param"] or "").startswith(param), answer.error
    assert house.get("/v1/batches").json()["data"] == []


def test_lines_may_ask_for_no_more_than_the_key() -> None:
    house = House(scopes=("batches", "files", "embeddings"))
    answer = begun(house)
    assert (answer.status, answer.error["code"]) == (403, "key.scope_missing")
    assert begun(house, endpoint="/v1/embeddings").status == 200


def test_a_file_that_is_not_there_and_one_batch_too_many_are_refused() -> None:
    house = House()
    answer = begun(house, input_file_id="file-none")
    assert (answer.status, answer.error["code"]) == (404, "not_found")
    for _ in range(BATCHES_MAX):
        assert begun(house).status == 200
    answer = begun(house)
    assert (answer.status, answer.error["code"]) == (429, "batch.full")
    assert answer.headers["retry-after"] == "60"


def test_a_list_has_bounds() -> None:
    house = House()
    assert house.get("/v1/batches?limit=101").status == 400
    assert house.get("/v1/batches?after=batch_none").status == 404
