"""`murmurate audit`: who did what, when, and from where."""

import json
import time
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode

import click

from murmurate.cli.client import STRANGE, RefusedError, Server, fetch, find
from murmurate.cli.options import connected

PATH = "/api/audit"
FOLLOW_S = 2.0
HEADS = ("at (UTC)", "action", "result", "tenant", "by", "from", "what")


@click.command()
@click.option("--tenant", help="Only what was done to this tenant; for operators.")
@click.option("--action", help="Only this, such as key, key.created, ingest or denied.")
@click.option("--by", "who", help="Only by this key, or ISSUER:SUBJECT of a token.")
@click.option("--key-id", help="Only what was done to this key.")
@click.option("--since", help="Not before: 7d, 2027-01-31 or 2027-01-31T12:00:00Z.")
@click.option("--limit", type=click.IntRange(1, 200), default=50, help="At most so many [50].")
@click.option("--follow", is_flag=True, help="Go on with what is done from now on.")
@click.option("--json", "as_json", is_flag=True, help="One entry a line, as JSON.")
@connected
def audit(
    *,
    tenant: str | None,
    action: str | None,
    who: str | None,
    key_id: str | None,
    since: str | None,
    limit: int,
    follow: bool,
    as_json: bool,
    url: str | None,
    key: str | None,
    state: Path,
) -> None:
    """Show who did what: the newest entries, oldest first. Needs the scope `admin`.

    Changes of keys and readings of documents are there one by one; what was refused is counted, by
    the minute.

    \b
    Examples:
      murmurate audit --since 7d
      murmurate audit --action key --follow
    """
    named = {"tenant": tenant, "action": action, "by": who, "key": key_id, "since": since}
    asked = {name: value for name, value in named.items() if value is not None}
    server = find(url, key, state)
    answer = fetch(server, f"{PATH}?{urlencode({**asked, 'limit': limit})}")
    entries = listed(answer)[::-1]
    show(entries, as_json=as_json)
    if answer.get("more") is not None and not as_json:
        click.echo("there is more: --limit, --since, or `before` of the HTTP interface")
    if follow:
        newest = max((entry["number"] for entry in entries), default=0)
        go_on(server, asked, newest, as_json=as_json)


def go_on(server: Server, asked: dict[str, str], after: int, *, as_json: bool) -> None:
    """Show what is new, for ever."""
    while True:
        time.sleep(FOLLOW_S)
        answer = fetch(server, f"{PATH}?{urlencode({**asked, 'after': after})}")
        show(listed(answer), as_json=as_json)
        after = cast("int", answer["more"])


def listed(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the entries of an answer."""
    found = answer.get("entries")
    if not isinstance(found, list) or not all(
        isinstance(it, dict) and "number" in it for it in cast("list[Any]", found)
    ):
        raise RefusedError(STRANGE)
    return cast("list[dict[str, Any]]", found)


def show(entries: list[dict[str, Any]], *, as_json: bool) -> None:
    """Print entries as a table, or one a line."""
    if as_json:
        for entry in entries:
            click.echo(json.dumps(entry, ensure_ascii=False))
        return
    from murmurate.cli.show import table  # noqa: PLC0415 - rich loads only where drawn

    if entries:
        table(HEADS, [cells_of(entry) for entry in entries])


def cells_of(entry: dict[str, Any]) -> list[str]:
    """Return what is shown of an entry."""
    try:
        who = entry["by"] or ("the server" if entry["by_tenant"] is None else "an operator")
        at = str(entry["at"]).replace("T", " ").removesuffix("Z")
        parts = [at, entry["action"], entry["result"], entry["tenant"], who, entry["place"] or "–"]
        return [*map(str, parts), what(entry["key"], entry["facts"])]
    except (KeyError, AttributeError) as cause:
        raise RefusedError(STRANGE) from cause


def what(key: str | None, facts: dict[str, Any]) -> str:
    """Return what it was done to, and what else is known, without what says nothing."""
    said = [f"{name}={fact(value)}" for name, value in facts.items() if value not in (None, "", [])]
    return " ".join([key, *said] if key else said)


def fact(value: object) -> str:
    """Return a fact as people read it."""
    return ",".join(map(str, cast("list[Any]", value))) if isinstance(value, list) else str(value)
