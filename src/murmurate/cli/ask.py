"""The commands that talk to a running server: people get text, `--json` gets JSON."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from murmurate.cli.client import (
    STRANGE,
    RefusedError,
    Server,
    call,
    events,
    fetch,
    find,
)
from murmurate.cli.options import connected
from murmurate.core.errors import MurmurateError


@click.command()
@click.argument("question")
@click.option("--model", default="assistant", show_default=True, help="Agent or model to ask.")
@click.option(
    "--lane",
    type=click.Choice(["urgent", "batch"]),
    default="urgent",
    show_default=True,
    help="Batch work waits while urgent work is there.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@connected
def ask(
    question: str,
    model: str,
    lane: str,
    *,
    as_json: bool,
    url: str | None,
    key: str | None,
    state: Path,
) -> None:
    """Ask one question.

    \b
    Examples:
      murmurate ask "How do I make a backup?"
      murmurate ask --json "12 * (3 + 4)" | jq .answer
    """
    server = find(url, key, state)
    messages = [{"role": "user", "content": question}]
    show = None if as_json else say
    answer = converse(server, model, messages, {"x-murmurate-lane": lane}, show=show)
    if as_json:
        click.echo(json.dumps(answer, ensure_ascii=False))
        return
    click.secho(f"\n[{answer['ms']} ms, murmurate trace {answer['trace_id']}]", dim=True)


@click.command()
@click.option("--model", default="assistant", show_default=True, help="Agent or model to talk to.")
@click.option("--session", default="new", show_default=True, help="Session to continue.")
@connected
def chat(model: str, session: str, *, url: str | None, key: str | None, state: Path) -> None:
    """Talk with an agent; the conversation is kept by the server.

    \b
    Ctrl-D ends it. Go on later with the id that is shown:
      murmurate chat --session sess_…
    """
    server = find(url, key, state)
    click.secho("Ctrl-D ends the conversation.", dim=True)
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            break
        if not line:
            continue
        try:
            headers = {"x-murmurate-session": session}
            answer = converse(server, model, [{"role": "user", "content": line}], headers, show=say)
            session = answer["session"] or session
        except MurmurateError as error:
            click.echo(f"murmurate: {error.detail}", err=True)
        click.echo()
    if session != "new":
        click.secho(f"\nkept as {session}: murmurate chat --session {session}", dim=True)


@click.command()
@click.argument("trace_id")
@click.option("--json", "as_json", is_flag=True, help="The spans as JSON.")
@connected
def trace(trace_id: str, *, as_json: bool, url: str | None, key: str | None, state: Path) -> None:
    """Draw what happened to a request, and how long each part took.

    \b
    Example:
      murmurate trace 4bf92f3577b34da6a3ce929d0e0e4736
    """
    answer = fetch(find(url, key, state), f"/api/traces/{quote(trace_id, safe='')}")
    if not isinstance(answer.get("spans"), list):
        raise RefusedError(STRANGE)
    if as_json:
        click.echo(json.dumps(answer, ensure_ascii=False))
        return
    from murmurate.cli.show import trace_tree  # noqa: PLC0415 - the span type is needed only here

    click.echo(trace_tree(answer["spans"]))


def say(text: str) -> None:
    """Print a piece of an answer at once."""
    click.echo(text, nl=False)
    sys.stdout.flush()


def converse(
    server: Server,
    model: str,
    messages: list[dict[str, str]],
    headers: dict[str, str],
    *,
    show: Callable[[str], None] | None,
) -> dict[str, Any]:
    """Stream one answer; return it whole, with its citations, trace, session and time."""
    began_s = time.perf_counter()
    body = {"model": model, "messages": messages, "stream": True}
    response = call(server, "/v1/chat/completions", body, headers)
    text: list[str] = []
    citations: list[dict[str, Any]] = []
    for event in events(response):
        for choice in event.get("choices", ()):
            piece = choice["delta"].get("content") or ""
            text.append(piece)
            if show is not None and piece:
                show(piece)
            citations += [a["file_citation"] for a in choice["delta"].get("annotations", ())]
    if show is not None:
        click.echo()
    return {
        "answer": "".join(text),
        "citations": citations,
        "model": model,
        "trace_id": response.headers.get("x-murmurate-trace"),
        "session": response.headers.get("x-murmurate-session"),
        "ms": round((time.perf_counter() - began_s) * 1000, 1),
    }
