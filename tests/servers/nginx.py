"""A private nginx for tests: its own folder and ports, ended with the block.

The program comes from the system's package (Debian: `nginx`); there is no test without it.
"""

import shutil
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

START_S = 10.0

MAIN = """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/conf.d/*.conf;
}}
"""


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(folder: Path, included: str, *, port: int) -> Generator[None]:
    """Run nginx with a file of `conf.d` until the block ends; it listens on `port` by then."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    assert program is not None, "nginx is missing: apt-get install nginx"
    (folder / "conf.d").mkdir(parents=True)
    (folder / "conf.d" / "murmurate.conf").write_text(included)
    (folder / "nginx.conf").write_text(MAIN.format(folder=folder))
    said = folder / "said.txt"
    command = [program, "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]
    with said.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline_s = time.monotonic() + START_S
        while not listens(port):
            assert time.monotonic() < deadline_s, said.read_text()
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.02)
                raise AssertionError(said.read_text())
        yield
    finally:
        process.terminate()
        process.wait(10)


def listens(port: int) -> bool:
    """Tell whether somebody listens on the port."""
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
