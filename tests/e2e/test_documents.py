"""A folder of real documents, good and bad, behind a real service, as its user meets it."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from tests.documents import archive, docx, paragraph, pdf
from tests.e2e.running import START_S, Running, running

GOOD: dict[str, bytes] = {
    "guide.md": b"# Guide\n\nThe zorkmid is the currency of the dungeon.\n",
    "report.pdf": pdf(["Intro."], ["The quarterly profit was 42 ducats."], title="Report"),
    "letter.docx": docx(paragraph("The gardener waters the orchids on Tuesday.")),
    "page.html": b"<title>Page</title><p>The lighthouse is painted turquoise.</p>",
    "tool.py": b'def frobnicate(x):\n    """Turn the crank of the windmill."""\n    return x\n',
    "deep/old.txt": "退款必须在三十天内申请。超过期限的申请一律不受理。\n".encode("gb18030"),
    "wide.txt": "The umbrella stands beside the wardrobe.\n".encode("utf-16"),
}
BAD: dict[str, tuple[bytes, str]] = {
    "lies.pdf": (b"<html>not found</html>", "not a PDF file, whatever its name says"),
    "cut.pdf": (pdf(["x"])[:300], "damaged: PDFium cannot open it"),
    "secret.pdf": (pdf(["x"], password=b"pw"), "encrypted: it needs a password"),
    "bomb.docx": (
        archive({"word/document.xml": b" " * (201 << 20)}),
        "it unpacks to more than 200 MB",
    ),
    "binary.txt": (b"\x7fELF\x00\x01", "binary, not text"),
    "latin.txt": ("crème brûlée, déjà vu".encode("latin-1"), "not valid utf-8 or gb18030 text"),
    "picture.png": (b"\x89PNG", "files of type .png are not supported"),
}


def fill(folder: Path) -> None:
    for name, content in [*GOOD.items(), *((name, bad[0]) for name, bad in BAD.items())]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    with (folder / "huge.txt").open("wb") as file:
        file.truncate(10 * 1024**3)
    os.mkfifo(folder / "pipe.md")
    (folder / "out.md").symlink_to("/etc/passwd")
    (folder / "two\nlines.md").write_text("text")
    (folder / os.fsdecode(b"na\xefve.md")).write_text("text")
    (folder / "node_modules").mkdir()
    (folder / "node_modules" / "x.md").write_text("The xylophone is out of tune.")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Generator[Running]:
    folder = tmp_path_factory.mktemp("documents")
    fill(folder / "docs")
    with running(folder / "state", "--docs", str(folder / "docs")) as up:
        yield up


def command(service: Running, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "murmurate", *arguments, "--state", str(service.state)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "140"},
    )
    return done.stdout


def found(service: Running, question: str, limit: int = 3) -> list[dict[str, Any]]:
    answer = json.loads(command(service, "search", question, "--limit", str(limit), "--json"))
    return answer["passages"]


def until(true: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + START_S
    while not true():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("question", "path", "page"),
    [
        ("What is the currency of the dungeon?", "guide.md", None),
        ("How much was the quarterly profit?", "report.pdf", 2),
        ("When are the orchids watered?", "letter.docx", None),
        ("What is painted turquoise?", "page.html", None),
        ("Turn the crank of the windmill", "tool.py", None),
        ("退款的期限是多久？", "deep/old.txt", None),
        ("Where is the umbrella?", "wide.txt", None),
    ],
)
def test_every_format_is_found_with_its_place(
    service: Running, question: str, path: str, page: int | None
) -> None:
    best = found(service, question)[0]
    assert (best["path"], best["page"]) == (path, page)


def test_an_answer_cites_the_page(service: Running) -> None:
    answer = json.loads(command(service, "ask", "--json", "How much was the quarterly profit?"))
    assert "42 ducats" in answer["answer"]
    assert "report.pdf, page 2, line 1" in answer["answer"]
    assert answer["citations"][0]["page"] == 2


def test_each_bad_file_is_named_with_its_reason_and_stops_nothing(service: Running) -> None:
    [docs] = json.loads(command(service, "knowledge", "status", "--json"))["collections"]
    assert docs["documents"] == len(GOOD)
    assert {problem["path"]: problem["reason"] for problem in docs["problems"]} == {
        **{name: reason for name, (_, reason) in BAD.items()},
        "huge.txt": "10240 MB; the limit is 20",
        "pipe.md": "not a regular file",
        "out.md": "a link that leads out of the folder is not followed",
        "two\ufffdlines.md": "the name has control characters in it",
        "na\ufffdve.md": "the name is not UTF-8",
    }
    assert docs["watched"]
    assert docs["synced_ms"] is not None
    shown = command(service, "knowledge", "status")
    assert "not read: secret.pdf: encrypted: it needs a password" in shown


def test_search_prints_a_table_for_people(service: Running) -> None:
    shown = command(service, "search", "How much was the quarterly profit?", "--limit", "1")
    assert "report.pdf, page 2, line 1" in shown
    assert "The quarterly profit was 42 ducats." in shown
    assert "xylophone" not in command(service, "search", "the xylophone")


def test_ingest_takes_collections_and_files(service: Running) -> None:
    guide = service.state.parent / "docs" / "guide.md"
    assert "docs: 7 documents" in command(service, "ingest", "--collection", "docs")
    assert "docs: 7 documents" in command(service, "ingest", str(guide))
    steps = command(service, "ingest", "--json").splitlines()
    last = json.loads(steps[-1])
    assert (last["step"], last["unchanged"], last["failed"]) == ("done", 7, 12)
    with pytest.raises(subprocess.CalledProcessError):
        command(service, "ingest", "/etc/passwd")


def test_changes_in_the_folder_are_read_by_themselves(service: Running) -> None:
    folder = service.state.parent / "docs"
    (folder / "new.md").write_text("The volcano erupts every Friday.\n")
    until(lambda: [p["path"] for p in found(service, "volcano erupts Friday", 1)] == ["new.md"])
    (folder / "new.md").unlink()
    until(lambda: "new.md" not in [p["path"] for p in found(service, "volcano erupts Friday")])


def test_a_killed_library_goes_on_with_an_ingest_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    for number in range(300):
        text = f"# Page {number}\n\nThe lamp of room {number} glows for keyword{number}.\n"
        (tmp_path / "docs" / f"{number:03}.md").write_text(text)
    with running(tmp_path / "state", "--docs", str(tmp_path / "docs")) as service:
        for _ in range(3):
            service.kill("library")
        until(lambda: documents(service) == 300)
        command(service, "ingest")
        for number in (0, 150, 299):
            assert found(service, f"keyword{number}", 1)[0]["path"] == f"{number:03}.md"


def test_a_deleted_or_damaged_index_is_rebuilt_without_the_files(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("The zorkmid is the currency of the dungeon.\n")
    state = tmp_path / "state"
    with running(state, "--docs", str(tmp_path / "docs")) as service:
        until(lambda: documents(service) == 1)
    (tmp_path / "docs" / "a.md").unlink()
    (tmp_path / "docs").rmdir()
    config = tmp_path / "murmurate.toml"
    config.write_text(f'[knowledge.docs]\nfolder = "{tmp_path}/docs"\n')
    for damage in (remove, scribble):
        damage(state / "index")
        with running(state, "--config", str(config)) as service:
            until(lambda: bool(found(service, "zorkmid", 1)))


def documents(service: Running) -> int:
    [docs] = json.loads(command(service, "knowledge", "status", "--json"))["collections"]
    return docs["documents"]


def remove(index: Path) -> None:
    (index / "index.db").unlink()
    for keywords in index.glob("keywords-*"):
        shutil.rmtree(keywords)


def scribble(index: Path) -> None:
    """Damage every file of the index but for the embedder's graph."""
    for file in [index / "index.db", *index.glob("keywords-*/*")]:
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 3] + b"\xa5" * (len(content) // 3))
