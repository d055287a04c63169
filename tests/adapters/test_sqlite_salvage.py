"""A damaged log comes up with all that can be read, and names the rest: never wrong, never silent.

The test of random damage below stands for all places of a file that nobody thought of.
"""

import asyncio
import os
import random
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from murmurate.adapters.sqlite.copies import _name_again
from murmurate.adapters.sqlite.damage import Damage, Reason
from murmurate.adapters.sqlite.database import open_writer
from murmurate.adapters.sqlite.format import SCHEMA
from murmurate.adapters.sqlite.log import SqliteLog
from murmurate.adapters.sqlite.mend import DAMAGED_FILES_KEPT, ask_for_mending
from murmurate.adapters.sqlite.salvage import CERTAIN
from murmurate.core.clock import SystemClock
from murmurate.core.errors import LogCorruptError, LogUnavailableError, MurmurateError
from murmurate.core.ports import NEVER_MS, SNAPSHOT, Claim, Done, Entry, Offer, WorkInfo
from murmurate.gateway.keys import REGISTRY, stream_of
from murmurate.testing.stories import all_of, bodies_of, entry, names_of, refused

T = "default"
STREAMS = 12
PAGE = 4096


class Hurried(SystemClock):
    """A clock that never waits."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


class Kept:
    """What the undamaged log holds: bodies by stream and seq, and snapshots."""

    def __init__(self) -> None:
        self.bodies: dict[tuple[str, int], bytes] = {}
        self.snapshots: dict[tuple[str, int], bytes] = {}
        self.committed: list[tuple[str, int]] = []


async def fill(log: SqliteLog, chance: random.Random) -> Kept:
    """Write streams of small and large entries, compacted and forgotten ones among them."""
    kept = Kept()
    for step in range(220):
        stream = f"session/{chance.randrange(STREAMS):02}"
        body = chance.randbytes(chance.choice([20, 60, 300, 300, 1500, 9000]))
        [seq] = await log.append([Entry(T, stream, "note", body)])
        kept.bodies[stream, seq] = body
        kept.committed.append((stream, seq))
        if step % 40 == 39:
            await log.snapshot(T, stream, seq, b"snapshot " + body)
            kept.snapshots = {key: it for key, it in kept.snapshots.items() if key[0] != stream}
            kept.snapshots[stream, seq] = b"snapshot " + body
            await log.forget(T, stream, before=seq + 1)
            for number in range(1, seq + 1):
                kept.bodies.pop((stream, number), None)
    await log.append([Entry(T, "session/gone", "note", b"forgotten " * 200) for _ in range(30)])
    await log.forget(T, "session/gone")
    for number in range(3):
        [seq] = await log.append([Entry(T, "session/00", "note", b"late %d" % number)])
        kept.bodies["session/00", seq] = b"late %d" % number
        kept.committed.append(("session/00", seq))
    return kept


class Pristine:
    """A log on disk, made once, in two forms: closed, and as a killed writer leaves it."""

    def __init__(self, folder: Path) -> None:
        self.closed, self.killed = folder / "closed", folder / "killed"
        for place in (self.closed, self.killed):
            place.mkdir()

        async def story() -> Kept:
            log = SqliteLog(self.closed / "truth.db", clock=SystemClock())
            await log._writer.do(lambda db: db.execute("PRAGMA wal_autocheckpoint=60").fetchall())
            kept = await fill(log, random.Random(7))
            for name in ("truth.db", "truth.db-wal"):
                shutil.copy(self.closed / name, self.killed / name)
            await log.close()
            return kept

        self.kept = asyncio.run(story())


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Pristine:
    return Pristine(tmp_path_factory.mktemp("pristine"))


class Seen:
    """What a damaged log gave: per stream its entries or the error, and what it names as lost."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str, int], bytes] = {}
        self.snapshots: dict[tuple[str, int], bytes] = {}
        self.refused: dict[str, str] = {}
        self.damage: list[Damage] = []
        self.said: list[str] = []

    def names_snapshot(self, stream: str, seq: int) -> bool:
        return self.nothing_left or self.names(stream, seq)

    @property
    def nothing_left(self) -> bool:
        """Whether it says that there may be streams which it cannot even name."""
        return "nothing is left" in "".join(self.said)

    def names(self, stream: str, seq: int) -> bool:
        return any(
            place.stream == stream
            and (
                (place.seq <= seq <= place.last) is not (place.reason is Reason.RECOUNTED)
                or place.reason in {Reason.HEAD, Reason.UNREADABLE, Reason.SNAPSHOT}
            )
            for place in self.damage
        )


