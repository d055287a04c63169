"""The trail as people read it; what real processes write is tested in `tests/e2e/test_keys.py`."""

from typing import Any

import pytest

from murmurate.cli.audit import HEADS, cells_of, listed, what
from murmurate.cli.client import RefusedError

ENTRY: dict[str, Any] = {
    "number": 7,
    "at": "2026-11-21T23:00:00Z",
    "action": "key.created",
    "result": "done",
    "tenant": "acme",
    "by": "key_1",
    "by_tenant": "acme",
    "place": "10.0.0.7",
    "key": "key_2",
    "facts": {"label": "x", "scopes": ["chat", "runs"], "expires_ms": None, "roles": []},
}


def test_an_entry_is_one_line_with_what_is_known() -> None:
    cells = cells_of(ENTRY)
    assert len(cells) == len(HEADS)
    assert cells == [
        "2026-11-21 23:00:00",
        "key.created",
        "done",
        "acme",
        "key_1",
        "10.0.0.7",
        "key_2 label=x scopes=chat,runs",
    ]


@pytest.mark.parametrize(("by_tenant", "shown"), [(None, "the server"), ("default", "an operator")])
def test_who_is_not_named_is_described(by_tenant: str | None, shown: str) -> None:
    cells = cells_of({**ENTRY, "by": None, "by_tenant": by_tenant, "place": None})
    assert cells[4:6] == [shown, "–"]


def test_what_was_done_to_no_key_has_only_facts() -> None:
    assert what(None, {"what": "GET /api/keys", "count": 3}) == "what=GET /api/keys count=3"


@pytest.mark.parametrize("answer", [{}, {"entries": 1}, {"entries": [1]}, {"entries": [{}]}])
def test_an_answer_of_something_else_is_said_to_be_strange(answer: dict[str, Any]) -> None:
    with pytest.raises(RefusedError, match="not in the form"):
        listed(answer)
    with pytest.raises(RefusedError, match="not in the form"):
        cells_of({"number": 1})
