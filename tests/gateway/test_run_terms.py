"""Deadline and webhook of a run, as a client states them."""

import pytest

from tests.gateway.client import HELLO, House


def test_deadline_and_webhook_are_passed_on_and_left_out_by_default() -> None:
    house = House()
    terms = {"deadline_s": 90, "webhook": "https://receiver.example/"}
    assert house.post("/api/runs", {**HELLO, **terms}).status == 202
    assert house.post("/api/runs", {**HELLO, "deadline_s": 0.5}).status == 202
    assert house.post("/api/runs", dict(HELLO)).status == 202
    assert house.runs.terms == [(90.0, "https://receiver.example/"), (0.5, None), (None, None)]


@pytest.mark.parametrize(
    ("terms", "param"),
    [
        ({"deadline_s": 0}, "deadline_s"),
        ({"deadline_s": -1}, "deadline_s"),
        ({"deadline_s": 31 * 86400}, "deadline_s"),
        ({"deadline_s": "soon"}, "deadline_s"),
        ({"webhook": 7}, "webhook"),
        ({"webhook": "https://e.com/" + "a" * 2048}, "webhook"),
        ({"deadline": 7}, "deadline"),
    ],
)
def test_terms_that_cannot_be_are_refused_by_name(terms: dict[str, object], param: str) -> None:
    house = House()
    answer = house.post("/api/runs", {**HELLO, **terms})
    assert (answer.status, answer.error["param"]) == (400, param)
    assert house.runs.begun == []
