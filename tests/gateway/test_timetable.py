"""The route of schedules."""

from tests.gateway.client import House


def test_a_tenants_schedules_are_listed() -> None:
    answer = House().get("/api/schedules")
    assert (answer.status, answer.json()) == (200, {"schedules": [{"name": "morning of a"}]})
