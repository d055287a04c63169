"""The routes of approvals."""

import pytest

from murmurate.core.errors import ApprovalDecidedError, ApprovalOwnError, RunWaitingError
from murmurate.gateway.approvals import LISTED, REASON_CHARS_MAX
from tests.fakes import Saying
from tests.gateway.client import House

PLACE = "/api/approvals/run_1:2"


def test_what_a_tenants_agents_ask_is_listed_within_a_bound() -> None:
    answer = House().get("/api/approvals")
    expected = {"approvals": [{"id": "run_of_a:2", "limit": LISTED}]}
    assert (answer.status, answer.json()) == (200, expected)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"approve": True}, ("key_1", "run_1:2", True, "")),
        ({"approve": False, "reason": "no"}, ("key_1", "run_1:2", False, "no")),
    ],
)
def test_a_decision_is_the_callers(
    body: dict[str, object], expected: tuple[str, str, bool, str]
) -> None:
    house = House()
    answer = house.post(PLACE, body)
    assert (answer.status, answer.json()) == (
        200,
        {"approved": body["approve"], "approval": {"id": "run_1:2"}},
    )
    assert house.approvals.decided == [expected]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"approve": "yes"},
        {"approve": None},
        {"approved": True},
        {"approve": True, "reason": "x" * (REASON_CHARS_MAX + 1)},
    ],
)
def test_what_is_no_clear_decision_decides_nothing(body: dict[str, object]) -> None:
    house = House()
    assert house.post(PLACE, body).status == 400
    assert house.approvals.decided == []


@pytest.mark.parametrize(
    ("error", "status"), [(ApprovalDecidedError("x"), 409), (ApprovalOwnError("x"), 403)]
)
def test_who_may_not_decide_hears_why(error: ApprovalDecidedError, status: int) -> None:
    house = House()
    house.approvals.error = error
    answer = house.post(PLACE, {"approve": True})
    assert (answer.status, answer.json()["error"]["code"]) == (status, error.code)


def test_a_turn_that_waits_for_an_approval_is_not_asked_again_by_openais_clients() -> None:
    waiting = RunWaitingError("run_1:2 asks", patience_s=60)
    answer = House(model=Saying(waiting)).chat()
    assert (answer.status, answer.json()["error"]["code"]) == (409, "run.waiting")
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers
