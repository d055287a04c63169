"""What every benchmark ends with: a table for people, a file for the record, a last line for tools.

The last line is one JSON object with the benchmark's keys. A full run also leaves everything it saw
in `results/DATE-NAME.json`; a quick one leaves nothing, as its figures are too few to compare.
"""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("murmurate", "aiohttp", "msgspec", "uvicorn", "uvloop", "xllamacpp")


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows under a head, the first column to the left and the others to the right."""
    lines = [list(head), *([_shown(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in [lines[0], ["-" * width for width in widths], *lines[1:]]:
        first, *others = (
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join([first, *others]).rstrip())


def finish(
    name: str, keys: Mapping[str, float], samples: Mapping[str, Sequence[float]], *, quick: bool
) -> None:
    """Keep the results of a full run, and print the keys as the last line."""
    rounded = {key: round(value, 4) for key, value in keys.items()}
    if not quick:
        now = datetime.now(UTC)
        path = RESULTS / f"{now:%Y-%m-%d}-{name}.json"
        record = {
            "benchmark": name,
            "date": f"{now:%Y-%m-%d}",
            "machine": machine(),
            "versions": {package: version(package) for package in PACKAGES},
            "keys": rounded,
            "medians": {key: round(median(values), 4) for key, values in samples.items()},
            "samples": {key: [round(v, 4) for v in values] for key, values in samples.items()},
        }
        RESULTS.mkdir(exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"\nkept in results/{path.name}")
    print(json.dumps(rounded), flush=True)


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_1min": round(os.getloadavg()[0], 2),
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _shown(cell: Any) -> str:
    if isinstance(cell, float):
        return (
            f"{cell:.3g}" if abs(cell) < 1 else f"{cell:.2f}" if abs(cell) < 100 else f"{cell:.0f}"
        )
    return str(cell)
