"""The supervisor: starts the other processes, starts dead and hung ones again, ends them all.

It has no event loop, no threads and no data, so that it has no reason to die. It owns the listening
socket: while a killed server comes back, clients wait in the socket's queue and lose nothing.
"""

import errno
import math
import os
import resource
import secrets
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

import msgspec

from murmurate.adapters.files import write_private
from murmurate.config import Config, Role, listen_address
from murmurate.core.clock import Clock
from murmurate.core.errors import AddressInUseError, ConfigError
from murmurate.fleet.ends import TROUBLES, Trouble, told
from murmurate.fleet.pulse import Patience, deadline_s, overslept
from murmurate.fleet.restart import LOOP_CRASHES, delay_s, recent
from murmurate.workers.boot import ServerBoot
from murmurate.workers.child import Child, say
from murmurate.workers.lifeline import EXIT_CONFIG
from murmurate.workers.roster import SERVER, children
from murmurate.workers.state_lock import lock_state

STOP_OTHERS_S = 5.0
EXIT_FAILED = 1
LOOK_S = 1.0
"""How often to look at the children even if none says anything."""
FILES_WANTED = 16_384
"""Twice the connections that the server takes by default, and room for what is behind them."""

PASSED_ON = ("HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ", "VIRTUAL_ENV")
PASSED_ON_PREFIXES = ("LC_", "PYTHON", "SSL_")
"""What a worker learns of the environment: secrets are in it, and only the server looks them up."""


