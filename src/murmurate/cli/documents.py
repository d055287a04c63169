"""The commands about documents: read them, search in them, see how they are."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import click

from murmurate.cli.client import CUT, STRANGE, RefusedError, call, fetch, find, lines, read
from murmurate.cli.options import connected


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--collection", "collections", multiple=True, help="Collection to read [all].")
@click.option("--json", "as_json", is_flag=True, help="Progress as JSON lines.")
@connected
def ingest(
    paths: tuple[Path, ...],
    collections: tuple[str, ...],
    *,
    as_json: bool,
    url: str | None,
    key: str | None,
    state: Path,
) -> None:
    """Read the documents of the configured collections again; only changes are read.

    \b
    Examples:
      murmurate ingest                        all collections
      murmurate ingest --collection docs      one of them
      murmurate ingest handbook/new.pdf       the collection whose folder has this file
    """
    server = find(url, key, state)
    body = {"collections": list(collections), "paths": [str(path.absolute()) for path in paths]}
    steps = until_done(lines(call(server, "/api/ingest", body)))
    if as_json:
        for step in steps:
            click.echo(json.dumps(step, ensure_ascii=False))
        return
    from murmurate.cli.show import ingest_progress  # noqa: PLC0415 - rich loads only where drawn

    ingest_progress(steps)


@click.command()
@click.argument("question")
@click.option("--collection", "collections", multiple=True, help="Collection to look in [all].")
@click.option(
    "--limit", type=click.IntRange(1, 50), default=5, show_default=True, help="Passages at most."
)
@click.option("--json", "as_json", is_flag=True, help="The passages as JSON.")
@connected
def search(
    question: str,
    collections: tuple[str, ...],
    *,
    limit: int,
    as_json: bool,
    url: str | None,
    key: str | None,
    state: Path,
) -> None:
    """Find the passages that fit best, without asking a model.

    \b
    Examples:
      murmurate search "how are sessions stored"
      murmurate search "退款期限" --collection handbook --limit 3 --json
    """
    body = {"question": question, "collections": list(collections), "limit": limit}
    answer = read(call(find(url, key, state), "/api/search", body))
    passages = listed(answer, "passages")
    if as_json:
        click.echo(json.dumps(answer, ensure_ascii=False))
        return
    from murmurate.cli.show import passage_table  # noqa: PLC0415 - rich loads only where drawn

    passage_table(passages)


@click.group()
def knowledge() -> None:
    """See how the collections of documents are."""


@knowledge.command()
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON.")
@connected
def status(*, as_json: bool, url: str | None, key: str | None, state: Path) -> None:
    """Show what is read, what is searchable, and which files are not, and why.

    \b
    Example:
      murmurate knowledge status
    """
    answer = fetch(find(url, key, state), "/api/knowledge")
    collections = listed(answer, "collections")
    if as_json:
        click.echo(json.dumps(answer, ensure_ascii=False))
        return
    from murmurate.cli.show import knowledge_table  # noqa: PLC0415 - rich loads only where drawn

    knowledge_table(collections)


def listed(answer: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Return a list of objects in an answer, or raise when it has none."""
    found = answer.get(name)
    if not isinstance(found, list):
        raise RefusedError(STRANGE)
    return cast("list[dict[str, Any]]", found)


def until_done(steps: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Pass the steps of an ingest on; raise when they break off before the end."""
    last: str | None = None
    for step in steps:
        last = step.get("step")
        if last is None:
            raise RefusedError(STRANGE)
        yield step
    if last not in {None, "done"}:
        raise RefusedError(CUT)
