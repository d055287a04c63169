"""Draw the README's picture: `python -m tests.picture` runs its commands against a real service.

What is drawn is what they print, but for the secret of the key, which nobody needs to see.
"""

import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from tests.e2e.running import running

PICTURE = Path(__file__).parents[1] / "images" / "tour.svg"
CELLS = 108
COMMANDS = (
    'murmurate ask "What happens when the engine is killed?"',
    'murmurate search --limit 2 "How long is a cached answer kept?"',
    "murmurate trace TRACE | grep -o '.* ms'",
    'murmurate keys create "Ada" --scopes chat,models --expires 30d',
    "murmurate backup monday.tar",
)
# The reader's own font: a picture that would load one from elsewhere is mostly shown without.
FORMAT = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL).replace(
    "Fira Code, monospace", "ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace"
)


def main() -> None:
    """Write the picture."""
    console = Console(record=True, width=CELLS, file=io.StringIO(), highlight=False)
    with tempfile.TemporaryDirectory() as folder, running(Path(folder) / "state"):
        # What the library has not read yet would be missing.
        run("murmurate ingest", Path(folder))
        trace = "TRACE"
        for template in COMMANDS:
            command = template.replace("TRACE", trace)
            output = run(command, Path(folder))
            trace = "".join(re.findall(r"murmurate trace (\w+)", output)) or trace
            console.print(Text.assemble(("$ ", "green"), (command, "bold")))
            shown = re.sub(r"mur_\w+", "mur_…", output).strip("\n")
            console.print(Text("\n".join(line.rstrip() for line in shown.splitlines())), end="\n\n")
    PICTURE.parent.mkdir(exist_ok=True)
    svg = console.export_svg(title="murmurate", code_format=FORMAT, unique_id="tour")
    PICTURE.write_text(re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE), encoding="utf-8")


def run(command: str, folder: Path) -> str:
    """Return what the command prints in the folder whose service runs."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "COLUMNS": str(CELLS)}
    done = subprocess.run(
        command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


if __name__ == "__main__":
    main()
