"""`murmurate up`: the supervisor in the foreground, and a welcome when it is ready."""

import shlex
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec

from murmurate.adapters.gguf import check_fits, context_fitting, read_header
from murmurate.adapters.machine import memory_bytes
from murmurate.config import (
    CONTEXT_TOKENS,
    Config,
    Engine,
    KnowledgeConfig,
    ModelConfig,
    Role,
    check_role,
    load,
    log_place,
    remote,
    weights_path,
)
from murmurate.core.clock import SystemClock
from murmurate.core.errors import ConfigError
from murmurate.workers.supervisor import Ready, Supervisor

EXAMPLE = "What happens when the engine is killed?"


@click.command()
@click.option(
    "--config", "config_file", type=click.Path(path_type=Path), help="TOML file [./murmurate.toml]."
)
@click.option("--listen", help="HOST:PORT; port 0 takes a free one [127.0.0.1:8080].")
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    help="What to do of all: serve clients, work on runs, or both [all].",
)
@click.option("--state", help="Folder for everything that must survive [./state].")
@click.option("--docs", help="Folder of documents to answer from, instead of the built-in ones.")
@click.option("--ready-file", type=click.Path(path_type=Path), help="Write url, key and pid here.")
@click.option("--quiet", is_flag=True, help="No welcome, no example.")
def up(
    *,
    config_file: Path | None,
    listen: str | None,
    role: str | None,
    state: str | None,
    docs: str | None,
    ready_file: Path | None,
    quiet: bool,
) -> None:
    """Serve until Ctrl-C or SIGTERM.

    \b
    Examples:
      murmurate up
      murmurate up --listen 0.0.0.0:8080 --state /var/lib/murmurate
      murmurate up --docs ./handbook
      murmurate up --role worker --listen 0.0.0.0:8081
    """
    words = {"listen": listen, "role": role, "state": state, "docs": docs}
    config = configured(config_file, words)
    state_folder = Path(config.server.state).absolute()

    key_file = state_folder / "key"
    # Journals keep what is printed: there, the key stands in the line of the first start only.
    key_shown = sys.stdout.isatty() or not key_file.exists()

    def welcome(ready: Ready) -> None:
        if not quiet:
            greet(ready, config, state=state_folder, key=ready.key if key_shown else None)

    supervisor = Supervisor(config, clock=SystemClock(), ready_file=ready_file, on_ready=welcome)
    sys.exit(supervisor.run())


def configured(path: Path | None, overrides: dict[str, str | None]) -> Config:
    """Return the file's configuration with the command line's words over it, checked."""
    config = load(path)
    server = msgspec.structs.replace(
        config.server,
        listen=overrides["listen"] or config.server.listen,
        role=Role(overrides["role"] or config.server.role),
        state=overrides["state"] or config.server.state,
    )
    check_role(msgspec.structs.replace(config, server=server))
    knowledge = config.knowledge
    if docs := overrides["docs"]:
        if not Path(docs).is_dir():
            raise ConfigError(f"--docs {docs}: expected a folder")
        old = knowledge.get("docs", KnowledgeConfig(folder=docs))
        knowledge = {**knowledge, "docs": msgspec.structs.replace(old, folder=docs)}
    for name, model in config.models.items():
        with _about(f"models.{name}"):
            if model.engine is Engine.LLAMA_CPP:
                check_weights(model)
            elif model.url is not None:
                remote(model)
    if config.embeddings.url is not None:
        with _about("embeddings"):
            remote(config.embeddings)
    log_place(config.log)
    return msgspec.structs.replace(config, server=server, knowledge=knowledge)


@contextmanager
def _about(section: str) -> Generator[None]:
    """Put the section's name in front of what is wrong with it."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{section}: {error.detail}") from error


def check_weights(model: ModelConfig) -> None:
    """Refuse a file that can't be served before any process is started for it."""
    header = read_header(weights_path(model.weights or ""))
    check_fits(header, memory_bytes=memory_bytes())
    context_fitting(header, model.context_tokens, default=CONTEXT_TOKENS)


def greet(ready: Ready, config: Config, *, state: Path, key: str | None) -> None:
    """Say where the service is and how to use it, and show one real answer.

    Without a `key`, say only where it is kept.
    """
    if config.server.role is Role.WORKER:
        click.secho(f"\nmurmurate works on runs; {ready.url}/readyz says how it is", bold=True)
        click.echo("Stop with Ctrl-C.\n")
        return
    key_file = state / "key"
    model = next(iter(config.agents or config.models))
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "{EXAMPLE}"}}]}}'
    click.secho(f"\nmurmurate serves on {ready.url}", bold=True)
    if key is None:
        click.echo(f"key: in the file {key_file}\n")
    else:
        click.echo(f"key: {key}   (kept in {key_file})\n")
    bearer = key or f"$(cat {shlex.quote(str(key_file))})"
    click.echo(f'curl {ready.url}/v1/chat/completions -H "Authorization: Bearer {bearer}" \\')
    click.echo(f"  -H 'Content-Type: application/json' -d '{body}'\n")
    click.echo("Stop with Ctrl-C. Its answer right now:\n")
    sys.stdout.flush()
    # Another process asks, as any client would: this one only watches over its children.
    subprocess.Popen(  # noqa: S603 - our own command line
        [sys.executable, "-m", "murmurate", "ask", "--model", model, "--state", str(state), EXAMPLE]
    )
