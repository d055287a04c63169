"""The documentation says what the code does."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import click
import msgspec

from murmurate.cli.commands import main as commands
from murmurate.config import SECTIONS, TABLES
from tests.picture import COMMANDS, PICTURE
from tests.reference import family, regenerate

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
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


def code_blocks(page: Path) -> list[str]:
    """Return the blocks of a page that are code, by a fence or by four spaces."""
    text = page.read_text(encoding="utf-8")
    fenced = re.findall(r"^```\w*.*?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return fenced + [dedent(it) for it in re.findall(r"(?:^    .*\n(?:\n(?=    ))?)+", text, re.M)]


def typed(page: Path) -> Iterator[list[str]]:
    """Yield the words of every command of ours that a page shows."""
    lines = [line.strip() for block in code_blocks(page) for line in block.splitlines()]
    lines += re.findall(r"`(murmurate [^`]+)`", page.read_text(encoding="utf-8").replace("\n", " "))
    for line in lines:
        if found := re.search(r"(?:^|[(*] ) *(murmurate [a-z].*)", line):
            words = re.split(r" [|#] |\)", found[1])[0].split()
            if words[1] in commands.list_commands(click.Context(commands)):
                yield words


def test_every_command_in_the_pages_can_be_typed() -> None:
    wrong: list[str] = []
    seen: set[str] = set()
    for page in PAGES:
        for words in typed(page):
            command: click.Command = commands
            rest = words[1:]
            while isinstance(command, click.Group) and rest:
                command = command.get_command(click.Context(command), rest[0]) or click.Command("")
                rest = rest[1:]
            seen.add(words[1])
            known = {opt for param in command.params for opt in param.opts} | {"--help"}
            options = {word.partition("=")[0] for word in rest if word.startswith("--")}
            if command.name == "" or not options <= known:
                wrong.append(f"{page.relative_to(ROOT)}: {' '.join(words)}")
    assert not wrong
    assert seen == set(commands.list_commands(click.Context(commands)))


def test_every_configuration_in_the_pages_can_be_read() -> None:
    blocks = [
        (page, found)
        for page in PAGES
        for block in code_blocks(page)
        for found in re.findall(r"^\[[a-z.]+\w*\]\n(?:\w+ =.*\n|\[.*\n|\n)*", block, re.MULTILINE)
    ]
    assert len(blocks) > 5
    for page, block in blocks:
        for name, found in tomllib.loads(block).items():
            for it in [found] if name in SECTIONS else found.values():
                kind = {**SECTIONS, **TABLES}[name]
                names = {field.name for field in msgspec.structs.fields(kind)}
                assert set(it) <= names, f"{page.relative_to(ROOT)}: {block}"


def test_every_setting_that_a_page_names_exists() -> None:
    codes = {kind.code for kind in family()} | {
        *("server.log", "log.damaged", "log.fault"),  # a file, events
    }
    wrong = [
        f"{page.relative_to(ROOT)}: {section}.{key}"
        for page in PAGES
        for section, key in re.findall(
            r"`([a-z]+)\.(?:[A-Za-z]+\.)?([a-z_]+)`", page.read_text("utf-8")
        )
        if (kind := {**SECTIONS, **TABLES}.get(section)) and f"{section}.{key}" not in codes
        if key not in {field.name for field in msgspec.structs.fields(kind)} | {"default"}
    ]
    assert not wrong


def test_links_between_pages_lead_somewhere() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert not broken


def test_every_guarantee_names_a_test_that_exists() -> None:
    rows = [
        line
        for line in (DOCS / "guarantees.md").read_text("utf-8").splitlines()
        if line.startswith("| ")
        and not line.startswith(("| what fails", "| what comes in", "| what | "))
    ]
    named = [re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row) for row in rows]
    assert len(rows) > 15
    assert all(named), "a row without a test"
    for file, test in (pair for pairs in named for pair in pairs):
        assert f"def {test}(" in (ROOT / file).read_text("utf-8"), f"{file}::{test}"


def test_the_picture_shows_its_commands_and_nothing_private() -> None:
    drawn = PICTURE.read_text(encoding="utf-8")
    text = " ".join(re.sub(r"<[^>]*>", " ", drawn).replace("&#160;", " ").split())
    for command in COMMANDS:
        words = command.partition("TRACE")[0].replace('"', "&quot;").split()
        assert " ".join(words) in text, "run `.venv/bin/python -m tests.picture`"
    assert len(drawn) < 200_000
    assert not re.search(r"mur_\w|/tmp|/home|/root|url\((?!#)", drawn)
