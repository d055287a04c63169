"""The rules of style that a program can check; each failure lists every place."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "murmurate"
TESTS = ROOT / "tests"
FILES = sorted(SOURCE.rglob("*.py"))

VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 50

COVERED_ELSEWHERE = {
    # The contract suites are themselves tests.
    "testing/log.py": "tests/ports",
    "testing/stories.py": "tests/ports",
    "testing/work.py": "tests/ports",
    # A port and its values.
    "core/fetch.py": "tests/adapters/test_fetcher.py",
    "adapters/memory.py": "tests/ports/test_log.py",
    "adapters/memory_work.py": "tests/ports/test_log.py",
    # The parts of the configuration and of what it is composed into, tested through the whole.
    "config/agents.py": "tests/test_config.py",
    "config/auth.py": "tests/test_config.py",
    "config/checks.py": "tests/test_config.py",
    "config/loading.py": "tests/test_config.py",
    "config/models.py": "tests/test_config.py",
    "config/places.py": "tests/test_config.py",
    "config/references.py": "tests/test_config.py",
    "config/sections.py": "tests/test_config.py",
    "config/tree.py": "tests/test_config.py",
    "compose/batches.py": "tests/test_compose.py",
    "compose/edge.py": "tests/test_compose.py",
    "compose/engines.py": "tests/upstreams, tests/test_compose.py",
    "compose/keys.py": "tests/test_compose.py",
    "compose/opening.py": "tests/test_compose.py",
    "compose/path.py": "tests/test_compose.py",
    "compose/platform.py": "tests/test_compose.py",
    "compose/wiring.py": "tests/test_compose.py",
    # The parts of the log in SQLite, tested through it.
    "adapters/sqlite/copies.py": "tests/adapters/test_sqlite_migrations.py, test_sqlite_salvage.py",
    "adapters/sqlite/damage.py": "tests/adapters/test_sqlite_salvage.py",
    "adapters/sqlite/database.py": "tests/adapters/test_sqlite_log.py",
    "adapters/sqlite/format.py": "tests/adapters/test_sqlite_migrations.py",
    "adapters/sqlite/mend.py": "tests/adapters/test_sqlite_salvage.py",
    "adapters/sqlite/queries.py": "tests/adapters/test_sqlite_log.py",
    "adapters/sqlite/readers.py": "tests/adapters/test_sqlite_log.py",
    "adapters/sqlite/survey.py": "tests/cli/test_log_check.py",
    "adapters/sqlite/sharing.py": "tests/adapters/test_sqlite_sharing.py",
    "adapters/sqlite/works.py": "tests/ports/test_log.py",
    "adapters/sqlite/writer.py": "tests/adapters/test_sqlite_log.py",
    # Templates, filled in beside them; and the command that prints them.
    "deploy/envoy.py": "tests/deploy/test_edge_proxy.py",
    "deploy/nginx.py": "tests/deploy/test_edge_proxy.py",
    "cli/deploy.py": "tests/deploy/test_edge_proxy.py, tests/e2e/test_edge_proxy.py",
    # The table of routes, written down a second time in its test.
    "gateway/surface.py": "tests/gateway/test_routes.py",
    # A copy has two ends: all are tested by the command.
    "adapters/log_checksums.py": "tests/ports/test_log.py, tests/adapters/test_sqlite_log.py",
    "adapters/log_copy.py": "tests/cli/test_log.py",
    "adapters/sqlite/transfer.py": "tests/cli/test_log.py",
    "adapters/postgres/transfer.py": "tests/cli/test_log.py",
    # The parts of the log in PostgreSQL, tested through it.
    "adapters/postgres/bell.py": "tests/adapters/test_postgres_log.py",
    "adapters/postgres/database.py": "tests/adapters/test_postgres_log.py",
    "adapters/postgres/format.py": "tests/adapters/test_postgres_log.py",
    "adapters/postgres/queries.py": "tests/adapters/test_postgres_log.py, tests/ports/test_log.py",
    "adapters/postgres/readers.py": "tests/adapters/test_postgres_log.py",
    "adapters/postgres/survey.py": "tests/cli/test_log_check.py",
    "adapters/postgres/works.py": "tests/ports/test_log.py",
    "adapters/postgres/writer.py": "tests/adapters/test_postgres_log.py",
    "adapters/postgres/writes.py": "tests/ports/test_log.py",
    # Run by the embedder that needs a graph; a sync is what the collections do.
    "adapters/minilm_graph.py": "tests/adapters/test_minilm.py",
    "knowledge/ingest.py": "tests/knowledge/test_service.py",
    # The parts of a step of a batch, tested through it.
    "jobs/batches/keeping.py": "tests/jobs/batches/test_coordinator.py",
    "jobs/batches/results.py": "tests/jobs/batches/test_coordinator.py",
    "jobs/batches/writing.py": "tests/jobs/batches/test_coordinator.py",
    # Run by the process that it is the child of.
    "adapters/parser_child.py": "tests/adapters/test_parser.py",
    # Messages without code: each is sent by the tests of the worker that gets it.
    "workers/boot.py": "tests/workers",
    # A part of the library worker, tested through it.
    "workers/meaning.py": "tests/workers/test_library.py",
    # What wires real processes together is tested with real processes.
    "workers/llama_cpp.py": "tests/e2e",
    "workers/scripted.py": "tests/workers/test_engine.py, tests/e2e",
    "workers/roster.py": "tests/e2e",
    "workers/supervisor.py": "tests/e2e",
    "cli/backup.py": "tests/e2e/test_log.py",
    "cli/client.py": "tests/e2e",
    "cli/ask.py": "tests/e2e",
    "cli/commands.py": "tests/e2e",
    "cli/documents.py": "tests/e2e/test_documents.py",
    "cli/keys.py": "tests/e2e",
    "cli/options.py": "tests/e2e",
    "cli/show.py": "tests/e2e",
    "cli/up.py": "tests/e2e",
}
"""Files without a mirrored test file, and where their tests stand."""


def place(file: Path) -> str:
    return file.relative_to(SOURCE).as_posix()


def mirrors(file: Path) -> list[Path]:
    """Return where the tests of a file may stand; a folder's may be named `test_folder_file.py`."""
    folders = file.relative_to(SOURCE).parts[:-1]
    found = [TESTS.joinpath(*folders, f"test_{file.stem}.py")]
    if len(folders) > 1:
        found.append(TESTS.joinpath(*folders[:-1], f"test_{folders[-1]}_{file.stem}.py"))
    return found


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_every_file_says_what_it_is_for() -> None:
    silent = [
        place(file)
        for file in FILES
        if file.stat().st_size and not ast.get_docstring(ast.parse(file.read_text("utf-8")))
    ]
    assert not silent, f"no module docstring: {silent}"


