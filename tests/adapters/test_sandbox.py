"""The sandbox's client, over a real socket and a worker that notes what it is told."""

import asyncio
from pathlib import Path

import pytest

from murmurate.adapters.sandbox import Outcome, Run, SandboxClient
from murmurate.adapters.wire import serve
from murmurate.core.clock import SystemClock
from murmurate.core.errors import WorkerUnreachableError
from tests.fakes import FakeClock


def test_a_snippet_travels_with_its_limits_and_its_outcome_comes_back(tmp_path: Path) -> None:
    ran: list[Run] = []

    async def handle(message: Run) -> Outcome:
        ran.append(message)
        return Outcome("42", None) if message.code == "6*7" else Outcome(None, "SyntaxError")

    async def story() -> None:
        path = str(tmp_path / "sandbox.sock")
        server = await serve(path, Run, handle)
        client = SandboxClient(path, clock=SystemClock(), time_s_max=0.5)
        assert await client.run("6*7") == Outcome("42", None)
        assert await client.run("6*") == Outcome(None, "SyntaxError")
        await client.close()
        server.close()

    asyncio.run(story())
    assert ran[0] == Run("6*7", time_s_max=0.5, memory_bytes_max=64 * 1024 * 1024)


def test_a_sandbox_that_is_not_there_is_an_error_and_no_outcome(tmp_path: Path) -> None:
    async def story() -> None:
        client = SandboxClient(str(tmp_path / "none.sock"), clock=FakeClock())
        with pytest.raises(WorkerUnreachableError):
            await client.run("1")
        await client.close()

    asyncio.run(story())