class Ready(msgspec.Struct, frozen=True):
    """How to reach the service: the content of `ready.json` and of `--ready-file`."""

    url: str
    key: str
    pid: int


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
        self._patience = Patience(config.workers.start_s, config.workers.silence_s)
        self._told_troubles: dict[str, Trouble] | None = None
        self._gone: list[str] = []
        """Runners that are dead, and whom no server has been told of."""
        self._stopping = False
        self._announced = False
        self._exit_code = 0
        self._fault: str | None = None
        """Why it must stop, where no child has said so."""

    def run(self) -> int:
        """Serve until SIGTERM, SIGHUP or Ctrl-C; return the exit code.

        Raises:
            ConfigError: A folder, the address or the key file can't be used.
            StateInUseError: Another supervisor runs on the state folder.
            AddressInUseError: Another program listens on the address.
        """
        os.umask(0o077)  # every file of ours and of our children is its owner's alone
        open_files(FILES_WANTED)
        self._check_ready_file()
        lock = lock_state(self._state)
        listening = self._listen()
        self._remove_ready_files()  # a killed supervisor leaves them behind
        sockets = tempfile.mkdtemp(prefix="murmurate-")  # short: a socket's path has 108 bytes
        wake = self._catch_signals()
        self._children = children(self._config, self._state, listening, sockets)
        try:
            while not self._stopping:
                self._start_due()
                self._wait(wake)
                self._reap()
                self._tell_troubles()
            listening.close()
            self._stop_all()
        finally:
            shutil.rmtree(sockets, ignore_errors=True)
            self._remove_ready_files()
            lock.close()
        if self._fault is not None:
            raise ConfigError(self._fault)
        return self._exit_code

    def _check_ready_file(self) -> None:
        """Refuse now what could not be written once the service is ready."""
        path = self._ready_file
        if path is None:
            return
        if not path.parent.is_dir():
            raise ConfigError(f"--ready-file {path}: there is no folder {path.parent}")
        if path.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
            raise ConfigError(f"--ready-file {path}: expected a file that can be written")

    def _ready_files(self) -> list[Path]:
        own = self._state / "ready.json"
        return [own] if self._ready_file is None else [own, self._ready_file]

    def _remove_ready_files(self) -> None:
        for path in (*self._ready_files(), self._state / TROUBLES):
            with suppress(OSError):  # its folder may be gone meanwhile
                path.unlink(missing_ok=True)

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
        reading, writing = os.pipe()  # not inherited; `pipe2` is not everywhere
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup's wish is respected
            signal.signal(signal.SIGHUP, self._on_stop)
        signal.signal(signal.SIGCHLD, self._on_child)
        self._selector.register(reading, selectors.EVENT_READ)
        return reading

    def _on_stop(self, *_: object) -> None:
        self._stopping = True

    def _on_child(self, *_: object) -> None:
        """Only wake the loop: it looks who it was."""

    def _start_due(self) -> None:
        """Start what is due."""
        now_s = self._clock.now_s()
        for child in self._children:
            if child.due_s is None or child.due_s > now_s or not self._may_start(child):
                continue
            if isinstance(child.boot, ServerBoot):
                gone, self._gone = tuple(self._gone), []
                runner = f"runner_{secrets.token_hex(13)}"
                child.boot = msgspec.structs.replace(child.boot, runner=runner, gone=gone)
            environment = None if child.module == SERVER else passed_on(os.environ)  # noqa: TID251
            try:
                child.start(environment, now_s)
            except OSError as cause:  # no process, file or memory to be had: later, perhaps
                self._again(child, f"could not be started ({cause.strerror})")
            else:
                child.watch(self._selector)

    def _may_start(self, child: Child) -> bool:
        """Let the first server make what all share, such as the first key, before the others."""
        return self._announced or not isinstance(child.boot, ServerBoot) or not child.boot.number

    def _wait(self, wake: int) -> None:
        """Wait for a signal, a child's word, the next start that is due or a silence too long."""
        now_s = self._clock.now_s()
        due_s = min(self._due_s(child) for child in self._children)
        wake_s = min(max(due_s, now_s), now_s + LOOK_S)
        for key, _ in self._selector.select(wake_s - now_s):
            if key.fd == wake:
                os.read(wake, 4096)
            else:
                self._hear(key.data, key.fd)
        self._end_silent(wake_s)

    def _end_silent(self, wake_s: float) -> None:
        """Kill what has said nothing for too long, unless we ourselves were not there to hear."""
        now_s = self._clock.now_s()
        for child in self._children:
            if overslept(wake_s, now_s):
                child.heard_s = None if child.heard_s is None else now_s
            elif child.is_watched and self._due_s(child) <= now_s:
                child.kill(now_s)

    def _due_s(self, child: Child) -> float:
        """Return when something is to be done about a child unless it says something."""
        if child.due_s is not None:
            return child.due_s if self._may_start(child) else math.inf
        return deadline_s(child.began_s, child.heard_s, self._patience)

    def _hear(self, child: Child, descriptor: int) -> None:
        """Read what a child says. End-of-file is no news, its exit is."""
        goes_on, ready = child.hear(descriptor, self._clock.now_s())
        if not goes_on:
            self._selector.unregister(descriptor)
        if ready is None or child.module != SERVER or self._announced:
            return
        try:
            self._announce(str(ready["url"]))
        except ConfigError as error:
            self._fault = error.detail
            self._stopping = True

    def _announce(self, url: str) -> None:
        """Tell everybody who waits for it that the service is ready.

        Raises:
            ConfigError: There is no key to tell, or no place to write it.
        """
        key_file = self._state / "key"
        is_worker = self._config.server.role is Role.WORKER  # it opens nothing to anybody
        try:
            key = "" if is_worker else key_file.read_text(encoding="ascii").strip()
            ready = Ready(url, key, os.getpid())
        except (OSError, UnicodeDecodeError) as cause:
            raise ConfigError(
                f"the key file {key_file} can't be read: restore it, or move it "
                "away, and the next start makes a new one"
            ) from cause
        for path in self._ready_files():
            try:
                write_private(path, msgspec.json.encode(ready))
            except OSError as cause:
                raise ConfigError(f"{path} can't be written: {cause.strerror}") from cause
        self._announced = True
        with lossy(sys.stdout):
            self._on_ready(ready)

    def _reap(self) -> None:
        """Note who died, and when it is started again."""
        for child in self._children:
            if child.process is None or child.process.poll() is None:
                continue
            end = child.bury(self._selector)
            if self._stopping:
                continue
            if isinstance(child.boot, ServerBoot):
                self._tell_gone(child.boot.runner)
            if end.code == EXIT_CONFIG and not self._announced:
                self._exit_code = EXIT_FAILED  # it has said why
                self._stopping = True
                continue
            self._again(child, told(end))

    def _tell_gone(self, runner: str) -> None:
        """Tell a server that this runner is dead; where none serves, the next one to start."""
        serving = [c for c in self._children if c.module == SERVER and c.serves]
        if not any(server.tell(runner) for server in serving):
            self._gone.append(runner)

    def _again(self, child: Child, end: str) -> None:
        """Note an end, say it, and when the child is started again."""
        now_s = self._clock.now_s()
        child.end = end
        child.exits_s = [*recent(child.exits_s, now_s), now_s]
        wait_s = delay_s(child.exits_s, now_s)
        child.due_s = now_s + wait_s
        when = f"in {wait_s:.1f} s" if wait_s else "at once"
        say(f"murmurate: {child.name} {end}; it is started again {when}\n".encode())

    def _tell_troubles(self) -> None:
        """Leave for the server what does not work, and why: a dead process can't say it itself."""
        now_s = self._clock.now_s()
        troubles = {c.name: what for c in self._children if (what := trouble(c, now_s))}
        if troubles == self._told_troubles:
            return
        self._told_troubles = troubles
        with suppress(OSError):  # a full disk: it is said on our standard error, too
            fresh = self._state / f"{TROUBLES}.new"
            fresh.write_bytes(msgspec.json.encode(troubles))  # a disk that hangs may not stop us
            fresh.replace(self._state / TROUBLES)

    def _stop_all(self) -> None:
        """Let the server drain first: the others serve its last requests. Then end those."""
        servers = [child for child in self._children if child.module == SERVER]
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
        for child in children:
            child.last_words()


@contextmanager
def lossy(stream: TextIO) -> Generator[None]:
    """Go on when nobody reads the stream any more: from then on it swallows what is written."""
    try:
        yield
        stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # what is still in its buffer goes there, too
        os.close(nowhere)


def trouble(child: Child, now_s: float) -> Trouble | None:
    """Return what is wrong with a process; a single crash that it came back from is nothing."""
    crashes = len(recent(child.exits_s, now_s))
    if not crashes or (child.serves and crashes < LOOP_CRASHES):
        return None
    often = f"ended {crashes} times within a minute" if crashes > 1 else "ended"
    return Trouble(f"{often}: it {child.end}", child.said)


def open_files(wanted: int) -> None:
    """Raise the number of files that we and our children may open, as far as we may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def passed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what a worker needs of the environment, which has no secrets in it."""
    return {
        name: value
        for name, value in environment.items()
        if name in PASSED_ON or name.startswith(PASSED_ON_PREFIXES)
    }
