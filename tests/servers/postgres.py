"""A private PostgreSQL for tests: its own data folder and port, fsync on, ended with the tests.

The programs come from the system's package (Debian: `postgresql`); there is no test without them.
"""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg

USER = "murmurate"
PASSWORD = "correct-horse-battery"
STANDBY = "standby"
START_S = 60.0
TLS = Path(__file__).parents[1] / "fixtures" / "tls"
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "80",
    "shared_buffers": "32MB",
    "fsync": "on",
    "ssl": "on",
    "log_min_messages": "warning",
}


class PostgresServer:
    """One server; each test takes a schema of its own in its one database."""

    def __init__(self, *, primary: "PostgresServer | None" = None) -> None:
        """Make a new cluster, or a standby of a running primary, which then waits for it."""
        self.folder = Path(tempfile.mkdtemp(prefix="murmurate-postgres-"))
        self.data = self.folder / "data"
        self.port = _free_port()
        self._schemas = count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._user = _unprivileged()
        if self._user is not None:
            shutil.chown(self.folder, self._user, self._user)
        if primary is not None:
            self._copy(primary)
            return
        password = self.folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        how = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]
        who = [f"--username={USER}", f"--pwfile={password}"]
        self._do("initdb", f"--pgdata={self.data}", *how, *who)
        for name in ("server.crt", "server.key"):
            shutil.copy(TLS / "server.pem", self.data / name)
            (self.data / name).chmod(0o600)
            if self._user is not None:
                shutil.chown(self.data / name, self._user, self._user)

    @property
    def address(self) -> str:
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    @property
    def url(self) -> str:
        return f"{self.address}?sslmode=disable"  # quicker

    def new_schema(self) -> str:
        return f"log_{next(self._schemas)}"

    def start(self) -> None:
        """Start it and wait until it takes connections; also after a kill, with its recovery.

        Call it in the main thread: the server ends with the thread that has started it.
        """
        until_s = time.monotonic() + START_S
        while not self._is_up():
            assert time.monotonic() < until_s, (self.folder / "log").read_text()[-2000:]
            if self._process is None or self._process.poll() is not None:
                self._launch()  # a killed one's children hold its memory for a moment
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(0.05) if self._process else None

    def kill(self) -> None:
        """End the postmaster as a power cut would; its children follow."""
        self._end(signal.SIGKILL)

    def promote(self) -> None:
        """Make a standby the primary; returns once it takes writes."""
        self._do("pg_ctl", "promote", f"--pgdata={self.data}", "--wait", "--timeout=30")

    def wait_for(self, standby: str | None) -> None:
        """Acknowledge only what a standby of that name has on its disk, too; None: what is here."""
        self.ask_all([f"ALTER SYSTEM SET synchronous_standby_names = '{standby or ''}'"])
        self.ask_all(["SELECT pg_reload_conf()"])

    def close(self) -> None:
        self._end(signal.SIGQUIT)  # at once: nobody needs what it holds
        shutil.rmtree(self.folder)

    def ask(self, query: str, *values: object) -> list[Any]:
        """Return the rows of a query of a test's own."""

        async def asked() -> list[Any]:
            connection = await asyncpg.connect(self.url)
            try:
                return await connection.fetch(query, *values)
            finally:
                await connection.close()

        return asyncio.run(asked())

    def ask_all(self, statements: Iterable[str]) -> None:
        """Run statements of a test's own, which have no rows."""

        async def asked() -> None:
            connection = await asyncpg.connect(self.url)
            try:
                await connection.execute(";".join(statements))
            finally:
                await connection.close()

        asyncio.run(asked())

    def _copy(self, primary: "PostgresServer") -> None:
        where = f"host=127.0.0.1 port={primary.port} user={USER} password={PASSWORD}"
        name = f"application_name={STANDBY}"
        how = ("--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync")
        self._do("pg_basebackup", f"--dbname={where} {name}", f"--pgdata={self.data}", *how)

    def _do(self, program: str, *words: str) -> None:
        done = subprocess.run(
            [_program(program), *words],
            capture_output=True,
            check=False,
            timeout=START_S,
            user=self._user,
            group=self._user,
            extra_groups=None if self._user is None else [],
            cwd=self.folder,
        )
        assert done.returncode == 0, done.stderr.decode()

    def _launch(self) -> None:
        settings = [f"-c{name}={value}" for name, value in SETTINGS.items()]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                # It ends with its parent, should the tests be killed.
                [
                    *("setpriv", "--pdeathsig", "INT", _program("postgres"), "-D", str(self.data)),
                    *("-p", str(self.port), *settings),
                ],
                stdout=log,
                stderr=log,
                user=self._user,
                group=self._user,
                extra_groups=None if self._user is None else [],
                cwd=self.folder,
                process_group=0,  # Ctrl-C is for the tests
            )

    def _is_up(self) -> bool:
        where = ("--host=127.0.0.1", f"--port={self.port}", "--quiet", "--timeout=5")
        return subprocess.run([_program("pg_isready"), *where], check=False).returncode == 0

    def _end(self, sign: signal.Signals) -> None:
        if self._process is not None:
            os.kill(self._process.pid, sign)
            self._process.wait(START_S)
            self._process = None


def _program(name: str) -> str:
    """Return where the newest installed one is: Debian keeps them out of PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=_version)
    path = str(found[-1]) if found else shutil.which(name)
    assert path, f"{name} is missing: apt-get install -y --no-install-recommends postgresql"
    return path


def _version(program: Path) -> int:
    return int(program.parts[-3])


def _unprivileged() -> str | None:
    """Return whom to run it as: PostgreSQL refuses to be root's."""
    if os.geteuid() != 0:
        return None
    return "postgres" if _exists("postgres") else "nobody"


def _exists(user: str) -> bool:
    lines = Path("/etc/passwd").read_text().splitlines()
    return any(line.startswith(f"{user}:") for line in lines)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
