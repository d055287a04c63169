"""What people would rather look at than read: progress and trees."""

from collections.abc import Iterable, Sequence
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
                tasks[key] = bars.add_task(label, total=step["total"], path="")
            bars.update(
                tasks[key], completed=step["done"], total=step["total"], path=step["path"] or ""
            )
    console = Console(highlight=False, markup=False)
    for step in done:
        console.print(f"{step['collection']}: {step['total']} documents")
    for path, problem in problems[:PROBLEMS_SHOWN]:
        console.print(f"  not read: {path}: {problem}")
    if len(problems) > PROBLEMS_SHOWN:
        console.print(f"  and {len(problems) - PROBLEMS_SHOWN} more")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows below their heads, each as wide as it is: a cut cell could not be copied."""
    made = Table(*heads, box=None, pad_edge=False, header_style="bold")
    for column in made.columns:
        column.no_wrap = True
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    console = Console(highlight=False, markup=False, width=TABLE_CELLS_MAX)
    console.width = console.measure(made).maximum
    console.print(made, crop=False)
