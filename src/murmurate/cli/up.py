"""`murmurate up`: the supervisor in the foreground, and a welcome when it is ready."""

import subprocess
import sys
from pathlib import Path

import click
import msgspec

from murmurate.config import Config, Engine, KnowledgeConfig, load, weights_path
from murmurate.core.clock import SystemClock
from murmurate.core.errors import ConfigError
from murmurate.workers.supervisor import Ready, Supervisor

EXAMPLE = "What survives when a server is killed?"


def serve(
    path: Path | None, overrides: dict[str, str | None], ready_file: Path | None, *, quiet: bool
) -> int:
    """Run until told to stop; return the exit code."""
    config = configured(path, overrides)
    state = Path(config.server.state).absolute()

    def welcome(ready: Ready) -> None:
        if not quiet:
            greet(ready, state, config)

    return Supervisor(config, clock=SystemClock(), ready_file=ready_file, on_ready=welcome).run()


def configured(path: Path | None, overrides: dict[str, str | None]) -> Config:
    """Return the file's configuration with the command line's words over it, checked."""
    config = load(path)
    server = msgspec.structs.replace(
        config.server,
        listen=overrides["listen"] or config.server.listen,
        state=overrides["state"] or config.server.state,
    )
    knowledge = config.knowledge
    if docs := overrides["docs"]:
        if not Path(docs).is_dir():
            raise ConfigError(f"--docs {docs}: expected a folder")
        knowledge = {**knowledge, "docs": KnowledgeConfig(folder=docs)}
    for name, model in config.models.items():
        if model.engine is Engine.LLAMA_CPP and not weights_path(model.weights or "").is_file():
            raise ConfigError(f"models.{name}.weights = {model.weights!r}: no such file")
    return msgspec.structs.replace(config, server=server, knowledge=knowledge)


def greet(ready: Ready, state: Path, config: Config) -> None:
    """Say where the service is and how to use it, and show one real answer."""
    model = next(iter(config.agents or config.models))
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "{EXAMPLE}"}}]}}'
    click.secho(f"\nmurmurate serves on {ready.url}", bold=True)
    click.echo(f"key: {ready.key}   (kept in {state / 'key'})\n")
    click.echo(f"curl {ready.url}/v1/chat/completions -H 'Authorization: Bearer {ready.key}' \\")
    click.echo(f"  -H 'Content-Type: application/json' -d '{body}'\n")
    click.echo("Stop with Ctrl-C. Its answer right now:\n")
    sys.stdout.flush()
    # Another process asks, as any client would: this one only watches over its children.
    subprocess.Popen(  # noqa: S603 - our own command line
        [sys.executable, "-m", "murmurate", "ask", "--model", model, "--state", str(state), EXAMPLE]
    )
