"""`murmurate usage`: who used what, and what it cost."""

import json
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode

import click

from murmurate.accounts.usage import PICOS, By, time_of
from murmurate.cli.client import RefusedError, fetch, find
from murmurate.cli.options import connected
from murmurate.core.clock import SystemClock

PATH = "/api/usage"
STRANGE = "the answer is not in the form that murmurate speaks: check --url"
BAR_CHARS = 32
EIGHTHS = " ▏▎▍▌▋▊▉█"
COUNTS = ("requests", "calls", "tokens_in", "tokens_out", "tokens_cached")
HEADS = ("requests", "calls", "tokens in", "tokens out", "of these cached")


@click.command()
@click.option("--days", type=click.IntRange(1, 400), default=30, help="The last so many days [30].")
@click.option("--by", default="day", help="Split by day, hour, key, model, with commas [day].")
@click.option("--tenant", help="Another tenant; for operators.")
@click.option("--json", "as_json", is_flag=True, help="The server's answer as JSON.")
@connected
def usage(
    *,
    days: int,
    by: str,
    tenant: str | None,
    as_json: bool,
    url: str | None,
    key: str | None,
    state: Path,
) -> None:
    """Show what was used and what it cost. Needs a key with the scope `usage`.

    Tokens and calls are counted where engines work, under the model's name; requests under the
    name that the client asked for, which may be an agent's. An answer from the cache costs nothing.

    \b
    Examples:
      murmurate usage
      murmurate usage --days 7 --by key,model
    """
    today, _ = time_of(SystemClock().unix_ms())
    asked = {"since": (today - timedelta(days=days - 1)).isoformat(), "until": today.isoformat()}
    asked["by"] = by.replace(" ", "")
    if tenant is not None:
        asked["tenant"] = tenant
    found = fetch(find(url, key, state), f"{PATH}?{urlencode(asked)}")
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False))
        return
    rows, currency = found.get("rows"), found.get("currency")
    if not isinstance(rows, list) or not isinstance(currency, str):
        raise RefusedError(STRANGE)
    show(cast("list[dict[str, Any]]", rows), asked["by"].split(","), currency)


def show(rows: Sequence[dict[str, Any]], by: Sequence[str], currency: str) -> None:
    """Print a table with a bar for each row: of the cost, or of the tokens where nothing costs."""
    from murmurate.cli.show import table  # noqa: PLC0415 - rich loads only where drawn

    if not rows:
        click.echo("nothing was used in these days")
        return
    parts = [part for part in by if part in set(By)]
    costs = any(amount(row, "cost") for row in rows)
    sizes = [amount(row, "cost") if costs else tokens(row) for row in rows]
    lines: list[list[str]] = []
    for row, size in zip(rows, sizes, strict=True):
        places = [shown(part, row.get(part)) for part in parts]
        lines.append([*places, *counts(row), bar(size, max(sizes))])
    if len(rows) > 1:
        blank = [""] * max(len(parts) - 1, 0)
        lines.append([*(["all", *blank] if parts else []), *counts(*rows), ""])
    numbers = (*HEADS, f"cost in {currency}")
    table([*parts, *numbers, "cost" if costs else "tokens"], lines, numbers=numbers)


def counts(*rows: dict[str, Any]) -> list[str]:
    """Return the sums of the rows, as people read them."""
    sums = [f"{sum(amount(row, name) for row in rows):,}" for name in COUNTS]
    return [*sums, money(sum(amount(row, "cost") for row in rows))]


def amount(row: dict[str, Any], name: str) -> int:
    """Return a count of a row; what is nothing is left out of the answer."""
    used = row.get("used")
    if not isinstance(used, dict):
        raise RefusedError(STRANGE)
    count = cast("dict[str, Any]", used).get(name, 0)
    if not isinstance(count, int):
        raise RefusedError(STRANGE)
    return count


def tokens(row: dict[str, Any]) -> int:
    """Return how many tokens were read and written."""
    return amount(row, "tokens_in") + amount(row, "tokens_out")


def shown(part: str, value: object) -> str:
    """Return what a row is the sum of, for people."""
    if part == By.DAY and isinstance(value, str):
        return date.fromisoformat(value).strftime("%Y-%m-%d %a")
    if part == By.HOUR and isinstance(value, int):
        return f"{value:02}:00"
    return str(value or "(none)")


def money(picos: int) -> str:
    """Return an amount with the digits that say something."""
    whole = picos / PICOS
    return f"{whole:,.2f}" if whole >= 100 else f"{whole:.4g}"


def bar(size: int, largest: int) -> str:
    """Return a bar as long as the size."""
    eighths = round(size / largest * BAR_CHARS * 8) if largest else 0
    return "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()
