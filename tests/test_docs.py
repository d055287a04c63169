"""The documentation says what the code does."""

import re
from importlib import import_module
from pathlib import Path

import msgspec

from murmurate.config import SECTIONS, TABLES
from murmurate.core.errors import MurmurateError
from tests.core.test_errors import family

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SOURCE = ROOT / "src" / "murmurate"
ROW = re.compile(r"^\| `([^`]+)` \| (.+?) \| (.+) \|$", re.MULTILINE)


def test_every_error_stands_in_the_table_with_its_status_and_what_to_do() -> None:
    rows = ROW.findall((DOCS / "errors.md").read_text(encoding="utf-8"))
    documented = [(code, int(status)) for code, status, _ in rows]
    kinds = [*family(), *defined_elsewhere()]
    assert sorted(documented) == sorted((kind.code, kind.http_status) for kind in kinds)
    assert {"cli.not_running", "cli.refused"} <= {code for code, _ in documented}
    short = [code for code, _, words in rows if words.count(". ") + words.count(": ") < 1]
    assert not short, "a cause and something to do are two things"


def defined_elsewhere() -> list[type[MurmurateError]]:
    """Return the errors with a code of their own that stand beside what raises them."""
    for file in sorted(SOURCE.rglob("*.py")):
        if re.search(r"^    code = ", file.read_text("utf-8"), re.MULTILINE):
            import_module(".".join(file.relative_to(SOURCE.parent).with_suffix("").parts))
    kinds: list[type[MurmurateError]] = [MurmurateError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    return [
        kind
        for kind in dict.fromkeys(kinds)
        if "code" in vars(kind)
        and kind.__module__.startswith("murmurate.")
        and kind not in set(family())
    ]


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
