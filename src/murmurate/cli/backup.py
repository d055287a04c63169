"""`murmurate backup` and `murmurate restore`: the log as one file, out of a folder and into one."""

import hashlib
import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from murmurate.adapters.sqlite.backup import KEY, OLD, Manifest, Options, back_up
from murmurate.adapters.sqlite.backup import restore as restore_from
from murmurate.adapters.sqlite.copies import Told
from murmurate.cli.options import configured_state
from murmurate.config import load
from murmurate.core.clock import SystemClock
from murmurate.core.errors import ConfigError, MurmurateError

_STATE = click.option(
    "--state",
    type=click.Path(path_type=Path),
    default=configured_state,
    envvar="MURMURATE_SERVER__STATE",
    help="State folder [that of ./murmurate.toml, else ./state].",
)
_CONFIG = click.option(
    "--config", type=click.Path(path_type=Path), help="TOML file [./murmurate.toml]."
)


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--with-key", is_flag=True, help="Put the first key's file into it, too.")
@click.option("--json", "as_json", is_flag=True, help="What was written as JSON.")
@_STATE
@_CONFIG
def backup(file: Path, state: Path, config: Path | None, *, with_key: bool, as_json: bool) -> None:
    """Write all that must survive to FILE, while the service runs on.

    \b
    Examples:
      murmurate backup /backups/murmurate.tar
      murmurate backup --with-key --json nightly.tar
    """
    if is_elsewhere(config):
        raise ConfigError(
            "log.url is set: the log is in PostgreSQL; back it up there, as"
            " docs/howto/postgres.md shows"
        )
    clock = SystemClock()
    began_s = clock.now_s()
    options = Options(
        made_unix_ms=clock.unix_ms(), config_sha256=fingerprint(config), with_key=with_key
    )
    with progress(f"copying {state / 'truth.db'}") as told:
        made = back_up(state, file, options, told=told)
    seconds = clock.now_s() - began_s
    say(made, {"file": str(file), "bytes": file.stat().st_size}, seconds=seconds, as_json=as_json)
    if not as_json:
        if made.damaged:
            click.echo(f"  {made.damaged} damaged places are in it as they are: murmurate doctor")
        if not with_key:
            click.echo(f"  the key is not in it: keep {state / KEY} apart, or give --with-key")


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--force", is_flag=True, help="Replace a log; it is kept as truth.db.before-restore.")
@click.option("--json", "as_json", is_flag=True, help="What was restored as JSON.")
@_STATE
@_CONFIG
def restore(file: Path, state: Path, config: Path | None, *, force: bool, as_json: bool) -> None:
    """Put the backup FILE into a state folder on which no service runs.

    All of it is checked before anything is changed.

    \b
    Examples:
      murmurate restore /backups/murmurate.tar --state /var/lib/murmurate
    """
    clock = SystemClock()
    began_s = clock.now_s()
    replaces = (state / "truth.db").exists()
    with progress(f"restoring {file}") as told:
        made = restore_from(file, state, replace=force, told=told)
    seconds = clock.now_s() - began_s
    has_key = (state / KEY).exists()
    differs = made.config_sha256 is not None and made.config_sha256 != fingerprint(config)
    facts = {"state": str(state), "key": has_key, "same_config": not differs}
    say(made, facts, seconds=seconds, as_json=as_json)
    if not as_json:
        if replaces:
            click.echo(f"  the log that was there is kept as truth.db.{OLD}")
        if not has_key:
            click.echo(f"  before the start: put the key into {state / KEY} (it was not in it)")
        if differs:
            click.echo("  the configuration is another one than that of the backup")
        if is_elsewhere(config):
            click.echo("  log.url is set: copy it to PostgreSQL with `murmurate log copy`")


def fingerprint(path: Path | None) -> str | None:
    """Return a hash that two equal configurations share; None where it cannot be read."""
    try:
        config = load(path)
    except (MurmurateError, OSError):
        return None
    return hashlib.sha256(msgspec.json.encode(config, order="deterministic")).hexdigest()


def is_elsewhere(path: Path | None) -> bool:
    """Tell whether the configuration, where it can be read, has the log in PostgreSQL."""
    try:
        return load(path).log.url is not None
    except (MurmurateError, OSError):
        return False


def say(made: Manifest, facts: Mapping[str, object], *, seconds: float, as_json: bool) -> None:
    """Print what the backup holds."""
    if as_json:
        shown = {**facts, "seconds": round(seconds, 3), "manifest": msgspec.to_builtins(made)}
        click.echo(json.dumps(shown, ensure_ascii=False))
        return
    size_bytes = sum(part.size_bytes for part in made.files)
    where = facts.get("file") or facts.get("state")
    click.echo(
        f"{where}: {made.entries} entries of {made.streams} streams, {size_bytes / 1e6:.1f} MB,"
        f" {seconds:.1f} s (log format {made.log_format})"
    )


@contextmanager
def progress(what: str) -> Generator[Told]:
    """Draw a bar on stderr while it takes; nothing where nobody looks."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
