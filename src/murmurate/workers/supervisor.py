"""The supervisor: starts the other processes, starts dead ones again, ends them all at the end.

It has no event loop, no threads and no data, so that it has no reason to die. It owns the listening
socket: while a killed server comes back, clients wait in the socket's queue and lose nothing.
"""

import errno
import fcntl
import os
import secrets
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import msgspec

from murmurate.adapters.files import write_private
from murmurate.config import Config, Engine, listen_address
from murmurate.core.clock import Clock
from murmurate.core.errors import AddressInUseError, ConfigError, StateInUseError
from murmurate.fleet.restart import delay_s, recent
from murmurate.workers.boot import EngineBoot, LibraryBoot, SandboxBoot, ServerBoot
from murmurate.workers.lifeline import EXIT_CONFIG

STOP_OTHERS_S = 5.0


class Ready(msgspec.Struct, frozen=True):
    """How to reach the service: the content of `ready.json` and of `--ready-file`."""

    url: str
    key: str
    pid: int


@dataclass(slots=True)
class Child:
    """A process that should run: how to start it, and how it has fared."""

    name: str
    module: str
    boot: msgspec.Struct
    descriptors: tuple[int, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    ready: bool = False
    exits_s: list[float] = field(default_factory=list[float])
    due_s: float | None = 0.0
    """When to start it (again); None while it runs."""


class Supervisor:
    """Runs one service on one state folder until told to stop."""

    def __init__(
        self,
        config: Config,
        *,
        clock: Clock,
        ready_file: Path | None,
        on_ready: Callable[[Ready], None],
    ) -> None:
        self._config = config
        self._clock = clock
        self._ready_file = ready_file
        self._on_ready = on_ready
        self._state = Path(config.server.state).absolute()
        self._children: list[Child] = []
        self._selector = selectors.DefaultSelector()
        self._stopping = False
        self._announced = False
        self._fault: str | None = None

    def run(self) -> int:
        """Serve until SIGTERM or Ctrl-C; return the exit code."""
        lock = self._lock_state()
        listening = self._listen()
        sockets = tempfile.mkdtemp(prefix="murmurate-")  # short: a socket's path has 108 bytes
        wake = self._catch_signals()
        self._children = children(self._config, self._state, listening, sockets)
        try:
            while not self._stopping:
                self._start_due()
                self._wait(wake)
                self._reap()
            listening.close()
            self._stop_all()
        finally:
            shutil.rmtree(sockets, ignore_errors=True)
            for path in (self._state / "ready.json", self._ready_file):
                if path is not None:
                    path.unlink(missing_ok=True)
            lock.close()
        if self._fault is not None:
            raise ConfigError(self._fault)
        return 0

    def _lock_state(self) -> IO[bytes]:
        """Take the state folder, or say who has it."""
        self._state.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (self._state / "lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as cause:
            lock.close()
            raise StateInUseError(
                f"another murmurate runs on {self._state}: stop it, or choose --state FOLDER"
            ) from cause
        return lock

    def _listen(self) -> socket.socket:
        """Bind before anything is started, so that a taken port is said at once."""
        host, port = listen_address(self._config.server.listen)
        try:
            return socket.create_server(
                (host, port),
                family=socket.AF_INET6 if ":" in host else socket.AF_INET,
                backlog=1024,
            )
        except OSError as cause:
            if cause.errno == errno.EADDRINUSE:
                raise AddressInUseError(
                    f"{host}:{port} is taken: stop the other program, or choose another port, "
                    "for example --listen 127.0.0.1:0"
                ) from cause
            raise ConfigError(f"server.listen = {host}:{port}: {cause.strerror}") from cause

    def _catch_signals(self) -> int:
        """Let signals wake the loop through a pipe; return the end to read."""
        reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGCHLD, self._on_child)
        self._selector.register(reading, selectors.EVENT_READ)
        return reading

    def _on_stop(self, *_: object) -> None:
        self._stopping = True

    def _on_child(self, *_: object) -> None:
        """Only wake the loop: it looks who it was."""

    def _start_due(self) -> None:
        """Start what is due: the boot message goes down its stdin, which then is its lifeline."""
        now_s = self._clock.now_s()
        for child in self._children:
            if child.due_s is None or child.due_s > now_s:
                continue
            child.due_s = None
            child.ready = False
            child.process = subprocess.Popen(  # noqa: S603 - our own modules
                [sys.executable, "-m", child.module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=child.descriptors,
                start_new_session=True,  # Ctrl-C is for us alone
            )
            assert child.process.stdin is not None
            assert child.process.stdout is not None
            with suppress(BrokenPipeError):  # it died at once: `_reap` hears of that
                child.process.stdin.write(msgspec.json.encode(child.boot) + b"\n")
                child.process.stdin.flush()
            self._selector.register(child.process.stdout, selectors.EVENT_READ, child)

    def _wait(self, wake: int) -> None:
        """Wait for a signal, a child's word, or the next start that is due."""
        due = [child.due_s for child in self._children if child.due_s is not None]
        timeout_s = max(min(due) - self._clock.now_s(), 0.0) if due else None
        for key, _ in self._selector.select(timeout_s):
            if key.fd == wake:
                os.read(wake, 4096)
            else:
                self._hear(key.data)

    def _hear(self, child: Child) -> None:
        """Read the child's one line: that it serves. End-of-file is no news, its exit is."""
        assert child.process is not None
        assert child.process.stdout is not None
        line = child.process.stdout.readline()
        self._selector.unregister(child.process.stdout)
        child.ready = bool(line)
        if line and child.module.endswith(".server") and not self._announced:
            self._announced = True
            facts = msgspec.json.decode(line, type=dict[str, str | bool])
            ready = Ready(str(facts["url"]), (self._state / "key").read_text().strip(), os.getpid())
            for path in (self._state / "ready.json", self._ready_file):
                if path is not None:
                    write_private(path, msgspec.json.encode(ready))
            self._on_ready(ready)

    def _reap(self) -> None:
        """Note who died, and when it is started again."""
        now_s = self._clock.now_s()
        for child in self._children:
            if child.process is None or child.process.poll() is None:
                continue
            code = child.process.returncode
            self._forget(child)
            if self._stopping:
                continue
            if code == EXIT_CONFIG and not self._announced:
                self._fault = f"{child.name} can't start; its last words stand above"
                self._stopping = True
                continue
            child.exits_s = [*recent(child.exits_s, now_s), now_s]
            wait_s = delay_s(child.exits_s, now_s)
            child.due_s = now_s + wait_s
            how = f"was killed by signal {-code}" if code < 0 else f"exited with {code}"
            when = f"in {wait_s:.1f} s" if wait_s else "at once"
            sys.stderr.write(f"murmurate: {child.name} {how}; it is started again {when}\n")

    def _forget(self, child: Child) -> None:
        """Close the pipes of a process that is gone."""
        assert child.process is not None
        for pipe in (child.process.stdin, child.process.stdout):
            assert pipe is not None
            if pipe in self._selector.get_map():
                self._selector.unregister(pipe)
            with suppress(BrokenPipeError):
                pipe.close()
        child.process = None

    def _stop_all(self) -> None:
        """Let the server drain first: the others serve its last requests. Then end those."""
        servers = [child for child in self._children if child.module.endswith(".server")]
        others = [child for child in self._children if child not in servers]
        self._stop(servers, self._config.server.drain_s + 2.0)
        self._stop(others, STOP_OTHERS_S)

    def _stop(self, children: list[Child], patience_s: float) -> None:
        """Ask with SIGTERM; kill what has not gone after `patience_s`."""
        running = [child.process for child in children if child.process is not None]
        for process in running:
            process.terminate()
        deadline_s = self._clock.now_s() + patience_s
        for process in running:
            try:
                process.wait(max(deadline_s - self._clock.now_s(), 0.0))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def children(config: Config, state: Path, listening: socket.socket, sockets: str) -> list[Child]:
    """Return the processes of a service: engines, library, sandbox, and the server in front."""
    found: list[Child] = []
    engine_keys: dict[str, str] = {}
    engine_sockets: dict[str, str] = {}
    for index, (name, model) in enumerate(config.models.items()):
        if model.engine is Engine.OPENAI:
            continue
        engine_keys[name] = secrets.token_hex(16)
        engine_sockets[name] = f"{sockets}/engine{index}.sock"
        boot = EngineBoot(name, model, engine_sockets[name], engine_keys[name])
        found.append(Child(f"engine {name}", "murmurate.workers.engine", boot))
    library = f"{sockets}/library.sock"
    sandbox = f"{sockets}/sandbox.sock"
    index = state / "index"
    index.mkdir(exist_ok=True, mode=0o700)
    found.append(Child("library", "murmurate.workers.library", LibraryBoot(library, str(index))))
    found.append(Child("sandbox", "murmurate.workers.sandbox", SandboxBoot(sandbox)))
    server = ServerBoot(
        config=config,
        state=str(state),
        listening=listening.fileno(),
        engine_sockets=engine_sockets,
        engine_keys=engine_keys,
        library=library,
        sandbox=sandbox,
    )
    found.append(Child("server", "murmurate.workers.server", server, (listening.fileno(),)))
    found.insert(0, found.pop())  # first what takes longest until clients see it
    return found
