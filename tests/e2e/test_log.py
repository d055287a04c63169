"""The log on bad days, with real processes: backup, restore, damage, full disks, newer files."""

import json
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tests.e2e.running import Running, children_of, output_of, running, stop, up, wait_for

MURMURATE = (sys.executable, "-m", "murmurate")
ROOMY = {
    "MURMURATE_LIMITS__DEFAULT__BURST": "100000",
    "MURMURATE_LIMITS__DEFAULT__REQUESTS_PER_MINUTE": "1000000",
}
CONFIG = """
[knowledge]

[models.parrot]
engine = "scripted"
rules = "{rules}"

[agents.friend]
model = "parrot"
"""


@pytest.fixture
def config(tmp_path: Path) -> tuple[str, str]:
    """The options of a service that needs no weights and no documents."""
    (tmp_path / "rules.toml").write_text('[[rules]]\nmatch = ".*"\ntext = "I hear you"\n')
    file = tmp_path / "murmurate.toml"
    file.write_text(CONFIG.format(rules=tmp_path / "rules.toml"))
    return "--config", str(file)


def command(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MURMURATE, *map(str, words)], capture_output=True, text=True, check=False
    )


def turn(service: Running, session: str, text: str) -> tuple[int, str, Any]:
    """Say something in a session; return status, session id and body."""
    status, headers, body = service.request(
        "/v1/chat/completions",
        {"model": "friend", "messages": [{"role": "user", "content": text}]},
        {"x-murmurate-session": session},
    )
    return status, headers.get("x-murmurate-session", session), body


def said(service: Running, session: str) -> list[str]:
    status, _, kept = service.request(f"/api/sessions/{session}")
    assert status == 200, kept
    return [it["parts"][0]["text"] for it in kept["messages"] if it["role"] == "user"]


def findings(state: Path, config: tuple[str, str]) -> list[dict[str, str]]:
    shown = command("doctor", "--json", "--state", state, *config)
    return [it for it in json.loads(shown.stdout) if it["about"] == "log"]


class Writing:
    """Says things in a session from a thread, and keeps what was acknowledged."""

    def __init__(self, service: Running) -> None:
        self._service = service
        self._done = threading.Event()
        self.session = turn(service, "new", "0")[1]
        self.acknowledged = ["0"]
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def _write(self) -> None:
        while not self._done.is_set():
            text = str(len(self.acknowledged))
            assert turn(self._service, self.session, text)[0] == 200
            self.acknowledged.append(text)

    def wait_for(self, count: int) -> None:
        while len(self.acknowledged) < count and self._thread.is_alive():
            self._done.wait(0.01)

    def end(self) -> None:
        self._done.set()
        self._thread.join()


def test_a_backup_of_a_busy_service_holds_every_turn_acknowledged_before_it(
    tmp_path: Path, config: tuple[str, str]
) -> None:
    file = tmp_path / "backup.tar"
    with running(tmp_path / "old", *config, environment=ROOMY) as service:
        writing = Writing(service)
        writing.wait_for(10)
        before = len(writing.acknowledged)
        made = command("backup", file, "--with-key", "--json", "--state", service.state, *config)
        after = len(writing.acknowledged)
        writing.wait_for(after + 5)
        writing.end()
        refused = command("restore", file, "--force", "--state", service.state, *config)
        assert refused.returncode == 1
        assert "stop it first" in refused.stderr
    assert made.returncode == 0, made.stderr
    facts = json.loads(made.stdout)
    assert facts["bytes"] == file.stat().st_size
    assert after > before, "the service stood still while it was backed up"

    restored = command("restore", file, "--state", tmp_path / "new", *config)
    assert restored.returncode == 0, restored.stderr
    assert f"{facts['manifest']['entries']} entries" in restored.stdout
    assert "another" not in restored.stdout
    with running(tmp_path / "new", *config, environment=ROOMY) as service:
        kept = said(service, writing.session)
        assert kept[-1:] == [str(len(kept) - 1)]
        assert before <= len(kept) <= after + 1
        assert turn(service, writing.session, "and on")[0] == 200
        assert said(service, writing.session)[-1] == "and on"


