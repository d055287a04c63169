"""A command is a process that ends; called in ours, it leaves responses that it has not read."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def what_is_left_is_not_the_next_ones(request: pytest.FixtureRequest) -> Iterator[None]:
    """Collect it while the test that allows it still runs, and not in the middle of another."""
    yield
    if request.node.get_closest_marker("filterwarnings") is not None:
        gc.collect()
