"""Lists of items in pages."""

import pytest

from murmurate.gateway.responses.pages import page
from tests.gateway.responses.test_store import told
from tests.gateway.responses.test_stored import house_with, says


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=%C2%B2", "limit"),
        ("limit=", "limit"),
        ("order=up", "order"),
        ("after=msg_none", "after"),
    ],
)
def test_a_wrong_parameter_is_named(query: str, param: str) -> None:
    house, place = house_with()
    answer = house.get(f"{place}/input_items?{query}")
    assert (answer.status, answer.error["param"]) == (400, param)


def test_input_comes_in_pages() -> None:
    house, place = house_with(*says(*(str(number) for number in range(45))))
    seen: list[str] = []
    after, pages = "", 0
    while True:
        listed = house.get(f"{place}/input_items?order=asc{after}").json()
        seen += [it["content"][0]["text"] for it in listed["data"]]
        pages += 1
        if not listed["has_more"]:
            break
        after = f"&after={listed['last_id']}"
    assert seen == [str(number) for number in range(45)]
    assert pages == 3


def test_an_empty_page_has_no_ids() -> None:
    items = told(1).input
    empty = page(items, items[0].id, 20)
    assert empty == {
        "object": "list",
        "data": (),
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }
