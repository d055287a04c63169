"""The list of a tenant's files is what its entries amount to."""

import msgspec
import pytest

from murmurate.core.errors import LogCorruptError
from murmurate.core.ports import SNAPSHOT, Entry, Stored
from murmurate.files.entries import (
    FileInfo,
    Kind,
    added,
    folded,
    id_made_ms,
    id_of,
    new_id,
    removed,
    snapshot_of,
    stream_of,
)
from tests.fakes import FakeClock, seeded_ids


def info(number: int, **fields: int) -> FileInfo:
    return FileInfo(f"file-{number}", f"{number}.jsonl", "batch", number, "", number, **fields)


def stored(seq: int, entry: Entry) -> Stored:
    return Stored(entry.tenant, entry.stream, seq, seq, 0, entry.kind, 0, entry.body)


def test_what_was_added_and_not_removed_is_there() -> None:
    entries = [added("a", info(1)), added("a", info(2)), removed("a", "file-1")]
    index = folded([stored(seq, entry) for seq, entry in enumerate(entries, start=1)])
    assert index.files == {"file-2": info(2)}
    assert (index.head, index.unfolded) == (3, 3)


def test_a_snapshot_stands_for_what_came_before_it() -> None:
    before = folded([stored(1, added("a", info(1))), stored(2, added("a", info(2)))])
    snapshot = Stored("a", "files", 2, 2, 0, SNAPSHOT, 0, snapshot_of(before))
    after = folded([stored(1, added("a", info(7))), snapshot, stored(3, removed("a", "file-1"))])
    assert after.files == {"file-2": info(2)}
    assert (after.head, after.unfolded) == (3, 1)


def test_a_later_versions_word_changes_nothing_and_damage_is_told() -> None:
    later = stored(1, Entry("a", "files", "file.praised", b"?"))
    assert folded([later]).files == {}
    for kind in (Kind.ADDED.value, Kind.REMOVED.value, SNAPSHOT):
        with pytest.raises(LogCorruptError, match="entry 1"):
            folded([stored(1, Entry("a", "files", kind, b"?"))])


def test_files_are_alive_until_they_expire_and_come_in_the_order_of_time() -> None:
    files = (info(3, expires_ms=10), info(2), info(1, expires_ms=9))
    index = folded([stored(seq, added("a", it)) for seq, it in enumerate(files, start=1)])
    assert [it.id for it in index.alive(8)] == ["file-1", "file-2", "file-3"]
    assert [it.id for it in index.alive(9)] == ["file-2", "file-3"]
    assert [it.id for it in index.alive(10)] == ["file-2"]


def test_an_id_has_a_dash_and_says_when_it_was_made() -> None:
    file_id = new_id(seeded_ids(FakeClock(77.0)))
    assert file_id.startswith("file-")
    assert "_" not in file_id
    assert id_made_ms(file_id) == 77_000
    assert id_of(stream_of(file_id)) == file_id


def test_what_is_encoded_is_small() -> None:
    assert len(msgspec.json.encode(info(1))) < 200
