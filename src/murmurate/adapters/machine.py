"""What this machine gives to a process: its memory, by its own count and by its container's."""

import os
from contextlib import suppress
from pathlib import Path

CGROUP_MEMORY = Path("/sys/fs/cgroup/memory.max")


def memory_bytes(cgroup: Path = CGROUP_MEMORY) -> int | None:
    """Return how much memory this process may use at most; None where nobody says."""
    found: list[int] = []
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" in names and "SC_PAGE_SIZE" in names:
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(OSError, ValueError):  # no cgroup, or "max": no bound
        found.append(int(cgroup.read_text(encoding="ascii")))
    usable = [amount for amount in found if amount > 0]
    return min(usable) if usable else None
