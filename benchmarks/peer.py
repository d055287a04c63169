"""Runs programmes that use somebody else's library, each in a virtual environment of its own.

The environments are made on demand under `build/peers/`, from the pinned `peers/NAME.txt`.
"""

import json
import subprocess
import sys
from pathlib import Path

PEERS = Path(__file__).parent / "peers"
ENVIRONMENTS = Path(__file__).parents[1] / "build" / "peers"
RUN_S_MAX = 600


def measure(name: str, programme: str, *arguments: str) -> dict[str, float]:
    """Return what a programme under `peers/` prints as its last line."""
    command = [str(python_of(name)), str(PEERS / programme), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=RUN_S_MAX, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def python_of(name: str, *, whole: bool = False) -> Path:
    """Return the Python that has the peer's packages; makes it the first time (a minute or two).

    A `whole` list names every package: what the packages ask for themselves is not looked at.
    """
    wanted = PEERS / f"{name}.txt"
    folder = ENVIRONMENTS / name
    python, installed = folder / "bin" / "python", folder / "installed.txt"
    if not installed.exists() or installed.read_bytes() != wanted.read_bytes():
        print(f"installing {name} into {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        install = ["-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", str(wanted)]
        install += ["--no-deps"] if whole else []
        subprocess.run([str(python), *install], check=True)
        installed.write_bytes(wanted.read_bytes())
    return python
