"""What a sync has to do."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from murmurate.knowledge.changes import (
    Known,
    changes,
    document_id,
    index_changes,
)
from murmurate.knowledge.ports import FileSeen, Listing, Problem
from murmurate.knowledge.rules import FILE_BYTES_MAX


def known(path: str, *, size: int = 1, mtime_ns: int = 1, sha256: str = "s") -> Known:
    return Known(document_id("docs", path), path, sha256, size, mtime_ns, 1)


def listing(files: list[FileSeen], **rest: Any) -> Listing:
    return Listing(tuple(files), (), **rest)


def test_new_and_changed_files_are_read_and_vanished_ones_dropped() -> None:
    files = [FileSeen("new", 1, 1), FileSeen("same", 1, 1), FileSeen("longer", 2, 1)]
    files.append(FileSeen("touched", 1, 2))
    before = {name: known(name) for name in ("same", "longer", "touched", "gone")}
    plan = changes(listing(files), before)
    assert [file.path for file in plan.read] == ["new", "longer", "touched"]
    assert plan.drop == (before["gone"],)
    assert plan.unchanged == 1


def test_a_file_that_is_too_large_is_reported_and_keeps_its_last_text() -> None:
    plan = changes(listing([FileSeen("big", FILE_BYTES_MAX + 1, 2)]), {"big": known("big")})
    assert plan.read == plan.drop == ()
    assert plan.problems == (Problem("big", "20 MB; the limit is 20"),)


def test_what_could_not_be_looked_at_is_kept_with_all_below_it() -> None:
    before = {path: known(path) for path in ("a.md", "deep/b.md", "deep/er/c.md", "deeper/d.md")}
    plan = changes(listing([], unseen=("a.md", "deep")), before)
    assert plan.drop == (before["deeper/d.md"],)
    assert changes(listing([], unseen=(".",)), before).drop == ()


def test_what_lies_behind_the_end_of_a_listing_is_kept() -> None:
    before = {path: known(path) for path in ("a/z.md", "a.md", "b.md", "c.md")}
    plan = changes(listing([FileSeen("a/z.md", 1, 1)], ends_before="b.md"), before)
    assert plan.drop == (before["a.md"],)


def test_an_id_belongs_to_a_path_of_a_collection() -> None:
    assert document_id("docs", "a.md") == document_id("docs", "a.md")
    assert len({document_id("docs", "a"), document_id("docs", "b"), document_id("d", "a")}) == 3


def test_the_index_gets_what_it_lacks_and_loses_what_is_gone() -> None:
    same, stale, missing = known("same"), known("stale"), known("missing")
    held = {same.id: "s", stale.id: "older", "nobody's": "s"}
    plan = index_changes([same, stale, missing], held)
    assert plan.put == (stale, missing)
    assert plan.drop == ("nobody's",)


FILES = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 3))


@given(FILES, FILES)
def test_after_a_sync_there_is_nothing_to_do(before: dict[str, int], now: dict[str, int]) -> None:
    listed = [FileSeen(path, 1, mtime) for path, mtime in now.items()]
    documents = {path: known(path, mtime_ns=mtime) for path, mtime in before.items()}
    plan = changes(listing(listed), documents)
    for document in plan.drop:
        del documents[document.path]
    for file in plan.read:
        documents[file.path] = known(file.path, mtime_ns=file.mtime_ns)
    again = changes(listing(listed), documents)
    assert again.read == again.drop == ()
    assert set(documents) == set(now)
