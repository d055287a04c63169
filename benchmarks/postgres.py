"""A PostgreSQL server for one benchmark, with the settings it comes with, on a port of its own."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

USER = "postgres"
START_S_MAX = 30


def programs() -> Path | None:
    """Return the folder of the newest server's programs: Debian keeps them off the path."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda bin_: int(bin_.parent.name)
    )
    if found:
        return found[-1]
    there = shutil.which("initdb")
    return Path(there).parent if there else None


@contextmanager
def running(bin_: Path) -> Generator[str]:
    """Run a server with its data in a temporary folder; yield the URL of an empty database."""
    user = USER if os.getuid() == 0 else None  # the server refuses to run as root
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        if user:
            shutil.chown(scratch, user)
        data = f"{scratch}/data"
        initdb = [str(bin_ / "initdb"), "-A", "trust", "-U", USER, "-D", data]
        subprocess.run(initdb, user=user, stdout=subprocess.DEVNULL, cwd=scratch, check=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        options = ["-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", scratch]
        command = [str(bin_ / "postgres"), *options]
        server = subprocess.Popen(command, user=user, stderr=subprocess.DEVNULL, cwd=scratch)
        try:
            _wait(port, server)
            yield f"postgresql://{USER}@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGINT)  # does not wait for who is still connected
            server.wait(START_S_MAX)


def _wait(port: int, server: subprocess.Popen[bytes]) -> None:
    end_s = time.monotonic() + START_S_MAX
    while server.poll() is None and time.monotonic() < end_s:
        try:
            with socket.create_connection(("127.0.0.1", port)):
                return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("PostgreSQL did not start")
