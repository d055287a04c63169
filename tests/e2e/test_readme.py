"""The README's tour, as a new user would follow it."""

import re
import subprocess
import sys
from pathlib import Path

from tests.e2e.running import Running

README = Path(__file__).parents[2] / "README.md"


def test_the_python_of_the_tour_runs_word_for_word(service: Running) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=service.state.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("quoted from") == 2


def test_every_command_of_the_tour_exists() -> None:
    commands = set(re.findall(r"^    murmurate (\w+)", README.read_text(), re.MULTILINE))
    shown = subprocess.run(
        [sys.executable, "-m", "murmurate", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert commands
    for command in commands:
        assert f"\n  {command} " in shown
