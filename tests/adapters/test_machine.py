"""What the machine gives is the smaller of its own memory and its container's bound."""

import os
from pathlib import Path

import pytest

from murmurate.adapters.machine import memory_bytes

WHOLE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("content", "bytes_"),
    [("1048576\n", 1048576), ("max\n", WHOLE), ("", WHOLE), (f"{WHOLE * 2}\n", WHOLE)],
)
def test_a_containers_bound_counts_where_it_is_lower(
    tmp_path: Path, content: str, bytes_: int
) -> None:
    (tmp_path / "memory.max").write_text(content)
    assert memory_bytes(tmp_path / "memory.max") == bytes_


def test_without_containers_the_machines_own_memory_counts(tmp_path: Path) -> None:
    assert memory_bytes(tmp_path / "none") == WHOLE