async def look(path: Path) -> Seen:
    """Open, examine and read everything as a service does, twice: what is mended stays mended."""
    seen = Seen()
    for is_mended in (False, True):
        seen.damage, seen.refused = [], {}
        log = SqliteLog(path, clock=Hurried(), told=seen.said.append)
        try:
            async with asyncio.timeout(20):
                with suppress(*(() if is_mended else (LogCorruptError,))):
                    await log.examine()
                names = {f"session/{number:02}" for number in range(STREAMS)} | {"session/gone"}
                try:
                    names |= set(names_of(await all_of(log.streams(T, "session/"))))
                except LogCorruptError as error:
                    seen.refused[""] = str(error)
                for stream in names:
                    await look_at(log, stream, seen)
                seen.damage = list(log.damage)
        finally:
            await log.close()
    return seen


async def look_at(log: SqliteLog, stream: str, seen: Seen) -> None:
    after = 0
    while True:
        try:
            async for stored in log.read(T, stream, after=after):
                where = seen.snapshots if stored.kind == SNAPSHOT else seen.entries
                where[stream, stored.seq] = stored.body
                after = stored.seq
        except LogCorruptError as error:
            seen.refused[stream] = str(error)
            places = [
                place
                for place in log.damage
                if place.stream == stream
                and place.last > after
                and place.reason is not Reason.RECOUNTED
            ]
            if not places:
                return
            after = min(place.last for place in places)
        else:
            return


def judge(seen: Seen, kept: Kept, unsynced: set[tuple[str, int]] | None = None) -> None:
    """Nothing wrong was read, and what was not read is named."""
    for key, body in seen.entries.items():
        assert kept.bodies.get(key) == body, f"{key} is not what was written, or was forgotten"
    for key, body in seen.snapshots.items():
        assert kept.snapshots.get(key) == body, f"snapshot {key} is not what was written"
    silent = [
        key
        for key in kept.bodies
        if key not in seen.entries and not seen.names(*key) and key not in (unsynced or set())
    ]
    assert not silent, f"not read and not named: {silent}; {seen.damage} {seen.refused}"
    lost_snapshots = [
        key for key in kept.snapshots if key not in seen.snapshots and not seen.names_snapshot(*key)
    ]
    assert not lost_snapshots


def copied(source: Path, target: Path) -> Path:
    target.mkdir(exist_ok=True)
    for file in source.iterdir():
        shutil.copy(file, target / file.name)
    return target / "truth.db"


def test_an_undamaged_log_is_left_as_it_is(pristine: Pristine, tmp_path: Path) -> None:
    for number, source in enumerate((pristine.closed, pristine.killed)):
        path = copied(source, tmp_path / str(number))
        seen = asyncio.run(look(path))
        judge(seen, pristine.kept)
        assert (seen.said, seen.damage, seen.refused) == ([], [], {})
        assert set(seen.entries) == set(pristine.kept.bodies)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder whose syncs cost nothing, where the machine has one."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        yield Path(folder)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_random_damage_is_never_wrong_and_never_silent(
    pristine: Pristine, memory: Path, data: st.DataObject
) -> None:
    folder = memory / "log"
    path = copied(pristine.closed, folder)
    size = path.stat().st_size
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.sampled_from([1, 1, 1, 3]))):
        offset = data.draw(st.integers(0, size - 1))
        content[offset] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        seen = asyncio.run(look(path))
    except MurmurateError as error:
        raise AssertionError(f"the whole log is refused: {error}") from error
    finally:
        shutil.rmtree(folder)
    judge(seen, pristine.kept)


def last_commit(pristine: Pristine) -> set[tuple[str, int]]:
    """What the last transaction in the WAL holds: damage there looks like a torn write."""
    return {pristine.kept.committed[-1]}


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_random_damage_of_the_wal_is_never_wrong_and_never_silent(
    pristine: Pristine, memory: Path, data: st.DataObject
) -> None:
    folder = memory / "log"
    path = copied(pristine.killed, folder)
    wal = path.with_name("truth.db-wal")
    content = bytearray(wal.read_bytes())
    offset = data.draw(st.one_of(st.integers(0, 31), st.integers(0, len(content) - 1)))
    content[offset] ^= data.draw(st.integers(1, 255))
    wal.write_bytes(content)
    try:
        seen = asyncio.run(look(path))
    except MurmurateError as error:
        raise AssertionError(f"the whole log is refused: {error}") from error
    finally:
        shutil.rmtree(folder)
    judge(seen, pristine.kept, last_commit(pristine))


