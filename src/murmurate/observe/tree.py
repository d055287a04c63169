"""A trace as a tree for a terminal: what called what, how long it took, and when it ran.

request       ████████████████████████  1,200.0 ms  session=sess_1
├─ agent      ██                           98.0 ms
│  ├─ search  █                             1.0 ms  passages=6
│  └─ model   █                            50.0 ms  tokens_in=900 tokens_out=120
└─ store                            █      50.0 ms  error=log.unavailable
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from murmurate.core.types import Frozen
from murmurate.observe.spans import SpanRecord

BAR_COLUMNS = 24


class _Line(Frozen, frozen=True):
    label: str
    span: SpanRecord


def tree(spans: Sequence[SpanRecord]) -> str:
    """Return the spans of one trace as lines of text, none for no spans.

    Each span stands once, below its parent, in order of time. A span whose parent is missing (not
    sampled, or another system's) stands at the top.
    """
    lines = list(_lines(spans))
    if not lines:
        return ""
    start_ns = min(span.start_unix_ns for span in spans)
    end_ns = max(span.start_unix_ns + span.duration_ns for span in spans)
    times = [f"{line.span.duration_ns / 1e6:,.1f} ms" for line in lines]
    label_columns = max(len(line.label) for line in lines)
    time_columns = max(len(time) for time in times)
    return "\n".join(
        f"{line.label:<{label_columns}}  {_bar(line.span, start_ns, end_ns)}"
        f"  {time:>{time_columns}}{_facts(line.span)}"
        for line, time in zip(lines, times, strict=True)
    )


def _lines(spans: Sequence[SpanRecord]) -> Iterator[_Line]:
    known = {span.span_id for span in spans}
    below: dict[str | None, list[SpanRecord]] = defaultdict(list)
    for span in sorted(spans, key=_by_time):
        below[span.parent_id if span.parent_id in known else None].append(span)
    seen: set[str] = set()
    for root in below[None]:
        yield from _branch(root, below, seen)
    for span in sorted(spans, key=_by_time):  # damaged: a circle of parents has no top
        if span.span_id not in seen:
            yield from _branch(span, below, seen)


def _branch(
    root: SpanRecord, below: dict[str | None, list[SpanRecord]], seen: set[str]
) -> Iterator[_Line]:
    # A stack and not recursion: a trace may be deeper than Python's own stack.
    stack = [(root, "", "")]
    while stack:
        span, stem, twig = stack.pop()
        if span.span_id in seen:
            continue
        seen.add(span.span_id)
        yield _Line(stem + twig + span.name, span)
        stem += {"": "", "├─ ": "│  ", "└─ ": "   "}[twig]
        children = [child for child in below.get(span.span_id, ()) if child.span_id not in seen]
        twigs = ["├─ "] * (len(children) - 1) + ["└─ "]
        stack.extend(
            reversed([(child, stem, t) for child, t in zip(children, twigs, strict=False)])
        )


def _bar(span: SpanRecord, start_ns: int, end_ns: int) -> str:
    per_column = max(end_ns - start_ns, 1) / BAR_COLUMNS
    first = min(int((span.start_unix_ns - start_ns) / per_column), BAR_COLUMNS - 1)
    columns = max(1, min(round(span.duration_ns / per_column), BAR_COLUMNS - first))
    return (" " * first + "█" * columns).ljust(BAR_COLUMNS)


def _facts(span: SpanRecord) -> str:
    facts = [f"{name}={_short(value)}" for name, value in span.attributes.items()]
    if span.error:
        facts.insert(0, f"error={span.error}")
    return "  " + " ".join(facts) if facts else ""


def _short(value: str | float | bool) -> str:  # noqa: FBT001  a value to show, not a switch
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    printable = "".join(letter if letter.isprintable() else "?" for letter in text)
    return printable if len(printable) <= 60 else f"{printable[:59]}…"


def _by_time(span: SpanRecord) -> tuple[int, int]:
    return span.start_unix_ns, -span.duration_ns
