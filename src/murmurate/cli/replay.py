"""`murmurate replay`: what would become of a run today, without doing anything a second time."""

import json
from collections.abc import Iterator
from difflib import unified_diff
from pathlib import Path

import click

from murmurate.cli.client import call, find, read
from murmurate.cli.options import connected
from murmurate.cli.outcomes import printable, short, typed
from murmurate.cli.runs import place
from murmurate.jobs.differences import AnswerChange, StepChange, Verdict
from murmurate.jobs.replay import Replayed

REPLAY_S = 3600.0
COLOURS = {"-": "red", "+": "green"}
QUIET = {Verdict.SAME, Verdict.NOT_REACHED}


@click.command()
@click.argument("run_id")
@click.option("--model", help="Model to ask instead of the agent's own.")
@click.option("--json", "as_json", is_flag=True, help="The differences as JSON.")
@connected
def replay(
    run_id: str,
    *,
    model: str | None,
    as_json: bool,
    url: str | None,
    key: str | None,
    state: Path,
) -> None:
    """Do a run again, with the code, configuration and models of today, and show what is different.

    Models are really asked. Tools are not called: each call gets the outcome that the run has
    recorded, and one without a record ends the replay. Nothing of it is stored. The exit code is 0
    if all is the same, else 1.

    \b
    Examples:
      murmurate replay run_…
      murmurate replay run_… --model bigger
    """
    body = {"model": model}
    path = f"{place(run_id)}/replay"
    answer = read(call(find(url, key, state), path, body, timeout_s=REPLAY_S))
    replayed = typed(answer, Replayed)
    if as_json:
        click.echo(json.dumps(answer, ensure_ascii=False))
    else:
        for line in differences(replayed):
            click.secho(line, fg=COLOURS.get(line.lstrip()[:1]) if line[:1] == " " else None)
    if not replayed.same:
        click.get_current_context().exit(1)


def differences(replayed: Replayed) -> Iterator[str]:
    """Yield a replay as people read it: a line for each step, and below it how it differs."""
    wide = max(len(it.verdict) for it in (*replayed.steps, replayed.answer))
    for step in replayed.steps:
        number = "" if step.number is None else f"{step.number} "
        yield f"{step.verdict:<{wide}}  {number}{step.kind.value} {short(step.name)}"
        yield from changed(step)
        if step.stopped:
            yield "    no record: stopped here"
    yield f"{replayed.answer.verdict:<{wide}}  answer"
    yield from changed(replayed.answer)


def changed(change: StepChange | AnswerChange) -> Iterator[str]:
    """Yield the lines that differ, those of the run behind `-`, those of the replay behind `+`."""
    if change.verdict in QUIET:
        return
    was, now = (text.splitlines() if text else [] for text in (change.was, change.now))
    for line in [*unified_diff(was, now, lineterm="", n=1)][2:]:
        if not line.startswith("@@"):
            yield f"    {printable(line[:1])} {printable(line[1:])}"
