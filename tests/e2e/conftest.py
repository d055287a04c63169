"""One service with the built-in model for all tests that leave it as it was."""

from collections.abc import Iterator

import pytest

from tests.e2e.running import Running, running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder starts real processes."""
    for item in items:
        if "tests/e2e" in str(item.path):
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service over the built-in model and documents."""
    state = tmp_path_factory.mktemp("service") / "state"
    roomy = {
        "MURMURATE_LIMITS__DEFAULT__BURST": "10000",
        "MURMURATE_LIMITS__DEFAULT__REQUESTS_PER_MINUTE": "100000",
    }
    with running(state, environment=roomy) as it:
        yield it
