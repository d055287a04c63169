"""The gateways that `gateway.py` compares: how each is configured, started and ended.

Each has the same models, all of one upstream, and one process that works on requests. What it can
do beyond passing requests on is switched on for ours and left as it comes for the others.
"""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import peer
import service

START_S = 120.0
STOP_S = 10.0
SETTLE_S = 20.0
KNOCK_S = 0.02
KEY = "sk-1234"
PATH = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a client asks, and what it calls a model there."""

    port: int
    path: str = PATH
    key: str = KEY
    prefix: str = ""

    def words(self, model: str) -> list[str]:
        """Return them as `load` takes them."""
        return [str(self.port), self.path, self.key, self.prefix + model]


@dataclass(frozen=True, slots=True)
class Running:
    """A gateway that runs."""

    target: Target
    pid: int
    start_s: float


@dataclass(frozen=True, slots=True)
class Started:
    """How to start a gateway, and where it will be found."""

    command: Sequence[str]
    target: Callable[[], Target | None]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


Gateway = Callable[[Path, int, Sequence[str]], Started]
"""Takes a folder for its files, the upstream's port, and the models."""


@contextlib.contextmanager
def running(
    gateway: Gateway, upstream: int, models: Sequence[str], folder: Path
) -> Iterator[Running]:
    """Run a gateway on the first core until the block ends."""
    started = gateway(folder, upstream, models)
    output = folder / "output.txt"
    began_s = time.perf_counter()
    with output.open("wb") as said:
        process = subprocess.Popen(
            ["taskset", "-c", "0", *started.command],
            env={**service.environment(), **started.environment},
            stdout=said,
            stderr=subprocess.STDOUT,
            cwd=folder,
        )
    try:
        target = _answering(process, started, models[0], output)
        start_s = time.perf_counter() - began_s
        service.settle(process.pid, SETTLE_S)
        yield Running(target, process.pid, start_s)
    finally:
        _end(process)


def _answering(
    process: subprocess.Popen[bytes], started: Started, model: str, output: Path
) -> Target:
    """Return where it is found, once it answers a whole request with 200."""
    seen: object = None
    deadline_s = time.perf_counter() + START_S
    while time.perf_counter() < deadline_s and process.poll() is None:
        try:
            target = started.target()
            if target is not None and (seen := _asked(target, model)) == 200:
                return target
        except (OSError, http.client.HTTPException) as fault:
            seen = fault
        time.sleep(KNOCK_S)
    tail = output.read_text(encoding="utf-8", errors="replace")[-2000:]
    raise RuntimeError(f"{started.command[0]} did not serve (last: {seen}); it said:\n{tail}")


def _asked(target: Target, model: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=10)
    with contextlib.closing(connection):
        body = {"model": target.prefix + model, "messages": [{"role": "user", "content": "hi"}]}
        headers = {"content-type": "application/json", "authorization": f"Bearer {target.key}"}
        connection.request("POST", target.path, json.dumps(body), headers)
        return connection.getresponse().status


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it and all that it started."""
    tree = service.tree(process.pid)
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        for pid in tree:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def ours(folder: Path, upstream: int, models: Sequence[str]) -> Started:
    """One server process with keys, limits, accounting, metrics, traces and request lines."""
    port = free_port()
    lines = [
        f'[server]\nlisten = "127.0.0.1:{port}"\nstate = "{folder / "state"}"\nrequests_max = 2048',
        "[limits.default]\nrequests_per_minute = 6e6\nburst = 1000000",
        "[agents]\n[knowledge]",
    ]
    lines += [
        f'[models."{model}"]\nurl = "http://127.0.0.1:{upstream}/v1"\nslots = 2048'
        for model in models
    ]
    config = folder / "murmurate.toml"
    config.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def target() -> Target | None:
        key = folder / "state" / "key"
        if not key.exists():
            return None
        return Target(port, key=key.read_text(encoding="utf-8").strip())

    return Started([sys.executable, "-m", "murmurate", "up", "--config", str(config)], target)


def nginx(folder: Path, upstream: int, models: Sequence[str]) -> Started:
    """One worker that passes everything on, unread; with nothing switched on."""
    del models  # it knows of none
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(
        f"""daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr error;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 1000000000;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream mock {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://mock; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
""",
        encoding="utf-8",
    )
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    return Started([program, "-e", "stderr", "-c", str(config)], lambda: Target(port))


def tensorzero(folder: Path, upstream: int, models: Sequence[str]) -> Started:
    """Its gateway in Rust, without its database: nothing is written down."""
    config, found = folder / "tensorzero.toml", folder / "url"
    config.write_text(
        "[gateway]\nobservability.enabled = false\n"
        + "\n".join(
            f'[models."{model}"]\nrouting = ["up"]\n[models."{model}".providers.up]\n'
            f'type = "openai"\nmodel_name = "{model}"\napi_key_location = "none"\n'
            f'api_base = "http://127.0.0.1:{upstream}/v1/"'
            for model in models
        )
        + "\n",
        encoding="utf-8",
    )
    programme = peer.PEERS / "tensorzero_gateway.py"

    def target() -> Target | None:
        if not found.exists():
            return None
        place = found.read_text(encoding="utf-8").removeprefix("http://").rstrip("/")
        host, _, path = place.partition("/")
        port = int(host.rpartition(":")[2])
        return Target(port, f"/{path}/chat/completions", prefix="tensorzero::model_name::")

    python = peer.python_of("tensorzero", whole=True)
    return Started([str(python), str(programme), str(config), str(found)], target)


def litellm(folder: Path, upstream: int, models: Sequence[str]) -> Started:
    """Its proxy without a database, and with the package without which it is half as fast."""
    port = free_port()
    config = folder / "litellm.yaml"
    entries = [
        {
            "model_name": model,
            "litellm_params": {
                "model": f"openai/{model}",
                "api_base": f"http://127.0.0.1:{upstream}/v1",
                "api_key": "none",
            },
        }
        for model in models
    ]
    settings = {
        "model_list": entries,
        "general_settings": {"master_key": KEY},
        "litellm_settings": {"telemetry": False},
    }
    config.write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML, too
    program = peer.python_of("litellm", whole=True).with_name("litellm")
    command = [str(program), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    environment = {
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "NO_DOCS": "True",
    }
    return Started(command, lambda: Target(port), environment)


ALL: dict[str, Gateway] = {
    "nginx": nginx,
    "murmurate": ours,
    "tensorzero": tensorzero,
    "litellm": litellm,
}
