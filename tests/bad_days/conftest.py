"""A service with every kind of worker, impatient, for the tests that make its life hard."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from murmurate.workers.supervisor import open_files
from tests.e2e.running import Running, running

CONFIG = """
[http]
head_s = 5

[workers]
silence_s = 3
{workers}

[models.tiny]
engine = "llama.cpp"
weights = "builtin:tiny"
slots = 2
threads = 1
temperature = 0

[models.slow]
engine = "scripted"
rules = "{folder}/rules.toml"

[knowledge.docs]
folder = "{folder}/docs"

[limits.default]
burst = 10000
requests_per_minute = 100000
"""
RULES = """
tokens_per_s = 10

[[rules]]
match = "slow"
text = "one two three four five six seven eight nine ten eleven twelve"

[[rules]]
match = ".*"
text = "I hear you"
"""
DOCUMENT = """# Harbour

The lighthouse of Brack stands on the northern rock and was built in 1871.
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder starts real processes."""
    for item in items:
        if "tests/bad_days" in str(item.path):
            item.add_marker(pytest.mark.e2e)


def configured(folder: Path, *, workers: str = "", more: str = "") -> tuple[str, str]:
    """Write the configuration, its rules and its document; return the options for it."""
    (folder / "docs").mkdir()
    (folder / "docs" / "harbour.md").write_text(DOCUMENT)
    (folder / "rules.toml").write_text(RULES)
    file = folder / "murmurate.toml"
    file.write_text(CONFIG.format(folder=folder, workers=workers) + more)
    return "--config", str(file)


@pytest.fixture(scope="session", autouse=True)
def _files() -> None:
    """A thousand clients are a thousand files, here as well."""
    open_files(4096)


@pytest.fixture(scope="package")
def hardy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service that must be as it was after each test."""
    folder = tmp_path_factory.mktemp("hardy")
    with running(folder / "state", *configured(folder)) as service:
        yield service