def test_no_file_has_a_name_that_says_nothing() -> None:
    vague = [place(file) for file in FILES if file.stem in VAGUE_NAMES]
    assert not vague, f"name what they are, in the domain's words: {vague}"


def test_every_file_has_tests_where_one_looks_for_them() -> None:
    untested = [
        f"{place(file)} -> {mirrors(file)[0].relative_to(ROOT)}"
        for file in FILES
        if file.name not in {"__init__.py", "__main__.py", "ports.py"}
        and place(file) not in COVERED_ELSEWHERE
        and not any(mirror.is_file() for mirror in mirrors(file))
    ]
    assert not untested, f"no mirrored test file: {untested}"


def test_the_list_of_exceptions_names_only_files_that_exist() -> None:
    gone = [name for name in COVERED_ELSEWHERE if not (SOURCE / name).is_file()]
    assert not gone, f"take them off COVERED_ELSEWHERE: {gone}"


def test_a_long_file_says_why() -> None:
    """A comment such as `# Over 400 lines: …` is reason enough."""
    long = [
        f"{place(file)}: {len(lines)}"
        for file in FILES
        if len(lines := file.read_text("utf-8").splitlines()) > FILE_LINES_MAX
        and not any(line.startswith(f"# Over {FILE_LINES_MAX} lines: ") for line in lines)
    ]
    assert not long, f"split them, or say why not: {long}"


def test_a_long_function_says_why() -> None:
    """A comment such as `# Over 50 lines: …` inside it is reason enough."""
    long: list[str] = []
    for file in FILES:
        source = file.read_text("utf-8")
        lines = source.splitlines()
        for function in functions(ast.parse(source)):
            body = lines[function.lineno - 1 : function.end_lineno]
            reason = f"# Over {FUNCTION_LINES_MAX} lines: "
            if len(body) > FUNCTION_LINES_MAX and not any(reason in line for line in body):
                long.append(f"{place(file)}:{function.lineno} {function.name}: {len(body)}")
    assert not long, f"split them, or say why not: {long}"


def test_no_test_waits_or_replaces_parts_of_others() -> None:
    """Time and the outside come in through ports, so tests need neither."""
    banned = ("unittest.mock", "import mock", "mocker", "monkeypatch.setattr", "time.sleep(")
    used = [
        f"{file.relative_to(ROOT)}: {word}"
        for file in TESTS.rglob("*.py")
        if "e2e" not in file.parts and file != Path(__file__)
        for word in banned
        if word in file.read_text("utf-8")
    ]
    assert not used, f"give the part a fake of its port: {used}"
