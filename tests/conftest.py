"""What the whole test session shares: servers that are slow to start."""

from collections.abc import Iterator

import pytest

from tests.servers.postgres import PostgresServer


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A running PostgreSQL; whoever kills it starts it again."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.close()
