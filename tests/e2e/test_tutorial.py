"""The tutorial, as a new user would follow it: every command word for word, in two terminals."""

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.running import START_S, children_of, until

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```sh( terminal=1)?\n(.*?)^```\n(?:```text\n(.*?)^```\n)?", re.M | re.S)
FAILED = "a command failed:"


@dataclass(frozen=True, slots=True)
class Block:
    """Commands for one of the two terminals, and lines that their output has, in this order."""

    first_terminal: bool
    commands: str
    shown: tuple[str, ...]

    @property
    def serves(self) -> bool:
        """Whether its command goes on until Ctrl-C."""
        return self.commands.strip() == "murmurate up"

    @property
    def fails(self) -> bool:
        """Whether an error is what the reader is shown."""
        return any(line.startswith("murmurate: ") for line in self.shown)

    def missing(self, output: str) -> list[str]:
        """Return the lines that the output lacks; `…` stands for anything, width for nothing."""
        text, place, missing = " ".join(output.split()), 0, list[str]()
        for line in self.shown:
            words = ".*?".join(re.escape(" ".join(part.split())) for part in line.split("…"))
            if found := re.compile(words).search(text, place):
                place = found.end()
            else:
                missing.append(line)
        return missing


class Terminal:
    """A shell that is typed into, as a person does: what it is told stays, such as the folder."""

    def __init__(self, output: Path, environment: dict[str, str]) -> None:
        self._output = output
        self._blocks = 0
        with output.open("wb") as file:
            self.shell = subprocess.Popen(
                ["bash", "--norc"],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        # Every command gets a process group of its own, for Ctrl-C, as in an interactive shell.
        self._type(f"set -m; trap 'echo \"{FAILED} $BASH_COMMAND\"' ERR")

    def _type(self, line: str) -> None:
        assert self.shell.stdin is not None
        self.shell.stdin.write(f"{line}\n".encode())
        self.shell.stdin.flush()

    def begin(self, commands: str) -> int:
        """Type the commands; return where their output begins."""
        began = len(self.output())
        self._blocks += 1
        self._type(f"{commands}\necho 'end of block {self._blocks}'")
        return began

    def ended(self) -> bool:
        """Whether the last block's commands have ended."""
        return f"end of block {self._blocks}\n" in self.output()

    def output(self, since: int = 0) -> str:
        """Return what stands on the screen."""
        return self._output.read_text(encoding="utf-8")[since:]

    def interrupt(self) -> None:
        """Press Ctrl-C, and wait until the shell is back."""
        for pid in children_of(self.shell.pid):
            os.killpg(pid, signal.SIGINT)
        until(self.ended)

    def close(self) -> None:
        """Close the window; what runs in it hears of it."""
        for pid in children_of(self.shell.pid):
            os.killpg(pid, signal.SIGTERM)
        if self.shell.stdin is not None:
            self.shell.stdin.close()
        self.shell.wait(START_S)


def blocks() -> list[Block]:
    return [
        Block(bool(first), commands, tuple((shown or "").splitlines()))
        for first, commands, shown in BLOCK.findall(TUTORIAL.read_text(encoding="utf-8"))
    ]


@pytest.fixture
def terminals(tmp_path: Path) -> Iterator[tuple[Terminal, Terminal]]:
    """Two terminals in the clone, of a user whose home is empty and whose port 8080 is taken."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    ours = ("MURMURATE_", "MAKE", "VIRTUAL_ENV", "PYTHON")
    environment = {name: it for name, it in os.environ.items() if not name.startswith(ours)}
    environment |= {
        "HOME": str(tmp_path),
        "COLUMNS": "160",
        "MURMURATE_SERVER__LISTEN": f"127.0.0.1:{port}",
    }
    both = tuple(Terminal(tmp_path / f"terminal-{n}", environment) for n in (1, 2))
    try:
        yield both[0], both[1]
    finally:
        for terminal in both:
            terminal.close()


@pytest.mark.timeout(400)
def test_every_command_of_the_tutorial_does_what_it_says(
    terminals: tuple[Terminal, Terminal],
) -> None:
    first, second = terminals
    for block in blocks():
        terminal = first if block.first_terminal else second
        if block.serves and not terminal.ended():
            terminal.interrupt()
        check(block, terminal)
    first.interrupt()
    assert FAILED not in first.output()


def check(block: Block, terminal: Terminal) -> None:
    """Run a block to its end, or until a service has shown what it should."""
    began = terminal.begin(block.commands)
    deadline_s = time.monotonic() + START_S
    while not (terminal.ended() or (block.serves and not block.missing(terminal.output(began)))):
        if time.monotonic() > deadline_s:
            break
        time.sleep(0.05)
    output = terminal.output(began)
    assert not block.missing(output), f"{block.commands}\nprints\n\n{output}"
    assert block.serves is not terminal.ended(), output
    assert block.fails is (FAILED in output), output


def test_the_tutorial_has_nothing_that_is_not_run() -> None:
    text = TUTORIAL.read_text(encoding="utf-8")
    assert len(blocks()) == len(re.findall(r"^```sh", text, re.MULTILINE)) > 10
    assert len(re.findall(r"^```text", text, re.MULTILINE)) == sum(
        bool(block.shown) for block in blocks()
    )
    assert not re.search(r"^    (murmurate|make) ", text, re.MULTILINE)