def test_a_wal_that_states_another_size_of_pages_is_read_all_the_same(
    pristine: Pristine, tmp_path: Path
) -> None:
    path = copied(pristine.killed, tmp_path / "log")
    wal = path.with_name("truth.db-wal")
    content = bytearray(wal.read_bytes())
    assert content[8:12] == (4096).to_bytes(4)
    content[8:12] = (16384).to_bytes(4)
    wal.write_bytes(content)
    seen = asyncio.run(look(path))
    judge(seen, pristine.kept)
    assert re.search(r"its WAL is damaged before [34] commits", seen.said[0])


def test_what_is_salvaged_goes_on_and_the_damaged_file_is_kept(
    pristine: Pristine, tmp_path: Path
) -> None:
    path = copied(pristine.closed, tmp_path / "log")
    content = bytearray(path.read_bytes())
    middle = len(content) // PAGE // 2 * PAGE
    content[middle : middle + 3 * PAGE] = bytes(3 * PAGE)
    path.write_bytes(content)
    seen = asyncio.run(look(path))
    judge(seen, pristine.kept)
    assert "truth.db was damaged (" in seen.said[0]
    assert "entries of 13 streams were saved" in seen.said[0]
    [kept] = path.parent.glob("truth.db.damaged-*Z")
    assert kept.read_bytes() == content
    assert not path.with_name("truth.db.check").exists()

    async def go_on() -> None:
        log = SqliteLog(path, clock=SystemClock())
        newest = max(seq for stream, seq in pristine.kept.committed if stream == "session/00")
        [seq] = await log.append([entry("on", stream="session/00")])
        assert seq == newest + 1
        assert await log.append([entry("on", stream="session/gone")]) == [31]
        await log.close()

    asyncio.run(go_on())


@pytest.mark.parametrize("part", [0.05, 0.3, 0.5, 0.9])
def test_a_truncated_file_gives_what_is_left_and_names_the_rest(
    pristine: Pristine, tmp_path: Path, part: float
) -> None:
    path = copied(pristine.closed, tmp_path / "log")
    os.truncate(path, int(path.stat().st_size * part))
    seen = Seen()
    with suppress(LogCorruptError):  # nothing is left at all
        seen = asyncio.run(look(path))
    for key, body in seen.entries.items():
        assert pristine.kept.bodies[key] == body
    if part > 0.5:
        assert seen.entries
        judge(seen, pristine.kept)


def test_an_empty_file_begins_a_new_log_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "truth.db"
    path.touch()
    seen = asyncio.run(look(path))
    assert seen.said == ["truth.db was empty: a new log is begun"]


def test_a_lost_file_with_its_wal_gives_what_the_wal_holds(
    pristine: Pristine, tmp_path: Path
) -> None:
    path = copied(pristine.killed, tmp_path / "log")
    path.unlink()
    seen = asyncio.run(look(path))
    assert "its WAL is not" in seen.said[0]
    assert seen.entries
    for key, body in seen.entries.items():
        assert pristine.kept.bodies[key] == body


def test_a_wal_that_is_missing_or_without_its_index_is_no_damage(
    pristine: Pristine, tmp_path: Path
) -> None:
    path = copied(pristine.killed, tmp_path / "log")
    path.with_name("truth.db-shm").write_bytes(b"nonsense" * 4096)
    seen = asyncio.run(look(path))
    judge(seen, pristine.kept)
    assert seen.said == []


def test_the_wal_of_another_log_is_put_aside(pristine: Pristine, tmp_path: Path) -> None:
    path = copied(pristine.closed, tmp_path / "log")

    with closing(open_writer(tmp_path / "other.db", SCHEMA, synchronous="FULL")):
        foreign = (tmp_path / "other.db-wal").read_bytes()  # of a young file: all its tables
    path.with_name("truth.db-wal").write_bytes(foreign)
    seen = asyncio.run(look(path))
    judge(seen, pristine.kept)
    assert set(seen.entries) == set(pristine.kept.bodies)
    assert "belongs to another log: it is kept as truth.db-wal.foreign-" in seen.said[0]
    [aside] = path.parent.glob("truth.db-wal.foreign-*")
    assert aside.read_bytes() == foreign


