"""`murmurate runs`: work that goes on whatever becomes of the client, and of the server."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from murmurate.cli.approvals import approvals, approve, deny
from murmurate.cli.client import (
    CutError,
    NotRunningError,
    RefusedError,
    Server,
    call,
    fetch,
    find,
    news,
    read,
)
from murmurate.cli.options import connected
from murmurate.cli.outcomes import (
    ENDS,
    STRANGE,
    answer_of,
    event_line,
    run_lines,
    short,
    took,
    typed,
)
from murmurate.jobs.entries import Kind
from murmurate.jobs.views import RunEvent, RunInfo, RunView

PATH = "/api/runs"
HEADS = ("id", "model", "status", "steps", "began", "took")
FOLLOW_S = 24 * 3600.0
"""How long nothing may happen to a run that is followed: it may wait for its turn."""
CUTS_MAX = 3
"""So many connections in a row without anything new: the server is not coming back."""


@click.group()
def runs() -> None:
    """Begin, list, show, follow, cancel and resume runs, and decide what their agents ask for.

    Needs a key with the scope `runs`, and for decisions one with `approve`.
    """


for decision in (approvals, approve, deny):
    runs.add_command(decision)


@runs.command()
@click.argument("model")
@click.argument("question")
@click.option("--session", help="Session to continue, or new [none is kept].")
@click.option(
    "--priority",
    type=click.IntRange(-10, 10),
    default=0,
    show_default=True,
    help="How urgent it is among your runs; higher comes first.",
)
@click.option("--follow", is_flag=True, help="Wait for it, and show what happens.")
@click.option("--json", "as_json", is_flag=True, help="Its id (and events) as JSON lines.")
@connected
def start(
    model: str,
    question: str,
    *,
    session: str | None,
    priority: int,
    follow: bool,
    as_json: bool,
    url: str | None,
    key: str | None,
    state: Path,
) -> None:
    """Begin a run in the background: MODEL, an agent or a model, answers QUESTION.

    It is durable when its id is shown, and goes on whatever becomes of this command.

    \b
    Examples:
      murmurate runs start assistant "12 * (3 + 4)" --follow
      murmurate runs start assistant "And half of it?" --session sess_…
    """
    server = find(url, key, state)
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "priority": priority,
    }
    headers = {} if session is None else {"x-murmurate-session": session}
    response = call(server, PATH, body, headers)
    kept = response.headers.get("x-murmurate-session")
    begun = {**read(response), **({} if kept is None else {"session": kept})}
    run_id = begun.get("id")
    if not isinstance(run_id, str):
        raise RefusedError(STRANGE)
    if as_json:
        click.echo(json.dumps(begun, ensure_ascii=False))
    else:
        click.echo(f"{run_id} is queued: murmurate runs follow {run_id}")
        if kept is not None:
            click.echo(f"kept as {kept}")
    if follow:
        show_events(server, run_id, as_json=as_json)


@runs.command("list")
@click.option("--batch", help="List the lines of this batch [none: they are not listed].")
@click.option("--json", "as_json", is_flag=True, help="The runs as JSON.")
@connected
def list_runs(
    batch: str | None, *, as_json: bool, url: str | None, key: str | None, state: Path
) -> None:
    """List the newest 50 runs, the newest first."""
    asked = "" if batch is None else f"?batch={quote(batch, safe='')}"
    answer = fetch(find(url, key, state), f"{PATH}{asked}")
    found = typed(answer.get("runs"), list[RunInfo])
    if as_json:
        click.echo(json.dumps(answer, ensure_ascii=False))
        return
    from murmurate.cli.show import table  # noqa: PLC0415 - rich loads only where drawn

    table(HEADS, [cells_of(run) for run in found])


def cells_of(run: RunInfo) -> list[str]:
    """Return what is shown of a run, in the order of the heads."""
    from murmurate.cli.show import when  # noqa: PLC0415 - rich loads only where drawn

    status = f"{run.status} ({run.error})" if run.error else run.status
    again = f" until {when(run.due_ms)}" if run.due_ms else ""
    time = took(run.began_ms, run.ended_ms)
    return [run.id, short(run.model), status + again, str(run.steps), when(run.began_ms), time]


@runs.command()
@click.argument("run_id")
@click.option("--json", "as_json", is_flag=True, help="All of it as JSON.")
@connected
def show(run_id: str, *, as_json: bool, url: str | None, key: str | None, state: Path) -> None:
    """Draw the steps of a run, what each came to, and the answer.

    \b
    Example:
      murmurate runs show run_…
    """
    answer = fetch(find(url, key, state), place(run_id))
    run = typed(answer, RunView)
    click.echo(json.dumps(answer, ensure_ascii=False) if as_json else "\n".join(run_lines(run)))


@runs.command()
@click.argument("run_id")
@click.option("--json", "as_json", is_flag=True, help="The events as JSON lines.")
@connected
def follow(run_id: str, *, as_json: bool, url: str | None, key: str | None, state: Path) -> None:
    """Show what has happened to a run and what happens, until it is over.

    A server that dies meanwhile is no obstacle. The exit code is 0 if the run has finished, and 1
    if it has failed or was cancelled.

    \b
    Example:
      murmurate runs follow run_…
    """
    show_events(find(url, key, state), run_id, as_json=as_json)


@runs.command()
@click.argument("run_id")
@click.option("--json", "as_json", is_flag=True, help="Its id as JSON.")
@connected
def cancel(run_id: str, *, as_json: bool, url: str | None, key: str | None, state: Path) -> None:
    """End a run; whoever works on it stops within about half a second."""
    said = read(call(find(url, key, state), f"{place(run_id)}/cancel", method="POST"))
    words = f"{run_id} stops: murmurate runs show {run_id}"
    click.echo(json.dumps(said, ensure_ascii=False) if as_json else words)


@runs.command()
@click.argument("run_id")
@click.option("--json", "as_json", is_flag=True, help="Its id as JSON.")
@connected
def resume(run_id: str, *, as_json: bool, url: str | None, key: str | None, state: Path) -> None:
    """Go on with a run that failed or was cancelled, from its last step."""
    said = read(call(find(url, key, state), f"{place(run_id)}/resume", method="POST"))
    words = f"{run_id} goes on: murmurate runs follow {run_id}"
    click.echo(json.dumps(said, ensure_ascii=False) if as_json else words)


def place(run_id: str) -> str:
    """Return the path of a run."""
    return f"{PATH}/{quote(run_id, safe='')}"


def show_events(server: Server, run_id: str, *, as_json: bool) -> None:
    """Print the events of a run until it is over; end with 1 when it did not finish."""
    last = ""
    for found in followed(server, run_id):
        event = typed(found, RunEvent)
        last = event.kind
        if as_json:
            click.echo(json.dumps(found, ensure_ascii=False))
            continue
        if (line := event_line(event)) is not None:
            click.echo(line)
        if (answer := answer_of(event)) is not None:
            click.echo(f"\n{answer}")
    if last != Kind.FINISHED:
        click.get_current_context().exit(1)


def followed(server: Server, run_id: str) -> Iterator[dict[str, Any]]:
    """Yield the events of a run, each once, from one server or the next."""
    seen, last, cuts = 0, "", 0
    while last not in ENDS:
        before = seen
        cut: RefusedError | NotRunningError = CutError("the server went away before the run's end")
        try:
            response = call(server, f"{place(run_id)}/events", timeout_s=FOLLOW_S)
            for found in news(response):
                event = typed(found, RunEvent)
                if event.seq > seen:
                    seen, last = event.seq, event.kind
                    yield found
        except (CutError, NotRunningError) as error:
            if not seen:
                raise
            cut = error
        cuts = 0 if seen > before else cuts + 1
        if cuts == CUTS_MAX:
            raise cut
