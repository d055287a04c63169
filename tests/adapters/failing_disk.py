"""A process that writes to a log on a disk whose fsync fails: told what to do line by line."""

import asyncio
import json
import os
import sqlite3
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

from murmurate.adapters.sqlite.database import BUSY_S
from murmurate.adapters.sqlite.log import SqliteLog
from murmurate.adapters.sqlite.writer import DiskFault
from murmurate.core.clock import SystemClock
from murmurate.core.errors import MurmurateError
from murmurate.core.ports import Entry

SOURCE = Path(__file__).parent.parent / "fixtures" / "failing_disk.c"
FILES = ("truth.db", "truth.db-wal")


def built(folder: Path) -> Path:
    """Compile the disk."""
    library = folder / "failing_disk.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True, timeout=60
    )
    return library


class Disk:
    """The folder of a log, on a disk that can be made to fail."""

    def __init__(self, library: Path, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self._library = library
        self._faults = folder / "faults"
        self.fails()

    def fails(self, *, database: int = 0, wal: int = 0, forgets: bool = False) -> None:
        """Let so many of the next fsyncs fail, -1: all."""
        with self._faults.open("r+b" if self._faults.exists() else "wb") as file:
            file.write(struct.pack("iii", database, wal, forgets))

    @property
    def environment(self) -> dict[str, str]:
        """What a process must be told to be on this disk."""
        return {"LD_PRELOAD": str(self._library), "DISK_FAULTS": str(self._faults)}

    def writer(self) -> "Writer":
        """Start a process on it."""
        return Writer(self.folder, self.environment)

    def after_power_cut(self, folder: Path) -> "Disk":
        """Return what the disk had, as another folder."""
        disk = Disk(self._library, folder)
        for name in FILES:
            kept, file = self.folder / f"{name}.disk", self.folder / name
            if kept.exists() or file.exists():  # where nothing was written, there is no other one
                (folder / name).write_bytes((kept if kept.exists() else file).read_bytes())
        return disk


class Writer:
    """A process with the log open, which appends what it is told to."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environment},
            text=True,
        )
        self.started = self._heard()

    def append(self, *bodies: str, sized: int = 0) -> list[dict[str, Any]]:
        """Append them all at once; return what became of each, and of the disk."""
        return self._ask({"bodies": bodies, "sized": sized})["appends"]

    def pinned(self, pinned: bool) -> None:
        """Keep a reader where it is, so that the WAL is folded in only up to there; or end it."""
        self._ask({"pinned": pinned})

    def state(self) -> dict[str, Any]:
        """Return all bodies and the faults that were told."""
        return self._ask({})

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.communicate(timeout=10)

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{json.dumps(question)}\n")
        self._process.stdin.flush()
        return self._heard()

    def _heard(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline() or '{"error": "it has ended"}')


async def serve(folder: Path) -> None:
    """Do what is asked until the input ends."""
    faults: list[DiskFault] = []
    try:
        log = SqliteLog(folder / FILES[0], clock=SystemClock(), on_fault=faults.append)
    except MurmurateError as error:
        say({"error": error.detail})
        return
    say({})
    pin = None
    while line := await asyncio.to_thread(sys.stdin.readline):
        question = json.loads(line)
        if "bodies" in question:
            bodies = [body.ljust(question["sized"], ".") for body in question["bodies"]]
            say({"appends": await asyncio.gather(*(append(log, body) for body in bodies))})
        elif "pinned" in question:
            pin = pinned(folder, pin, pinned=question["pinned"])
            say({})
        else:
            told = [[fault.detail, fault.is_final] for fault in faults]
            say({"faults": told, **await read(log)})


def pinned(folder: Path, pin: Any, *, pinned: bool) -> Any:
    """Begin or end a reading transaction."""
    if not pinned:
        pin.execute("ROLLBACK")
        return pin
    pin = pin or sqlite3.connect(folder / FILES[0], timeout=BUSY_S, isolation_level=None)
    pin.execute("BEGIN")
    pin.execute("SELECT count(*) FROM entry").fetchall()
    return pin


async def read(log: SqliteLog) -> dict[str, Any]:
    """Return all bodies, or what was said instead."""
    try:
        return {"bodies": [it.body.decode().rstrip(".") async for it in log.read("t", "s")]}
    except MurmurateError as error:
        return {"error": error.detail, "code": error.code}


async def append(log: SqliteLog, body: str) -> dict[str, Any]:
    """Return the seq, or what was said instead."""
    try:
        [seq] = await log.append([Entry("t", "s", "note", body.encode())])
    except MurmurateError as error:
        return {"error": error.detail, "code": error.code}
    return {"seq": seq}


def say(answer: dict[str, Any]) -> None:
    """Write a line."""
    sys.stdout.write(f"{json.dumps(answer)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
