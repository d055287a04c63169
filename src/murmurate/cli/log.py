"""`murmurate log`: what is done with the log as a whole, while no service runs on it."""

import asyncio
import json
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from murmurate.adapters.log_copy import Copied, Store, Target, Told, said
from murmurate.adapters.log_copy import copy as copy_log
from murmurate.adapters.sqlite.transfer import SqliteSource, SqliteTarget
from murmurate.config import secret
from murmurate.core.clock import SystemClock
from murmurate.core.errors import ConfigError, LogUnavailableError, MissingPartError
from murmurate.workers.state_lock import lock_state

LOG = "truth.db"
REFERENCES = ("env:", "file:")
URLS = ("postgresql://", "postgres://")
SCHEMA = "murmurate"


@click.group()
def log() -> None:
    """Work on the log as a whole."""


@log.command()
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option("--from-schema", default=SCHEMA, help="Schema, where FROM is PostgreSQL [murmurate].")
@click.option("--to-schema", default=SCHEMA, help="Schema, where TO is PostgreSQL [murmurate].")
@click.option("--json", "as_json", is_flag=True, help="What was copied as JSON.")
def copy(source: str, target: str, *, from_schema: str, to_schema: str, as_json: bool) -> None:
    """Copy the whole log FROM one place TO another, and compare both.

    A place is a state folder, or a PostgreSQL URL, or a reference to one: env:NAME, file:PATH. No
    service may run on either. FROM is left as it is; TO must be empty, or half of the same copy:
    an interrupted one goes on when it is run again.

    \b
    Examples:
      murmurate log copy ./state postgresql://murmurate@db.example/murmurate
      murmurate log copy env:DATABASE_URL /var/lib/murmurate
    """
    clock = SystemClock()
    began_s = clock.now_s()

    async def copied() -> tuple[Copied, str, str]:
        with progress() as told:
            async with reading(source, from_schema) as ours, writing(target, to_schema) as theirs:
                return await copy_log(ours, theirs, told=told), ours.name, theirs.name

    done, ours, theirs = asyncio.run(copied())
    seconds = round(clock.now_s() - began_s, 3)
    if as_json:
        rows = dict(done.tally.rows)
        facts = {"from": ours, "to": theirs, "rows": rows, "sha256": done.tally.sha256}
        shown = {**facts, "resumed": done.resumed, "seconds": seconds}
        click.echo(json.dumps(shown, ensure_ascii=False))
        return
    how = " (gone on with)" if done.resumed else ""
    click.echo(f"{theirs}: {said(done.tally)}, the same as in {ours}, {seconds:.1f} s{how}")


@asynccontextmanager
async def reading(place: str, schema: str) -> AsyncGenerator[Store]:
    """Open what is copied, and keep every service off it."""
    if (url := url_of(place)) is not None:
        async with server(url, schema, is_target=False) as store:
            yield store
        return
    folder = folder_of(place)
    if not (folder / LOG).is_file():
        raise LogUnavailableError(f"{folder / LOG}: there is no log to copy")
    with lock_state(folder):
        file = SqliteSource(folder / LOG)
        try:
            yield file
        finally:
            await file.close()


@asynccontextmanager
async def writing(place: str, schema: str) -> AsyncGenerator[Target]:
    """Open what is written, and keep every service off it."""
    if (url := url_of(place)) is not None:
        async with server(url, schema, is_target=True) as store:
            yield store
        return
    folder = folder_of(place)
    with lock_state(folder):
        file = SqliteTarget(folder / LOG)
        try:
            yield file
        finally:
            await file.close()


@asynccontextmanager
async def server(url: str, schema: str, *, is_target: bool) -> AsyncGenerator[Target]:
    """Open a schema in PostgreSQL, whose driver is loaded by nobody else."""
    try:
        from murmurate.adapters.postgres.database import Database  # noqa: PLC0415 - an extra
        from murmurate.adapters.postgres.transfer import PostgresStore  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as cause:
        raise MissingPartError(
            f"this needs {cause.name}, which is not installed: pip install 'murmurate[postgres]'"
        ) from cause
    store = await PostgresStore.open(Database(url, schema=schema, verb="copy"), is_target=is_target)
    try:
        yield store
    finally:
        await store.close()


def url_of(place: str) -> str | None:
    """Return the URL that is meant; None for a folder."""
    url = secret(place) if place.startswith(REFERENCES) else place
    if url.startswith(URLS):
        return url
    if url is not place or "://" in url:
        raise ConfigError("expected a state folder, or postgresql://USER@HOST:PORT/DATABASE")
    return None


def folder_of(place: str) -> Path:
    """Return the state folder that is meant; its log may be named instead."""
    path = Path(place)
    return path.parent if path.name == LOG else path


@contextmanager
def progress() -> Generator[Told]:
    """Draw a bar on stderr while it takes; nothing where nobody looks."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("copying", total=None)
        yield lambda what, done, total: bars.update(
            task, description=what, completed=done, total=total
        )