def test_damaged_pages_are_put_aside_and_everything_else_is_served(
    tmp_path: Path, config: tuple[str, str]
) -> None:
    state = tmp_path / "state"
    with running(state, *config, environment=ROOMY) as service:
        sessions: list[str] = []
        for number in range(12):
            _, session, _ = turn(service, "new", f"{number} {'x' * 3000}")
            sessions.append(session)
    content = bytearray((state / "truth.db").read_bytes())
    said_at = re.search(
        rb'\{"id":"msg_[^{}]*\{[^{}]*?x{3000}', content
    )  # in a session, not in its run
    assert said_at is not None
    place = said_at.end() - 3000
    content[place : place + 1000] = bytes(1000)  # one entry's body: nothing but its checksum tells
    tree = content.index(sessions[7].encode(), len(content) // 2) // 4096 * 4096
    content[tree] ^= 0xFF  # the kind of a page: SQLite cannot go on there
    (state / "truth.db").write_bytes(content)
    damaged = bytes(content)
    with running(state, *config, environment=ROOMY) as service:
        assert "truth.db was damaged (" in output_of(state)
        statuses = {session: turn(service, session, "again")[0] for session in sessions}
        assert set(statuses.values()) == {200, 500}
        lost = [session for session, status in statuses.items() if status == 500]
        assert 1 <= len(lost) <= 3
        _, _, refusal = turn(service, lost[0], "again")
        assert refusal["error"]["code"] == "log.corrupt"
        assert f"stream session/{lost[0]}" in refusal["error"]["message"]
        status, _, ready = service.request("/readyz")
        assert status == 200
        assert "places are damaged" in ready["parts"]["log"]
        assert not any(session in json.dumps(ready) for session in lost)
        named = [it["detail"] for it in findings(state, config) if it["verdict"] == "fail"]
        assert all(any(session in detail for detail in named) for session in lost)
        events = [json.loads(line) for line in (state / "server.log").read_text().splitlines()]
        assert [it for it in events if it["event"] == "log.opened"]
        with urlopen(f"{service.url}/metrics") as page:
            metrics = page.read().decode()
        assert f"murmurate_log_damaged {float(len(named))}" in metrics
    [kept] = state.glob("truth.db.damaged-*Z")
    assert kept.read_bytes() == damaged
    with running(state, *config, environment=ROOMY):
        assert output_of(state).count("truth.db was damaged (") == 1


def test_a_log_of_a_newer_version_stops_the_start_with_one_line(
    tmp_path: Path, config: tuple[str, str]
) -> None:
    state = tmp_path / "state"
    with running(state, *config):
        pass
    with closing(sqlite3.connect(state / "truth.db", isolation_level=None)) as db:
        for statement in ("UPDATE file SET format = 99", "PRAGMA user_version = 99"):
            db.execute(statement)
    before = (state / "truth.db").read_bytes()
    process = up(state, *config)
    assert process.wait(30) == 1
    [line] = output_of(state).splitlines()
    assert "truth.db has format 99" in line
    assert "run the version that wrote it" in line
    assert (state / "truth.db").read_bytes() == before
    [finding] = findings(state, config)
    assert finding["verdict"] == "fail"
    assert "format 99" in finding["detail"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts small disks. Without the right to mount these tests fail, they are never skipped."""
    mounted: list[Path] = []

    def mount(megabytes: int) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        options = ["-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
        done = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.fail(f"a small disk must be mounted: run as root ({done.stderr.strip()})")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Leave no byte of a disk free."""
    ballast = folder / "ballast"
    with ballast.open("ab", buffering=0) as file:
        size = 1024 * 1024
        while size:
            try:
                if file.write(bytes(size)) < size:
                    size //= 2
            except OSError:
                size //= 2
    return ballast


def test_on_a_full_disk_turns_are_refused_and_the_service_goes_on_when_there_is_room(
    tmp_path: Path, config: tuple[str, str], disk: Callable[[int], Path]
) -> None:
    small = disk(24)
    state = small / "state"
    state.mkdir()
    ready = tmp_path / "ready.json"
    process = up(state, "--ready-file", str(ready), *config, environment=ROOMY)
    try:
        told = wait_for(ready, process)
        service = Running(told["url"], told["key"], told["pid"], state, process)
        _, session, _ = turn(service, "new", "before")
        server = service.worker("server")
        ballast = fill(small)
        refused: list[str] = []
        acknowledged = ["before"]
        for number in range(40):
            status, _, body = turn(service, session, f"{number} {'y' * 4000}")
            if status == 200:
                acknowledged.append(f"{number} {'y' * 4000}")
            else:
                assert (status, body["error"]["code"]) == (503, "log.unavailable")
                refused.append(body["error"]["message"])
        assert refused
        assert "nothing was written" in refused[-1]
        assert said(service, session) == acknowledged  # reading goes on
        status, _, body = service.request(
            "/v1/chat/completions",
            {"model": "friend", "messages": [{"role": "user", "content": "nothing to keep"}]},
        )
        assert status == 200  # what needs no disk goes on as well
        ballast.unlink()
        status, _, _ = turn(service, session, "after")
        assert status == 200
        assert said(service, session) == [*acknowledged, "after"]
        assert service.worker("server") == server  # it has lived through all of it
        assert len(children_of(service.pid)) >= 4
    finally:
        assert stop(process) == 0


def test_on_a_full_disk_documents_wait_and_are_found_when_there_is_room(
    tmp_path: Path, disk: Callable[[int], Path]
) -> None:
    small = disk(24)
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "first.md").write_text("# Herons\n\nHerons stand in shallow water.\n")
    (tmp_path / "rules.toml").write_text('[[rules]]\nmatch = ".*"\ntext = "yes"\n')
    file = tmp_path / "murmurate.toml"
    known = f"[knowledge.docs]\nfolder = {json.dumps(str(docs))}\n"
    file.write_text(CONFIG.format(rules=tmp_path / "rules.toml").replace("[knowledge]\n", known))
    with running(small / "state", "--config", str(file), environment=ROOMY) as service:
        ballast = fill(small)
        for number in range(40):
            text = " ".join(f"kingfisher{number}x{word}" for word in range(3000))
            (docs / f"{number:02}.md").write_text(f"# Birds {number}\n\n{text}\n")
        shown = command("ingest", "--state", service.state)
        assert shown.returncode == 1
        assert "full" in shown.stderr
        assert turn(service, "new", "are you there?")[0] in {200, 503}
        ballast.unlink()
        shown = command("ingest", "--state", service.state)
        assert shown.returncode == 0, shown.stderr
        assert "docs: 41 documents" in shown.stdout
        assert turn(service, "new", "are you there?")[0] == 200


def test_a_start_on_a_full_disk_is_refused_with_one_line(
    tmp_path: Path, config: tuple[str, str], disk: Callable[[int], Path]
) -> None:
    small = disk(4)
    state = small / "state"
    state.mkdir()
    output = small / "state.output"
    output.write_bytes(b"")
    ballast = fill(small)
    done = subprocess.run(
        [*MURMURATE, "up", "--quiet", "--state", str(state), "--listen", "127.0.0.1:0", *config],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    # The library starts beside the server, and may have its say before or behind it.
    lines = done.stderr.splitlines()
    full = "is full; nothing was written: make room"
    assert any(full in line or "No space left" in line for line in lines), done.stderr
    ballast.unlink()
    backup = command("backup", tmp_path / "b.tar", "--state", state, *config)
    assert backup.returncode == 1
    with running(tmp_path / "other", *config):
        pass
    tight = disk(1)
    made = command("backup", tight / "b.tar", "--state", tmp_path / "other", *config)
    assert made.returncode == 1
    assert "make room" in made.stderr
    assert list(tight.iterdir()) == []


def test_a_read_only_disk_stops_the_start_with_one_line(
    tmp_path: Path, config: tuple[str, str], disk: Callable[[int], Path]
) -> None:
    small = disk(24)
    with running(small / "state", *config):
        pass
    before = (small / "state" / "truth.db").read_bytes()
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    done = command("up", "--quiet", "--state", small / "state", "--listen", "127.0.0.1:0", *config)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "Read-only" in line
    assert (small / "state" / "truth.db").read_bytes() == before
