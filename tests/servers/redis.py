"""A private Redis for tests: its own folder and port, ended with the block.

The program comes from the system's package (Debian: `redis-server`); there is no test without it.
"""

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import redis

from tests.servers.nginx import free_port, listens

START_S = 10.0


class RedisServer:
    """One server; it keeps nothing over a restart."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        program = shutil.which("redis-server")
        assert program is not None, "Redis is missing: apt-get install redis-server"
        words = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        words += ["--appendonly", "no", "--dir", str(self._folder)]
        with (self._folder / "redis.txt").open("ab") as output:
            self._process = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT)
        deadline_s = time.monotonic() + START_S
        while not listens(self.port):
            said = (self._folder / "redis.txt").read_text()
            assert time.monotonic() < deadline_s, said
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(0.02)
                raise AssertionError(said)

    def size(self) -> int:
        """Return how many values it has."""
        with closing(redis.Redis(port=self.port)) as client:
            return int(client.dbsize())  # type: ignore[arg-type] - it is not awaited here

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None


@contextmanager
def redis_server() -> Generator[RedisServer]:
    """Run a Redis until the block ends."""
    with tempfile.TemporaryDirectory(prefix="murmurate-redis-") as folder:
        server = RedisServer(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()