@pytest.mark.parametrize("content", [b"not a database" * 1000, b"x", b"SQLite format 3\0" * 400])
def test_what_is_no_log_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "truth.db"
    path.write_bytes(content)
    with pytest.raises(LogCorruptError, match=r"truth.db .*nothing of a log can be found in it"):
        SqliteLog(path, clock=SystemClock())
    assert path.read_bytes() == content
    assert sorted(it.name for it in tmp_path.iterdir()) == ["truth.db", "truth.db-lock"]


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "truth.db").mkdir()
    with pytest.raises(LogUnavailableError, match=r"truth.db"):
        SqliteLog(tmp_path / "truth.db", clock=SystemClock())


def test_an_interrupted_change_of_files_is_completed(pristine: Pristine, tmp_path: Path) -> None:
    """Killed after the new file was chosen, before or after the old one's WAL was removed."""
    for number, name in enumerate(("killed", "closed")):
        path = copied(getattr(pristine, name), tmp_path / str(number))
        old = path.read_bytes()
        chosen = path.with_name("truth.db.next.damaged-20261121T000000Z")
        shutil.copy(pristine.closed / "truth.db", chosen)
        seen = asyncio.run(look(path))
        assert set(seen.entries) == set(pristine.kept.bodies)
        assert path.with_name("truth.db.damaged-20261121T000000Z").read_bytes() == old
        assert not chosen.exists()


def test_where_a_file_can_have_one_name_only_it_is_copied(memory: Path, tmp_path: Path) -> None:
    """Another disk stands for one that knows no second names."""
    path, again = tmp_path / "truth.db", memory / "truth.db.kept"
    path.write_bytes(b"old")
    _name_again(path, again)
    assert again.read_bytes() == b"old"
    assert [it.name for it in memory.iterdir()] == ["truth.db.kept"]


def test_only_the_newest_damaged_files_are_kept(pristine: Pristine, tmp_path: Path) -> None:
    path = copied(pristine.closed, tmp_path / "log")
    for number in range(5):
        path.with_name(f"truth.db.damaged-2025010{number}T000000Z").touch()
    ask_for_mending(path)
    asyncio.run(look(path))
    kept = sorted(path.parent.glob("truth.db.damaged-*Z"))
    assert len(kept) == DAMAGED_FILES_KEPT
    assert kept[-1].stat().st_size > 0


def test_damage_in_an_entry_is_told_once_and_remembered(tmp_path: Path) -> None:
    path = tmp_path / "truth.db"
    told: list[Damage] = []

    async def first() -> None:
        log = SqliteLog(path, clock=Hurried(), on_damage=told.append)
        await log.append([entry(str(number)) for number in range(1, 8)])
        await log.append([entry("other", stream="session/2")])
        await log._writer.do(lambda db: db.execute("UPDATE entry SET at = 1 WHERE seq IN (3, 5)"))
        for _ in range(2):
            await log.examine()
            with pytest.raises(LogCorruptError, match="entry 3 of stream session/1 of default is"):
                await all_of(log.read(T, "session/1"))
        assert bodies_of(await all_of(log.read(T, "session/2"))) == ["other"]
        assert await log.append([entry("8")]) == [8]
        await log.close()

    async def second() -> None:
        log = SqliteLog(path, clock=Hurried(), on_damage=told.append)
        assert [place.seq for place in log.damage] == [3, 5]
        await log.examine()
        await log.forget(T, "session/1", before=4)
        assert [place.seq for place in log.damage] == [5]
        assert bodies_of(await all_of(log.read(T, "session/1", after=5))) == ["6", "7", "8"]
        await log.close()

    asyncio.run(first())
    asyncio.run(second())
    assert [str(place) for place in told] == [
        "entry 3 of stream session/1 of default is damaged",
        "entry 5 of stream session/1 of default is damaged",
    ]


def test_a_damaged_count_refuses_appends_to_its_stream_until_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "truth.db"

    async def first() -> None:
        log = SqliteLog(path, clock=Hurried())
        await log.append([entry("1"), entry("2"), entry("1", stream="session/2")])
        await log._writer.do(
            lambda db: db.execute("UPDATE head SET seq = 9 WHERE stream LIKE '%1'")
        )
        await refused(log.append([entry("3")]), LogCorruptError)
        assert await log.append([entry("2", stream="session/2")]) == [2]
        await refused(all_of(log.read(T, "session/1")), LogCorruptError)
        await log.close()

    async def second() -> None:
        log = SqliteLog(path, clock=Hurried())
        assert bodies_of(await all_of(log.read(T, "session/1"))) == ["1", "2"]
        assert await log.append([entry("3")]) == [3]
        assert [str(place) for place in log.damage] == [
            "stream session/1 of default may have lost its snapshot, and entries outside 1 to 2"
        ]
        await log.close()

    asyncio.run(first())
    asyncio.run(second())


