"""Patterns take and leave what `.gitignore` would."""

import pytest

from murmurate.knowledge.rules import Patterns, Rules


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("node_modules", ["node_modules", "a/node_modules"], ["node_modules2", "my_node_modules"]),
        ("*.log", ["a.log", "deep/er/b.log"], ["a.log.txt", "log"]),
        ("/build", ["build"], ["a/build"]),
        ("docs/*.md", ["docs/a.md"], ["docs/deep/a.md", "a/docs/a.md"]),
        ("docs/**/*.md", ["docs/a.md", "docs/a/b/c.md"], ["a.md"]),
        ("a/**", ["a/b", "a/b/c"], ["a", "b/a/c"]),
        ("?.md", ["a.md", "x/b.md"], ["ab.md"]),
        ("a.b[1].md", ["a.b[1].md"], ["aXb1.md"]),
        ("drafts/", ["drafts", "x/drafts"], ["drafts2"]),
    ],
)
def test_a_pattern_names_files_and_folders(
    pattern: str, matching: list[str], others: list[str]
) -> None:
    patterns = Patterns(Rules(exclude=(pattern,)))
    assert [path for path in matching + others if patterns.excludes(path)] == matching


def test_included_is_what_matches_or_lies_in_a_folder_that_does() -> None:
    patterns = Patterns(Rules(include=("*.md", "src/lib")))
    paths = ["a.md", "x/b.md", "src/lib/deep/c.py", "src/d.py", "lib/e.py"]
    assert [path for path in paths if patterns.includes(path)] == paths[:3]


def test_without_patterns_everything_is_taken() -> None:
    patterns = Patterns(Rules(include=("", " "), exclude=("/",)))
    assert patterns.includes("a.md")
    assert not patterns.excludes("a.md")
