from hypothesis import given
from hypothesis import strategies as st

from murmurate.observe.spans import SpanRecord
from murmurate.observe.tree import tree

MS = 1_000_000


def span(
    span_id: str,
    parent_id: str | None,
    *,
    start_ms: int = 0,
    ms: int = 100,
    error: str | None = None,
    **attributes: str | float | bool,
) -> SpanRecord:
    return SpanRecord(
        "t", span_id, parent_id, "acme", span_id, start_ms * MS, ms * MS, attributes, error
    )


def test_a_trace_is_drawn_with_names_bars_times_and_facts() -> None:
    spans = [
        span("model", "agent", start_ms=25, ms=50, tokens_in=900, tokens_out=120),
        span("search", "agent", start_ms=5, ms=1, passages=6, score=0.123456),
        span("agent", "request", start_ms=2, ms=98),
        span("request", "remote", ms=1200, session="sess_1"),
        span("store", "request", start_ms=1100, ms=50, error="log.unavailable"),
    ]
    assert tree(spans).splitlines() == [
        "request       ████████████████████████  1,200.0 ms  session=sess_1",
        "├─ agent      ██                           98.0 ms",
        "│  ├─ search  █                             1.0 ms  passages=6 score=0.1235",
        "│  └─ model   █                            50.0 ms  tokens_in=900 tokens_out=120",
        "└─ store                            █      50.0 ms  error=log.unavailable",
    ]


def test_no_spans_make_no_lines() -> None:
    assert tree([]) == ""


def test_a_span_without_its_parent_stands_at_the_top_in_order_of_time() -> None:
    spans = [span("b", "lost", start_ms=5), span("a", "lost too"), span("below", "b")]
    assert [line.split("  ")[0] for line in tree(spans).splitlines()] == ["a", "b", "└─ below"]


def test_spans_without_any_duration_are_drawn_too() -> None:
    assert "█" in tree([span("a", None, ms=0)])


def test_texts_cannot_break_the_picture() -> None:
    text = tree([span("a", None, note="x\x1b[2J\n" + "y" * 100)])
    assert len(text.splitlines()) == 1
    assert "\x1b" not in text
    assert "…" in text


def test_a_trace_deeper_than_pythons_stack_is_drawn() -> None:
    spans = [span(str(number), str(number - 1)) for number in range(3000)]
    assert len(tree(spans).splitlines()) == 3000


IDS = st.sampled_from("abcdef")


@given(st.lists(st.tuples(IDS, st.none() | IDS, st.integers(0, 9)), unique_by=lambda row: row[0]))
def test_every_span_is_drawn_once_whatever_the_parents_say(
    rows: list[tuple[str, str | None, int]],
) -> None:
    spans = [span(name, parent, start_ms=start) for name, parent, start in rows]
    drawn = [line.replace("│", "").split("█")[0].split()[-1] for line in tree(spans).splitlines()]
    assert sorted(drawn) == sorted(name for name, _, _ in rows)
