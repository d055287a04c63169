"""`murmurate runs approvals`, `approve`, `deny`: what agents ask for before they do it."""

import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import click

from murmurate.cli.client import call, fetch, find, read
from murmurate.cli.options import connected
from murmurate.cli.outcomes import short, typed
from murmurate.jobs.approvals import Approval

PATH = "/api/approvals"
HEADS = ("id", "agent", "call", "asked", "denied by itself")


def deciding(command: Callable[..., None]) -> Callable[..., None]:
    """Add what `approve` and `deny` have in common."""
    for option in (
        connected,
        click.option("--json", "as_json", is_flag=True, help="What was decided, as JSON."),
        click.option(
            "--reason", default="", help="Why. It is kept; of a denial the model hears it."
        ),
        click.option("--step", type=int, help="Which call, if the run asks for several."),
        click.argument("run_id"),
    ):
        command = option(command)
    return command


@click.command()
@click.option("--json", "as_json", is_flag=True, help="All of it as JSON.")
@connected
def approvals(*, as_json: bool, url: str | None, key: str | None, state: Path) -> None:
    """List the calls that wait for a decision: at most 100, those of the oldest runs first.

    Needs a key with the scope `approve`, as `approve` and `deny` do.
    """
    answer = fetch(find(url, key, state), PATH)
    found = typed(answer.get("approvals"), list[Approval])
    if as_json:
        click.echo(json.dumps(answer, ensure_ascii=False))
        return
    from murmurate.cli.show import table  # noqa: PLC0415 - rich loads only where drawn

    table(HEADS, [cells_of(it) for it in found])


def cells_of(approval: Approval) -> list[str]:
    """Return what is shown of a call that waits, in the order of the heads."""
    from murmurate.cli.show import when  # noqa: PLC0415 - rich loads only where drawn

    asks = f"{short(approval.tool)}({short(approval.arguments)})"
    times = (when(approval.asked_ms), when(approval.due_ms))
    return [approval.id, short(approval.agent), asks, *times]


@click.command()
@deciding
def approve(
    run_id: str,
    *,
    step: int | None,
    reason: str,
    as_json: bool,
    url: str | None,
    key: str | None,
    state: Path,
) -> None:
    """Let a run make the call that it asks for; it goes on when all its calls are decided.

    RUN_ID may also be an id of the list. The key that began the run can't decide.

    \b
    Example:
      murmurate runs approve run_… --reason "as agreed"
    """
    body = {"approve": True, "reason": reason}
    said = read(call(find(url, key, state), place(run_id, step), body))
    show_decision(said, "approved", as_json=as_json)


@click.command()
@deciding
def deny(
    run_id: str,
    *,
    step: int | None,
    reason: str,
    as_json: bool,
    url: str | None,
    key: str | None,
    state: Path,
) -> None:
    """Refuse the call that a run asks for; its model hears of it, and goes on without.

    \b
    Example:
      murmurate runs deny run_… --step 3 --reason "too dear"
    """
    body = {"approve": False, "reason": reason}
    said = read(call(find(url, key, state), place(run_id, step), body))
    show_decision(said, "denied", as_json=as_json)


def place(run_id: str, step: int | None) -> str:
    """Return the path of what is decided."""
    name = run_id if step is None else f"{run_id}:{step}"
    return f"{PATH}/{quote(name, safe=':')}"


def show_decision(said: dict[str, object], how: str, *, as_json: bool) -> None:
    """Print what was decided."""
    it = typed(said.get("approval"), Approval)
    words = f"{it.id}: {it.tool} is {how}: murmurate runs follow {it.run}"
    click.echo(json.dumps(said, ensure_ascii=False) if as_json else words)
