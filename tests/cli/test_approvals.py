"""What the commands for approvals send, and what they make of the answers."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from tests.cli.test_client import HTML, OK, STRANGE, answering, assert_one_line, run

# A command ends after its request, and its socket with it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

WAITING: dict[str, Any] = {
    "id": "run_1:2",
    "run": "run_1",
    "step": 2,
    "agent": "clerk",
    "tool": "pay",
    "arguments": '{"sum": 12}',
    "asked_ms": 1,
    "due_ms": 2,
}
VERBS: Sequence[tuple[str, ...]] = (("approvals",), ("approve", "run_1"), ("deny", "run_1"))


def runs(url: str, *words: str) -> Any:
    return run("runs", *words, "--url", url, "--key", "k")


def ok(body: Any) -> bytes:
    return OK + b"\r\n" + json.dumps(body).encode()


@pytest.mark.parametrize("words", VERBS, ids=lambda words: words[0])
def test_a_strange_answer_is_told_in_one_line(words: tuple[str, ...]) -> None:
    for reply in (HTML, ok({})):
        with answering(reply) as (url, _):
            assert_one_line(runs(url, *words), STRANGE)


@pytest.mark.parametrize("words", VERBS, ids=lambda words: words[0])
def test_the_servers_own_words_are_passed_on(words: tuple[str, ...]) -> None:
    error = b'{"error": {"message": "key_1 has denied it"}}'
    with answering(b"HTTP/1.1 409 Conflict\r\n\r\n" + error) as (url, _):
        assert_one_line(runs(url, *words), "key_1 has denied it")


def test_what_waits_is_a_table_with_the_calls() -> None:
    with answering(ok({"approvals": [WAITING]})) as (url, asked):
        heads, row = runs(url, "approvals").stdout.splitlines()
    assert asked[0].startswith(b"GET /api/approvals ")
    assert heads.split()[:4] == ["id", "agent", "call", "asked"]
    assert row.split()[:4] == ["run_1:2", "clerk", 'pay({"sum":', "12})"]


def test_and_json_for_programs() -> None:
    with answering(ok({"approvals": [WAITING]})) as (url, _):
        assert json.loads(runs(url, "approvals", "--json").stdout) == {"approvals": [WAITING]}


@pytest.mark.parametrize(
    ("words", "path", "body"),
    [
        (("approve", "run_1"), "run_1", {"approve": True, "reason": ""}),
        (("approve", "run_1:2"), "run_1:2", {"approve": True, "reason": ""}),
        (
            ("deny", "run_1", "--step", "2", "--reason", "too dear"),
            "run_1:2",
            {"approve": False, "reason": "too dear"},
        ),
        (("deny", "../keys"), "..%2Fkeys", {"approve": False, "reason": ""}),
    ],
)
def test_a_decision_is_sent_with_its_reason(
    words: tuple[str, ...], path: str, body: dict[str, Any]
) -> None:
    with answering(ok({"approval": WAITING})) as (url, asked):
        result = runs(url, *words)
    assert asked[0].startswith(f"POST /api/approvals/{path} ".encode())
    assert json.loads(asked[0].partition(b"\r\n\r\n")[2]) == body
    how = "approved" if body["approve"] else "denied"
    assert result.stdout == f"run_1:2: pay is {how}: murmurate runs follow run_1\n"


def test_what_was_decided_is_json_for_programs() -> None:
    said = {"approved": True, "approval": WAITING}
    with answering(ok(said)) as (url, _):
        assert json.loads(runs(url, "approve", "run_1", "--json").stdout) == said
