"""`murmurate batches`: files of requests that are answered in the background."""

import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from murmurate.cli.client import NotRunningError, Server, call, fetch, find, read
from murmurate.cli.options import connected
from murmurate.cli.outcomes import typed
from murmurate.cli.transfer import download, upload
from murmurate.jobs.batches.state import OVER, BatchView, Status

FILES, PATH = "/v1/files", "/v1/batches"
HEADS = ("id", "endpoint", "status", "lines", "answered", "failed", "began")
LOOK_S = 0.5
AWAY_S_MAX = 60.0
"""So long a server may be away while a batch is watched: another one goes on with it."""
PROBLEMS_SHOWN = 20
EXIT_INTERRUPTED = 130


@click.group()
def batches() -> None:
    """Answer files of requests, and list, show and cancel that.

    Needs a key with the scopes `batches` and `files`, and that of the requests.
    """


@batches.command("run")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--endpoint",
    default="/v1/chat/completions",
    show_default=True,
    help="What the lines ask for.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where the answers go [FILE with .output.jsonl]; failures go beside it, with .errors.",
)
@click.option("--window", default="24h", show_default=True, help="How long it may take.")
@click.option("--json", "as_json", is_flag=True, help="The batch as JSON, at its end.")
@connected
def run_batch(
    file: Path,
    endpoint: str,
    output: Path | None,
    window: str,
    *,
    as_json: bool,
    url: str | None,
    key: str | None,
    state: Path,
) -> None:
    """Answer each line of FILE, a request in OpenAI's batch form, and wait for it.

    Ctrl-C ends only the waiting. The exit code is 0 if every line was answered, else 1.

    \b
    Example:
      murmurate batches run questions.jsonl --output answers.jsonl
    """
    server = find(url, key, state)
    kept = read(upload(server, FILES, file, purpose="batch"))
    body = {"input_file_id": kept.get("id"), "endpoint": endpoint, "completion_window": window}
    batch = typed(read(call(server, PATH, body)), BatchView)
    try:
        found = watched(server, batch)
    except KeyboardInterrupt:
        click.echo(f"\n{batch.id} goes on: murmurate batches show {batch.id}", err=True)
        click.get_current_context().exit(EXIT_INTERRUPTED)
    batch = typed(found, BatchView)
    place = output or file.with_suffix(".output.jsonl")
    written = fetch_results(server, batch, place)
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False))
    else:
        click.echo("\n".join([*batch_lines(batch), *written]))
    counts = batch.request_counts
    if batch.status != Status.COMPLETED or counts.completed != counts.total:
        click.get_current_context().exit(1)


@batches.command("list")
@click.option("--json", "as_json", is_flag=True, help="The batches as JSON.")
@connected
def list_batches(*, as_json: bool, url: str | None, key: str | None, state: Path) -> None:
    """List the newest 50 batches, the newest first."""
    answer = fetch(find(url, key, state), f"{PATH}?limit=50")
    found = typed(answer.get("data"), list[BatchView])
    if as_json:
        click.echo(json.dumps(answer, ensure_ascii=False))
        return
    from murmurate.cli.show import table, when  # noqa: PLC0415 - rich loads only where drawn

    rows = [
        (
            it.id,
            it.endpoint,
            it.status,
            str(it.request_counts.total),
            str(it.request_counts.completed),
            str(it.request_counts.failed),
            when(it.created_at * 1000),
        )
        for it in found
    ]
    table(HEADS, rows)


@batches.command("show")
@click.argument("batch_id")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the answers there, failures beside it [none is written].",
)
@click.option("--json", "as_json", is_flag=True, help="All of it as JSON.")
@connected
def show_batch(
    batch_id: str,
    output: Path | None,
    *,
    as_json: bool,
    url: str | None,
    key: str | None,
    state: Path,
) -> None:
    """Show where a batch stands, and get its answers.

    \b
    Example:
      murmurate batches show batch_… --output answers.jsonl
    """
    server = find(url, key, state)
    answer = fetch(server, place_of(batch_id))
    batch = typed(answer, BatchView)
    written = [] if output is None else fetch_results(server, batch, output)
    words = "\n".join([*batch_lines(batch), *written])
    click.echo(json.dumps(answer, ensure_ascii=False) if as_json else words)


@batches.command("cancel")
@click.argument("batch_id")
@click.option("--json", "as_json", is_flag=True, help="The batch as JSON.")
@connected
def cancel_batch(
    batch_id: str, *, as_json: bool, url: str | None, key: str | None, state: Path
) -> None:
    """End a batch; what was answered by then can still be read."""
    said = read(call(find(url, key, state), f"{place_of(batch_id)}/cancel", method="POST"))
    words = f"{batch_id} stops: murmurate batches show {batch_id}"
    click.echo(json.dumps(said, ensure_ascii=False) if as_json else words)


def place_of(batch_id: str) -> str:
    """Return the path of a batch."""
    return f"{PATH}/{quote(batch_id, safe='')}"


def watched(server: Server, batch: BatchView) -> dict[str, Any]:
    """Return a batch at its end; until then show how far it is, on stderr."""
    from murmurate.cli.show import counting  # noqa: PLC0415 - rich loads only where drawn

    away_s = 0.0
    with counting(batch.id) as shown:
        while True:
            try:
                found = fetch(server, place_of(batch.id))
            except NotRunningError:
                away_s += LOOK_S
                if away_s > AWAY_S_MAX:
                    raise
            else:
                away_s = 0.0
                batch = typed(found, BatchView)
                counts = batch.request_counts
                shown(batch.status, counts.completed + counts.failed, counts.total)
                if Status(batch.status) in OVER:
                    return found
            time.sleep(LOOK_S)


def fetch_results(server: Server, batch: BatchView, output: Path) -> list[str]:
    """Write the files of a batch; return what is said of them."""
    said: list[str] = []
    errors = output.with_name(f"{output.name}.errors")
    for name, file_id, file in (
        ("answers", batch.output_file_id, output),
        ("failures", batch.error_file_id, errors),
    ):
        if file_id is not None:
            download(server, f"{FILES}/{quote(file_id, safe='')}/content", file)
            said.append(f"{name}: {file}")
    return said


def batch_lines(batch: BatchView) -> list[str]:
    """Return a batch in lines that people read."""
    counts = batch.request_counts
    lines = [
        f"{batch.id}  {batch.endpoint}  {batch.status}",
        f"{counts.completed} of {counts.total} lines answered, {counts.failed} failed",
    ]
    problems = () if batch.errors is None else batch.errors.data
    for problem in problems[:PROBLEMS_SHOWN]:
        where = "" if problem.line is None else f"line {problem.line}: "
        lines.append(f"  {where}{problem.message}")
    if len(problems) > PROBLEMS_SHOWN:
        lines.append(f"  and {len(problems) - PROBLEMS_SHOWN} more: see --json")
    return lines
