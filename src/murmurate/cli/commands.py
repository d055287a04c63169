"""The commands. Each one parses, calls, prints; people get text, `--json` gets JSON."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from murmurate import __version__
from murmurate.cli.client import Server, call, events, fetch, find, lines
from murmurate.core.errors import MurmurateError

EXIT_ERROR = 1
EXIT_INTERRUPTED = 130


class Group(click.Group):
    """Prints our errors as one line that says what to do, instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's own signature
        """Run the command."""
        try:
            return super().invoke(ctx)
        except MurmurateError as error:
            click.echo(f"murmurate: {error.detail}", err=True)
            ctx.exit(EXIT_ERROR)
        except KeyboardInterrupt:
            ctx.exit(EXIT_INTERRUPTED)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    r"""Serve AI agents and models: on one machine with one command.

    \b
    murmurate up                          serve with the built-in model and documents
    murmurate ask "what is a session?"    ask the running server
    murmurate chat                        talk, with the conversation kept
    """


def connected(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say which server to talk to."""
    for option in (
        click.option(
            "--state",
            type=click.Path(path_type=Path),
            default=Path("state"),
            envvar="MURMURATE_SERVER__STATE",
            show_default=True,
            help="State folder of the local server.",
        ),
        click.option("--key", envvar="MURMURATE_KEY", help="Key, when not that of the folder."),
        click.option("--url", envvar="MURMURATE_URL", help="Server, when not the local one."),
    ):
        command = option(command)
    return command


@main.command()
@click.option("--config", type=click.Path(path_type=Path), help="TOML file [./murmurate.toml].")
@click.option("--listen", help="HOST:PORT; port 0 takes a free one [127.0.0.1:8080].")
@click.option("--state", help="Folder for everything that must survive [./state].")
@click.option("--docs", help="Folder of documents to answer from, instead of the built-in ones.")
@click.option("--ready-file", type=click.Path(path_type=Path), help="Write url, key and pid here.")
@click.option("--quiet", is_flag=True, help="No welcome, no example.")
def up(
    *,
    config: Path | None,
    listen: str | None,
    state: str | None,
    docs: str | None,
    ready_file: Path | None,
    quiet: bool,
) -> None:
    r"""Serve until Ctrl-C or SIGTERM.

    \b
    Examples:
      murmurate up
      murmurate up --listen 0.0.0.0:8080 --state /var/lib/murmurate
      murmurate up --docs ./handbook
    """
    from murmurate.cli.up import serve  # noqa: PLC0415 - no other command needs the supervisor

    overrides = {"listen": listen, "state": state, "docs": docs}
    sys.exit(serve(config, overrides, ready_file, quiet=quiet))


@main.command()
@click.argument("question")
@click.option("--model", default="assistant", show_default=True, help="Agent or model to ask.")
@click.option("--lane", type=click.Choice(["urgent", "batch"]), default="urgent", show_default=True)
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
    r"""Ask one question.

    \b
    Examples:
      murmurate ask "What survives a kill -9?"
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


@main.command()
@click.option("--model", default="assistant", show_default=True, help="Agent or model to talk to.")
@click.option("--session", default="new", show_default=True, help="Session to continue.")
@connected
def chat(model: str, session: str, *, url: str | None, key: str | None, state: Path) -> None:
    r"""Talk with an agent; the conversation is kept by the server.

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


@main.command()
@click.argument("collections", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Progress as JSON lines.")
@connected
def ingest(
    collections: tuple[str, ...], *, as_json: bool, url: str | None, key: str | None, state: Path
) -> None:
    r"""Read the documents of the configured collections again; only changes are read.

    \b
    Examples:
      murmurate ingest            all collections
      murmurate ingest docs       one of them
    """
    server = find(url, key, state)
    steps = lines(call(server, "/api/ingest", {"collections": list(collections)}))
    if as_json:
        for step in steps:
            click.echo(json.dumps(step, ensure_ascii=False))
        return
    from murmurate.cli.show import ingest_progress  # noqa: PLC0415 - rich loads only where drawn

    ingest_progress(steps)


@main.command()
@click.argument("trace_id")
@click.option("--json", "as_json", is_flag=True, help="The spans as JSON.")
@connected
def trace(trace_id: str, *, as_json: bool, url: str | None, key: str | None, state: Path) -> None:
    r"""Draw what happened to a request, and how long each part took.

    \b
    Example:
      murmurate trace 4bf92f3577b34da6a3ce929d0e0e4736
    """
    answer = fetch(find(url, key, state), f"/api/traces/{trace_id}")
    if as_json:
        click.echo(json.dumps(answer, ensure_ascii=False))
        return
    from murmurate.cli.show import trace_tree  # noqa: PLC0415 - the span type is needed only here

    click.echo(trace_tree(answer["spans"]))


@main.command()
@click.option("--config", type=click.Path(path_type=Path), help="TOML file [./murmurate.toml].")
@click.option("--json", "as_json", is_flag=True, help="The findings as JSON.")
@connected
def doctor(
    config: Path | None, *, as_json: bool, url: str | None, key: str | None, state: Path
) -> None:
    """Show what is installed, configured and running, where each setting comes from, what to do.

    Exit code 1 when something that the configuration needs is missing or broken.
    """
    from murmurate.cli.doctor import examine, show  # noqa: PLC0415 - looks at everything

    findings = examine(config, state, url, key)
    if as_json:
        click.echo(json.dumps([finding.as_dict() for finding in findings], ensure_ascii=False))
    else:
        click.echo(show(findings))
    sys.exit(any(finding.verdict == "broken" for finding in findings))


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
        for choice in event["choices"]:
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
        "trace_id": response.headers["x-murmurate-trace"],
        "session": response.headers.get("x-murmurate-session"),
        "ms": round((time.perf_counter() - began_s) * 1000, 1),
    }
