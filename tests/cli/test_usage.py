"""What `murmurate usage` draws."""

from typing import Any

import pytest

from murmurate.cli.client import RefusedError
from murmurate.cli.usage import BAR_CHARS, bar, money, show


def row(day: str, **used: int) -> dict[str, Any]:
    return {"day": day, "used": used}


def test_the_bars_follow_the_cost(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        row("2026-11-20", requests=1234, tokens_in=10, cost=500_000_000_000),
        row("2026-11-21", requests=2, tokens_in=99, cost=1_000_000_000_000),
    ]
    show(rows, ["day"], "EUR")
    head, first, second, sums = capsys.readouterr().out.splitlines()
    assert "cost in EUR" in head
    assert first.startswith("2026-11-20 Fri")
    assert "1,234" in first
    assert " 0.5 " in first
    assert (first.count("█"), second.count("█")) == (BAR_CHARS // 2, BAR_CHARS)
    assert "1,236" in sums
    assert " 1.5 " in sums


def test_where_nothing_costs_they_follow_the_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    show([{"used": {"tokens_in": 3, "tokens_out": 1}}, {"used": {"tokens_in": 1}}], [""], "USD")
    head, first, second, _ = capsys.readouterr().out.splitlines()
    assert head.rstrip().endswith("tokens")
    assert (first.count("█"), second.count("█")) == (BAR_CHARS, BAR_CHARS // 4)


@pytest.mark.parametrize(
    ("picos", "said"),
    [(0, "0"), (42_000_000, "4.2e-05"), (123_456_789_012, "0.1235"), (12345 * 10**11, "1,234.50")],
)
def test_money_has_the_digits_that_say_something(picos: int, said: str) -> None:
    assert money(picos) == said


def test_nothing_used_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    show([], ["day"], "USD")
    assert capsys.readouterr().out == "nothing was used in these days\n"


@pytest.mark.parametrize("strange", [{}, {"used": 3}, {"used": {"requests": "many"}}])
def test_an_answer_in_another_form_is_refused(strange: dict[str, Any]) -> None:
    with pytest.raises(RefusedError, match="not in the form"):
        show([strange], ["day"], "USD")


@pytest.mark.parametrize(("size", "drawn"), [(0, ""), (1, "▎"), (4, "█"), (5, "█▎")])
def test_a_bar_has_eighths(size: int, drawn: str) -> None:
    assert bar(size, 128) == drawn
