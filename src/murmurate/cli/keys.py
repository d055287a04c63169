"""`murmurate keys`: who may use the server, for how long, and how fast."""

import json
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import click

from murmurate.cli.client import STRANGE, RefusedError, Server, call, fetch, find, read
from murmurate.cli.options import connected

PATH = "/api/keys"
HEADS = (
    ("id", "id"),
    ("label", "label"),
    ("tenant", "tenant"),
    ("state", "state"),
    ("scopes", "scopes"),
    ("roles", "roles"),
    ("lane", "lane"),
    ("per minute", "limits"),
    ("created (UTC)", "created_at"),
    ("expires (UTC)", "expires_at"),
    ("last used (UTC)", "last_used_at"),
)


@click.group()
def keys() -> None:
    """Make, list, rotate and revoke keys. Needs a key with the scope `admin` or `operator`."""


@keys.command()
@click.argument("label")
@click.option("--tenant", help="Whom the key belongs to [the tenant of your own key].")
@click.option("--scopes", help="What it opens, such as chat,models [chat,embeddings,models].")
@click.option("--role", "roles", multiple=True, help="A name for several scopes, such as viewer.")
@click.option("--expires", help="When it ends: 30d, 2027-01-31 or 2027-01-31T12:00:00Z [never].")
@click.option(
    "--lane",
    type=click.Choice(["urgent", "batch"]),
    default="urgent",
    show_default=True,
    help="Where its requests wait when they don't say.",
)
@click.option("--requests-per-minute", type=float, help="How fast it may ask [limits.default].")
@click.option("--burst", type=int, help="How many it may ask at once [limits.default].")
@click.option("--json", "as_json", is_flag=True, help="The key as JSON, with its secret.")
@connected
def create(
    label: str,
    *,
    tenant: str | None,
    scopes: str | None,
    roles: tuple[str, ...],
    expires: str | None,
    lane: str,
    requests_per_minute: float | None,
    burst: int | None,
    as_json: bool,
    url: str | None,
    key: str | None,
    state: Path,
) -> None:
    """Make a key; its secret is shown once.

    \b
    Examples:
      murmurate keys create "nightly reports" --lane batch --expires 90d
      murmurate keys create "night shift" --role viewer
      murmurate keys create "acme's admin" --tenant acme --scopes '*'
    """
    limits = {"requests_per_minute": requests_per_minute, "burst": burst}
    body = {
        "label": label,
        "tenant": tenant,
        "scopes": None if scopes is None else [it.strip() for it in scopes.split(",")],
        "roles": roles,
        "expires": expires,
        "lane": lane,
        "limits": {name: value for name, value in limits.items() if value is not None},
    }
    made = read(call(find(url, key, state), PATH, body))
    show_secret(made, as_json=as_json)


@keys.command("list")
@click.option("--tenant", help="Only the keys of this tenant.")
@click.option("--json", "as_json", is_flag=True, help="The keys as JSON.")
@connected
def list_keys(
    tenant: str | None, *, as_json: bool, url: str | None, key: str | None, state: Path
) -> None:
    """List the keys that yours manages; never a secret."""
    every = listed(fetch(find(url, key, state), PATH))
    rows = [it for it in every if tenant in {None, it.get("tenant")}]
    if as_json:
        click.echo(json.dumps({"keys": rows}, ensure_ascii=False))
        return
    show(rows)


def listed(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the keys of an answer."""
    found = answer.get("keys")
    if not isinstance(found, list) or not all(
        isinstance(it, dict) for it in cast("list[Any]", found)
    ):
        raise RefusedError(STRANGE)
    return cast("list[dict[str, Any]]", found)


@keys.command()
@click.argument("key_id")
@click.option("--grace", default="0s", show_default=True, help="How long the old secret is good.")
@click.option("--json", "as_json", is_flag=True, help="The key as JSON, with its new secret.")
@connected
def rotate(
    key_id: str, *, grace: str, as_json: bool, url: str | None, key: str | None, state: Path
) -> None:
    """Give a key a new secret; id and rights stay.

    \b
    Example:
      murmurate keys rotate key_… --grace 1h
    """
    server = find(url, key, state)
    made = read(call(server, f"{place(key_id)}/rotate", {"grace": grace}))
    show_secret(made, as_json=as_json)
    until = made.get("old_secret_until")
    if until and not as_json:
        click.echo(f"The old secret is good until {until}.")


@keys.command()
@click.argument("key_id")
@click.option("--json", "as_json", is_flag=True, help="The key as JSON.")
@connected
def revoke(key_id: str, *, as_json: bool, url: str | None, key: str | None, state: Path) -> None:
    """Withdraw a key at once; answers that are under way with it end."""
    revoked = deleted(find(url, key, state), key_id)
    if as_json:
        click.echo(json.dumps(revoked, ensure_ascii=False))
        return
    shown = dict(zip((head for head, _ in HEADS), cells_of(revoked), strict=True))
    click.echo(f"{shown['id']} ({shown['label']}) of tenant {shown['tenant']} is revoked.")


def deleted(server: Server, key_id: str) -> dict[str, Any]:
    """Revoke a key and return it."""
    return read(call(server, place(key_id), method="DELETE"))


def place(key_id: str) -> str:
    """Return the path of a key."""
    return f"{PATH}/{quote(key_id, safe='')}"


def show_secret(made: dict[str, Any], *, as_json: bool) -> None:
    """Print a key with its secret, which nobody can show again."""
    if "secret" not in made:
        raise RefusedError(STRANGE)
    if as_json:
        click.echo(json.dumps(made, ensure_ascii=False))
        return
    for head, value in zip((head for head, _ in HEADS), cells_of(made), strict=True):
        click.echo(f"{head:<15}  {value}")
    click.echo(f"{'secret':<15}  {made['secret']}\n")
    click.echo("The secret is shown only now: the server keeps no more than its hash.")


def show(rows: list[dict[str, Any]]) -> None:
    """Print keys as a table."""
    from murmurate.cli.show import table  # noqa: PLC0415 - rich loads only where drawn

    table([head for head, _ in HEADS], [cells_of(row) for row in rows])


def cells_of(row: dict[str, Any]) -> list[str]:
    """Return what is shown of a key, in the order of the heads."""
    try:
        return [cell(name, row[name]) for _, name in HEADS]
    except (KeyError, TypeError) as cause:
        raise RefusedError(STRANGE) from cause


def cell(name: str, value: Any) -> str:  # noqa: ANN401 - any of JSON's types
    """Return a value as people read it."""
    if value is None:
        return "–"
    if name == "limits":
        return f"{value['requests_per_minute']:g} (burst {value['burst']})"
    if name in {"scopes", "roles"}:
        return ",".join(value) or "–"
    if name.endswith("_at"):
        return str(value).replace("T", " ").removesuffix(":00Z").removesuffix("Z")
    return str(value)
