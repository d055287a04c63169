"""What people would rather look at than read: progress and trees."""

from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from murmurate.cli.client import STRANGE, RefusedError
from murmurate.observe.spans import SpanRecord
from murmurate.observe.tree import tree

PROBLEMS_SHOWN = 20
SNIPPET_CHARS = 200
TABLE_CELLS_MAX = 10_000
STEPS = {"index": "indexing", "read": "reading", "embed": "embedding"}


def trace_tree(spans: list[dict[str, Any]]) -> str:
    """Return the spans of a trace as a tree with times."""
    try:
        return tree(msgspec.convert(spans, list[SpanRecord]))
    except msgspec.ValidationError as cause:
        raise RefusedError(STRANGE) from cause


def ingest_progress(steps: Iterable[dict[str, Any]]) -> None:
    """Draw the steps as bars on stderr; then say on stdout what each collection holds."""
    problems: list[tuple[str, str]] = []
    done: list[dict[str, Any]] = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rest]}"),
        TextColumn("{task.fields[path]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[tuple[str, str], Any] = {}
        for step in steps:
            if step["step"] == "done":
                done.append(step)
                continue
            if step.get("problem"):
                problems.append((step["path"], step["problem"]))
            key = (step["collection"], step["step"])
            if key not in tasks:
                label = f"{STEPS[step['step']]} {step['collection']}"
                tasks[key] = bars.add_task(label, total=step["total"], path="", rest="")
            bars.update(
                tasks[key],
                completed=step["done"],
                total=step["total"],
                path=step["path"] or "",
                rest=rest(step.get("left_s")),
            )
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for step in done:
        failed = f", {step['failed']} not read" if step.get("failed") else ""
        chunks = f", {step['chunks']} passages" if step.get("chunks") else ""
        console.print(f"{step['collection']}: {step['total']} documents{chunks}{failed}")
    for path, problem in problems[:PROBLEMS_SHOWN]:
        console.print(f"  not read: {path}: {problem}")
    if len(problems) > PROBLEMS_SHOWN:
        console.print(f"  and {len(problems) - PROBLEMS_SHOWN} more: murmurate knowledge status")


@contextmanager
def counting(name: str) -> Generator[Callable[[str, int, int], None]]:
    """Draw a bar on stderr; what is yielded says a state, how many are done, and of how many."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
    )
    console = Console(stderr=True)
    is_off = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=is_off) as bars:
        task = bars.add_task(name, total=None)

        def shown(state: str, done: int, total: int) -> None:
            bars.update(task, description=f"{name} {state}", completed=done, total=total or None)

        yield shown


def rest(left_s: float | None) -> str:
    """Return how long something will still take, as people say it."""
    if left_s is None:
        return ""
    minutes, seconds = divmod(round(left_s), 60)
    return f"{minutes} min {seconds} s left" if minutes else f"{seconds} s left"


def passage_table(passages: list[dict[str, Any]]) -> None:
    """Print passages, the best first, with where they stand."""
    console = Console(highlight=False, markup=False)
    if not passages:
        console.print("nothing found")
        return
    made = Table(box=None, pad_edge=False)
    made.add_column("score", justify="right", no_wrap=True)
    made.add_column("where", overflow="fold", ratio=1)
    made.add_column("passage", overflow="fold", ratio=2)
    for passage in passages:
        words = " ".join(passage["text"].split())
        snippet = words if len(words) <= SNIPPET_CHARS else words[: SNIPPET_CHARS - 1] + "…"
        made.add_row(f"{passage['confidence']:.2f}", Text(place(passage)), Text(snippet))
    console.print(made)


def place(passage: dict[str, Any]) -> str:
    """Return where a passage stands: the file, its page if it has any, and the lines."""
    first, last = passage["line_first"], passage["line_last"]
    lines = f"line {first}" if first == last else f"lines {first}-{last}"
    page = "" if passage.get("page") is None else f"page {passage['page']}, "
    return f"{passage['collection']}: {passage['path']}, {page}{lines}"


def knowledge_table(collections: list[dict[str, Any]]) -> None:
    """Print each collection's state, then the files that are not searchable, and why."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not collections:
        console.print("no collection is configured")
        return
    for found in collections:
        embedder = found.get("embedder")
        vectors = f"{embedder}, {found['dimensions']} dimensions" if embedder else found["search"]
        facts = {
            "state": found["state"],
            "documents": found["documents"],
            "passages": f"{found['chunks']}, {found['chunks_pending']} not embedded yet",
            "vectors": vectors,
            "watched": "yes" if found["watched"] else "no",
            "last read": when(found["synced_ms"]),
            "index": index_size(found["index_bytes"]),
            "fault": found["fault"],
        }
        console.print(found["collection"])
        for name, value in facts.items():
            if value is not None:
                console.print(f"  {name:<10} {value}")
        for problem in found["problems"][:PROBLEMS_SHOWN]:
            console.print(f"  not read: {problem['path']}: {problem['reason']}")
        if len(found["problems"]) > PROBLEMS_SHOWN:
            more = len(found["problems"]) - PROBLEMS_SHOWN
            console.print(f"  and {more} more: see --json")


def index_size(size_bytes: int | None) -> str | None:
    """Return how much room the index takes, where the server tells this key."""
    if size_bytes is None:
        return None
    return f"{size_bytes / 1e6:.1f} MB, all collections together"


def when(unix_ms: int | None) -> str:
    """Return a moment in this machine's time zone."""
    if unix_ms is None:
        return "not yet"
    return f"{datetime.fromtimestamp(unix_ms / 1000, UTC).astimezone():%Y-%m-%d %H:%M:%S}"


def table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Collection[str] = ()
) -> None:
    """Print rows below their heads, each as wide as it is: a cut cell could not be copied.

    Columns whose heads are among `numbers` end on the right.
    """
    made = Table(*heads, box=None, pad_edge=False, header_style="bold")
    for column in made.columns:
        column.no_wrap = True
        column.justify = "right" if column.header in numbers else "left"
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    console = Console(highlight=False, markup=False, width=TABLE_CELLS_MAX)
    console.width = console.measure(made).maximum
    console.print(made, crop=False)
