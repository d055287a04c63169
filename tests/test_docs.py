"""The documentation says what the code does."""

import re
from pathlib import Path

import msgspec

from murmurate.config import SECTIONS, TABLES
from tests.reference import family, regenerate

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
ROW = re.compile(r"^\| `([^`]+)` \| (.+?) \| (.+) \|$", re.MULTILINE)


def test_the_generated_parts_of_the_pages_are_those_of_the_code() -> None:
    old = [
        str(page.relative_to(ROOT))
        for page in sorted(DOCS.rglob("*.md"))
        if (text := page.read_text(encoding="utf-8")) != regenerate(text)
    ]
    assert not old, f"run `.venv/bin/python -m tests.reference` to mend {', '.join(old)}"


def test_what_differs_in_a_generated_part_is_replaced_and_nothing_else_is() -> None:
    page = "Before.\n<!-- generated: errors log.n -->\nOld.\n<!-- end -->\nBehind.\n"
    now = regenerate(page)
    assert now.startswith("Before.\n<!-- generated: errors log.n -->\n| code | status |")
    assert "\n| `log.newer` | 500 | A newer murmurate" in now
    assert now.endswith(" |\n<!-- end -->\nBehind.\n")
    assert "Old." not in now


def test_every_error_stands_in_the_table_once_with_what_to_do() -> None:
    rows = ROW.findall((DOCS / "errors.md").read_text(encoding="utf-8"))
    assert sorted(code for code, _, _ in rows) == sorted(kind.code for kind in family())
    assert {"cli.not_running", "cli.refused", "internal"} <= {code for code, _, _ in rows}
    short = [code for code, _, words in rows if words.count(". ") + words.count(": ") < 1]
    assert not short, "a cause and something to do are two things"


def test_every_setting_stands_in_the_reference() -> None:
    text = (DOCS / "reference" / "configuration.md").read_text(encoding="utf-8")
    missing = [
        f"{name}.{field.name}"
        for name, section in {**SECTIONS, **TABLES}.items()
        for field in msgspec.structs.fields(section)
        if not re.search(rf"^\| `([a-z.]+\.)?{field.name}` \|", text, re.MULTILINE)
    ]
    assert not missing


def test_links_between_pages_lead_somewhere() -> None:
    broken = [
        f"{page.relative_to(DOCS)}: {target}"
        for page in DOCS.rglob("*.md")
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert not broken


def test_every_guarantee_names_a_test_that_exists() -> None:
    rows = [
        line
        for line in (DOCS / "guarantees.md").read_text("utf-8").splitlines()
        if line.startswith("| ") and not line.startswith(("| what fails", "| what comes in"))
    ]
    named = [re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row) for row in rows]
    assert len(rows) > 15
    assert all(named), "a row without a test"
    for file, test in (pair for pairs in named for pair in pairs):
        assert f"def {test}(" in (ROOT / file).read_text("utf-8"), f"{file}::{test}"