def test_a_key_whose_count_is_lost_is_not_read_for_its_revocation_may_be_what_is_missing(
    tmp_path: Path,
) -> None:
    path = tmp_path / "truth.db"

    async def first() -> None:
        log = SqliteLog(path, clock=Hurried())
        for stream in ("key/revoked", "key/whole", "audit"):
            await log.append([Entry("system", stream, kind, b"") for kind in ("made", "revoked")])
        await log.append([Entry(T, "key/of-a-tenant", "note", b"")])
        lost = "tenant = 'system' AND stream IN ('key/revoked', 'audit') OR tenant = 'default'"
        await log._writer.do(lambda db: db.execute(f"UPDATE head SET crc = 0 WHERE {lost}"))
        await log._writer.do(
            lambda db: db.execute("DELETE FROM entry WHERE stream = 'key/revoked' AND seq = 2")
        )
        await log.close()
        ask_for_mending(path)

    async def later() -> None:
        log = SqliteLog(path, clock=Hurried())
        with pytest.raises(LogCorruptError, match="entry 2 of stream key/revoked of system is los"):
            await all_of(log.read("system", "key/revoked"))
        for tenant, stream in (("system", "key/whole"), ("system", "audit")):
            assert len(await all_of(log.read(tenant, stream))) == 2
        assert len(await all_of(log.read(T, "key/of-a-tenant"))) == 1
        await log.close()

    asyncio.run(first())
    for _ in range(2):
        asyncio.run(later())
        ask_for_mending(path)


def test_the_streams_that_must_be_whole_are_those_of_the_keys() -> None:
    assert (REGISTRY, stream_of("")) == CERTAIN


async def offer_work(path: Path) -> None:
    """Leave runs behind that are held, wait, have ended and were forgotten, and other work."""
    log = SqliteLog(path, clock=SystemClock())
    await log.renew("dead")
    for name in ("held", "late", "done", "gone"):
        begun = [Entry(T, f"run/{name}", "run.begun", b"{}")]
        await log.append(begun, work=[Offer(T, f"run/{name}", "runs", holder="dead")])
        claim = Claim(T, f"run/{name}", "runs", "dead", 1)
        step = Entry(T, claim.stream, "run.step", b"{}")
        await log.append([step], fence=claim)
        if name == "late":
            later = Offer(T, claim.stream, "runs", priority=3, due_ms=NEVER_MS)
            await log.append([], fence=claim, work=[later])
        if name in {"done", "gone"}:
            end = Entry(T, claim.stream, "run.finished", b"{}")
            await log.append([end], fence=claim, work=[Done(T, claim.stream)])
    await log.forget(T, "run/gone")
    await log.append([], work=[Offer(T, "deadline/held", "deadlines", due_ms=NEVER_MS)])
    await log.close()


async def work_of(path: Path) -> list[WorkInfo]:
    log = SqliteLog(path, clock=SystemClock())
    found = [info for queue in ("runs", "deadlines") for info in await all_of(log.work(T, queue))]
    await log.renew("next")
    held = Claim(T, "run/held", "runs", "next", 2)
    assert held in await log.claim("runs", "next", limit=9)
    await log.append([Entry(T, "run/held", "run.step", b"{}")], fence=held)
    await log.close()
    return found


def test_work_goes_on_after_the_log_was_mended(tmp_path: Path) -> None:
    path = tmp_path / "truth.db"
    asyncio.run(offer_work(path))
    ask_for_mending(path)
    found = asyncio.run(work_of(path))
    expected = [
        WorkInfo(T, "run/held", "runs", 0, 0, None, 1),
        WorkInfo(T, "run/late", "runs", 3, NEVER_MS, None, 1),
        WorkInfo(T, "deadline/held", "deadlines", 0, NEVER_MS, None, 0),
    ]
    # What is over may come back from an old page: it is struck off by whoever claims it.
    assert [info for info in found if info.stream != "run/done"] == expected


def test_a_run_under_way_goes_on_though_nothing_is_left_of_its_work(tmp_path: Path) -> None:
    path = tmp_path / "truth.db"
    asyncio.run(offer_work(path))
    with closing(sqlite3.connect(path)) as db:
        page = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'work'").fetchone()[0]
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.seek((page - 1) * PAGE)
        file.write(bytes(PAGE))
    found = asyncio.run(work_of(path))
    assert [info for info in found if info.stream != "run/done"] == [
        WorkInfo(T, "run/held", "runs", 0, 0, None, 1),
        WorkInfo(T, "run/late", "runs", 0, 0, None, 1),
    ]
