"""A backup is one moment of the log; what is not as it was written is refused before a change."""

import asyncio
import fcntl
import hashlib
import io
import os
import tarfile
from pathlib import Path

import msgspec
import pytest

from murmurate.adapters.sqlite.backup import Manifest, Options, back_up, restore
from murmurate.adapters.sqlite.log import SqliteLog
from murmurate.core.clock import SystemClock
from murmurate.core.errors import (
    BackupInvalidError,
    BackupTargetError,
    LogNewerError,
    LogUnavailableError,
    MurmurateError,
    StateInUseError,
    StateNotEmptyError,
)
from murmurate.testing.stories import all_of, bodies_of, entry

T, S = "default", "session/1"
OPTIONS = Options(made_unix_ms=1_780_000_000_000, config_sha256="c0ffee")


def quiet(done: int, total: int) -> None:
    assert 0 <= done <= total


def write(state: Path, *bodies: str) -> None:
    async def story() -> None:
        state.mkdir(exist_ok=True)
        log = SqliteLog(state / "truth.db", clock=SystemClock())
        await log.append([entry(body) for body in bodies])
        await log.close()

    asyncio.run(story())


def read(state: Path) -> list[str]:
    async def story() -> list[str]:
        log = SqliteLog(state / "truth.db", clock=SystemClock())
        try:
            return bodies_of(await all_of(log.read(T, S)))
        finally:
            await log.close()

    return asyncio.run(story())


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A backup of a log with two entries and a key."""
    write(tmp_path / "old", "one", "two" * 5000)
    (tmp_path / "old" / "key").write_text("mur_secret\n")
    back_up(
        tmp_path / "old",
        tmp_path / "backup.tar",
        msgspec.structs.replace(OPTIONS, with_key=True),
        told=quiet,
    )
    return tmp_path / "backup.tar"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_backup_restores_what_was_there_and_says_what_it_is(made: Path, tmp_path: Path) -> None:
    assert made.stat().st_mode & 0o777 == 0o600
    assert names(tmp_path) == ["backup.tar", "old"]
    state = tmp_path / "new"
    manifest = restore(made, state, replace=False, told=quiet)
    assert (manifest.entries, manifest.streams, manifest.damaged) == (2, 1, 0)
    assert (manifest.log_format, manifest.config_sha256) == (3, "c0ffee")
    assert names(state) == ["key", "lock", "truth.db"]
    assert (state / "key").read_text() == "mur_secret\n"
    assert read(state) == ["one", "two" * 5000]
    with tarfile.open(made) as archive:
        assert archive.getnames() == ["manifest.json", "manifest.sha256", "truth.db", "key"]


def test_the_key_is_in_it_only_when_it_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path / "old", "one")
    (tmp_path / "old" / "key").write_text("mur_secret\n")
    back_up(tmp_path / "old", tmp_path / "b.tar", OPTIONS, told=quiet)
    assert b"mur_secret" not in (tmp_path / "b.tar").read_bytes()
    state = tmp_path / "new"
    restore(tmp_path / "b.tar", state, replace=False, told=quiet)
    assert not (state / "key").exists()


def test_a_key_that_is_rotated_during_the_copy_is_in_it_with_a_later_copy(tmp_path: Path) -> None:
    state = tmp_path / "old"
    write(state, "one")
    (state / "key").write_text("mur_old\n")
    copies: list[int] = []

    def rotate_once(done: int, total: int) -> None:
        copies.append(done)
        (state / "key").write_text("mur_new\n")

    with_key = msgspec.structs.replace(OPTIONS, with_key=True)
    back_up(state, tmp_path / "b.tar", with_key, told=rotate_once)
    assert len(copies) == 2  # a log so small is copied in one step
    restore(tmp_path / "b.tar", tmp_path / "new", replace=False, told=quiet)
    assert (tmp_path / "new" / "key").read_text() == "mur_new\n"


def test_a_key_that_never_rests_is_in_no_backup(tmp_path: Path) -> None:
    state = tmp_path / "old"
    write(state, "one")
    (state / "key").write_text("mur_0\n")

    def rotate(done: int, total: int) -> None:
        number = int((state / "key").read_text()[4:])
        (state / "key").write_text(f"mur_{number + 1}\n")

    with_key = msgspec.structs.replace(OPTIONS, with_key=True)
    with pytest.raises(LogUnavailableError, match="during each of 3 copies"):
        back_up(state, tmp_path / "b.tar", with_key, told=rotate)
    assert names(tmp_path) == ["old"]


def test_a_backup_sees_one_moment_while_others_write(tmp_path: Path) -> None:
    async def story() -> None:
        (tmp_path / "old").mkdir()
        log = SqliteLog(tmp_path / "old" / "truth.db", clock=SystemClock())
        await log.append([entry("x" * 100_000) for _ in range(100)])
        done = asyncio.Event()

        async def go_on() -> int:
            count = 0
            while not done.is_set():
                await log.append([entry(f"late {count}"), entry("its pair")])
                count += 1
            return count

        writing = asyncio.ensure_future(go_on())
        arguments = (tmp_path / "old", tmp_path / "b.tar", OPTIONS)
        manifest = await asyncio.to_thread(back_up, *arguments, told=quiet)
        done.set()
        assert await writing > 0
        assert manifest.entries >= 100
        assert manifest.entries % 2 == 0
        await log.close()

    asyncio.run(story())
    restore(tmp_path / "b.tar", tmp_path / "new", replace=False, told=quiet)
    bodies = read(tmp_path / "new")
    late = (len(bodies) - 100) // 2
    assert bodies[100::2] == [f"late {number}" for number in range(late)]


def test_a_log_is_replaced_only_on_purpose_and_then_kept(made: Path, tmp_path: Path) -> None:
    state = tmp_path / "new"
    write(state, "mine")
    (state / "index").mkdir()
    (state / "index" / "chunks").touch()
    (state / "key").write_text("mur_mine\n")
    with pytest.raises(StateNotEmptyError, match="--force"):
        restore(made, state, replace=False, told=quiet)
    assert read(state) == ["mine"]
    assert (state / "key").read_text() == "mur_mine\n"
    for _ in range(2):
        restore(made, state, replace=True, told=quiet)
        assert read(state) == ["one", "two" * 5000]
    assert not (state / "index").exists()
    assert {"truth.db.before-restore", "key.before-restore"} <= set(names(state))
    (state / "truth.db.before-restore").rename(tmp_path / "old" / "truth.db")
    assert read(tmp_path / "old") == ["one", "two" * 5000]


def test_a_salvage_that_was_interrupted_does_not_displace_what_is_restored(
    made: Path, tmp_path: Path
) -> None:
    state = tmp_path / "new"
    write(state, "mine")
    write(tmp_path / "salvaged", "salvaged")
    chosen = state / "truth.db.next.damaged-20261121T000000Z"
    (tmp_path / "salvaged" / "truth.db").rename(chosen)
    restore(made, state, replace=True, told=quiet)
    assert read(state) == ["one", "two" * 5000]
    (state / "truth.db.before-restore").rename(tmp_path / "old" / "truth.db")
    assert read(tmp_path / "old") == ["salvaged"]


def test_a_restore_after_an_interrupted_one_keeps_the_log_that_was_there_first(
    made: Path, tmp_path: Path
) -> None:
    """Killed when the old log had its second name and its WAL was gone already."""
    state = tmp_path / "new"
    write(state, "half a log, for its WAL is gone")
    write(tmp_path / "whole", "mine")
    (tmp_path / "whole" / "truth.db").rename(state / "truth.db.before-restore")
    (state / "truth.db.next.before-restore").touch()
    restore(made, state, replace=True, told=quiet)
    assert read(state) == ["one", "two" * 5000]
    (state / "truth.db.before-restore").rename(tmp_path / "old" / "truth.db")
    assert read(tmp_path / "old") == ["mine"]


def test_a_folder_in_use_is_left_alone(made: Path, tmp_path: Path) -> None:
    state = tmp_path / "new"
    write(state, "mine")
    with (state / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StateInUseError, match="stop it first"):
            restore(made, state, replace=True, told=quiet)
    assert read(state) == ["mine"]


def parts_of(made: Path) -> dict[str, bytes]:
    with tarfile.open(made) as archive:
        return {it.name: archive.extractfile(it).read() for it in archive}  # type: ignore[union-attr]


def pack(path: Path, parts: dict[str, bytes], **strange: bytes) -> Path:
    """Write an archive of these parts; `strange` makes some of them something else than files."""
    with tarfile.open(path, "w") as archive:
        for name, content in parts.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            header.type = strange.get(name.partition(".")[0], tarfile.REGTYPE)
            header.linkname = "/etc/passwd"
            archive.addfile(header, io.BytesIO(content))
    return path


def with_manifest(parts: dict[str, bytes], **changes: object) -> dict[str, bytes]:
    told = msgspec.json.decode(parts["manifest.json"])
    told |= changes
    content = msgspec.json.encode(told)
    digest = hashlib.sha256(content).hexdigest().encode() + b"\n"
    return {**parts, "manifest.json": content, "manifest.sha256": digest}


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def bad_backups(made: Path, folder: Path) -> dict[str, Path]:
    folder.mkdir()
    whole, parts = made.read_bytes(), parts_of(made)
    escaped = {
        **with_manifest(
            parts,
            files=[
                {"name": name, "size_bytes": 2, "sha256": hashlib.sha256(b"no").hexdigest()}
                for name in ("truth.db", "../key")
            ],
        ),
        "truth.db": b"no",
        "../key": b"no",
    }
    del escaped["key"]
    found: dict[str, bytes | Path] = {
        "empty": b"",
        "text": b"not a backup at all\n" * 100,
        "cut": whole[: len(whole) // 2],
        "cut late": whole[:-20_000],
        "no manifest": pack(folder / "a", {"truth.db": parts["truth.db"]}),
        "log flipped": pack(folder / "b", {**parts, "truth.db": flipped(parts["truth.db"], 9000)}),
        "key flipped": pack(folder / "c", {**parts, "key": b"mur_evil!!\n"}),
        "manifest flipped": pack(
            folder / "d", {**parts, "manifest.json": flipped(parts["manifest.json"], 40)}
        ),
        "a way out": pack(folder / "e", escaped),
        "a link": pack(folder / "f", parts, truth=tarfile.SYMTYPE),
        "one more": pack(folder / "g", {**parts, "more": b"x"}),
        "no log": pack(folder / "h", with_manifest({**parts, "truth.db": b""}, files=[])),
        "not a manifest": pack(folder / "i", with_manifest(parts, files=7)),
    }
    paths: dict[str, Path] = {}
    for number, (name, content) in enumerate(found.items()):
        paths[name] = content if isinstance(content, Path) else folder / str(number)
        if isinstance(content, bytes):
            paths[name].write_bytes(content)
    return paths


def test_what_is_no_whole_backup_is_refused_before_anything_is_changed(
    made: Path, tmp_path: Path
) -> None:
    state = tmp_path / "new"
    write(state, "mine")
    before = {path.name: path.read_bytes() for path in state.iterdir()}
    outside = names(tmp_path)
    for name, bad in bad_backups(made, tmp_path / "bad").items():
        with pytest.raises(BackupInvalidError):
            raise AssertionError(name, restore(bad, state, replace=True, told=quiet))
    after = {path.name: path.read_bytes() for path in state.iterdir() if path.name != "lock"}
    assert after == before
    assert names(tmp_path) == sorted([*outside, "bad"])


def test_every_flipped_byte_of_the_content_is_noticed(made: Path, tmp_path: Path) -> None:
    whole = made.read_bytes()
    with tarfile.open(made) as archive:
        spans = [(it.offset_data, it.offset_data + it.size) for it in archive]
    bad = tmp_path / "bad.tar"
    for start, end in spans:
        for at in range(start, end, max((end - start) // 25, 1)):
            bad.write_bytes(flipped(whole, at))
            with pytest.raises(MurmurateError):
                raise AssertionError(at, restore(bad, tmp_path / "new", replace=True, told=quiet))
    assert not (tmp_path / "new" / "truth.db").exists()


def test_a_newer_backup_or_log_is_refused(made: Path, tmp_path: Path) -> None:
    parts = parts_of(made)
    newer = pack(tmp_path / "newer", with_manifest(parts, murmurate_backup=2, unknown={"a": 1}))
    with pytest.raises(LogNewerError, match="version 2"):
        restore(newer, tmp_path / "new", replace=False, told=quiet)


def test_a_manifest_says_only_what_it_knows() -> None:
    assert not any("path" in name for name in Manifest.__struct_fields__)


def test_without_a_log_there_is_no_backup(tmp_path: Path) -> None:
    with pytest.raises(LogUnavailableError, match="no log to back up"):
        back_up(tmp_path, tmp_path / "b.tar", OPTIONS, told=quiet)
    write(tmp_path / "old", "one")
    with_key = msgspec.structs.replace(OPTIONS, with_key=True)
    with pytest.raises(LogUnavailableError, match="key"):
        back_up(tmp_path / "old", tmp_path / "b.tar", with_key, told=quiet)
    assert names(tmp_path) == ["old"]


def test_an_older_log_is_upgraded_at_its_next_start(tmp_path: Path) -> None:
    state = tmp_path / "old"
    state.mkdir()
    fixture = Path(__file__).parents[1] / "fixtures" / "log" / "v1.db"
    (state / "truth.db").write_bytes(fixture.read_bytes())
    made = back_up(state, tmp_path / "b.tar", OPTIONS, told=quiet)
    assert (made.log_format, made.entries) == (1, 19)
    restore(tmp_path / "b.tar", tmp_path / "new", replace=False, told=quiet)
    assert "truth.db.v1.bak" not in names(tmp_path / "new")
    read(tmp_path / "new")
    assert "truth.db.v1.bak" in names(tmp_path / "new")


def test_a_backup_replaces_nothing_but_a_backup(made: Path, tmp_path: Path) -> None:
    state = tmp_path / "old"
    letter, empty, pipe = tmp_path / "letter", tmp_path / "empty", tmp_path / "pipe"
    letter.write_text("Dear all,")
    empty.touch()
    os.mkfifo(pipe)
    newer = pack(
        tmp_path / "newer", with_manifest(parts_of(made), murmurate_backup=2, unknown={"a": 1})
    )
    (tmp_path / "way").symlink_to(state)
    before = names(state)
    inside = [state / "truth.db", state / "new.tar", tmp_path / "way" / "key"]
    for target in (*inside, letter, pipe):
        with pytest.raises(BackupTargetError, match=target.name):
            back_up(state, target, OPTIONS, told=quiet)
    assert names(state) == before
    assert letter.read_text() == "Dear all,"
    assert read(state) == ["one", "two" * 5000]
    for target in (made, newer, empty):
        back_up(state, target, OPTIONS, told=quiet)
        with tarfile.open(target) as archive:
            assert archive.getnames() == ["manifest.json", "manifest.sha256", "truth.db"]


def test_leftovers_of_an_interrupted_backup_are_overwritten(made: Path, tmp_path: Path) -> None:
    for ending in (".new", ".truth.db", ".truth.db.new"):
        (tmp_path / f"again.tar{ending}").write_bytes(b"half")
    back_up(tmp_path / "old", tmp_path / "again.tar", OPTIONS, told=quiet)
    assert names(tmp_path) == ["again.tar", "backup.tar", "old"]
    assert (tmp_path / "again.tar").stat().st_size > 0
