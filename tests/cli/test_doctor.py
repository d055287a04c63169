"""The doctor as a command: order, exit code, and what it never shows."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from murmurate.cli import main
from murmurate.cli.client import RefusedError
from murmurate.cli.doctor import by_words
from tests.cli.test_client import OK, answering

KEY = "sk-secret-1"

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, with nothing set in the environment but a key."""
    for name in [name for name in os.environ if name.startswith("MURMURATE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("BIG_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def doctor(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["doctor", *arguments])


def findings(*arguments: str) -> tuple[dict[str, Any], int]:
    """Return the findings by what they are about, and the exit code."""
    result = doctor("--json", *arguments)
    return {found["about"]: found for found in json.loads(result.stdout)}, result.exit_code


def remote(folder: Path, url: str) -> None:
    (folder / "murmurate.toml").write_text(
        f'[models.big]\nurl = "{url}/v1"\nkey = "env:BIG_KEY"\n'
        f'headers = {{ api-key = "{KEY}" }}\n'
        f'[embeddings]\nurl = "{url}/v1"\nmodel = "embed-3"\nkey = "env:BIG_KEY"\n'
    )


def test_without_a_server_and_a_file_all_is_well_but_that(folder: Path) -> None:
    found, code = findings("--state", str(folder / "state"))
    assert code == 0
    assert found["server"]["verdict"] == "warn"
    assert {found[name]["verdict"] for name in ("model tiny", "state", "disk", "python")} == {"ok"}
    assert not (folder / "state").exists()


def test_other_servers_that_fail_make_the_exit_code_1_and_no_secret_is_shown(folder: Path) -> None:
    remote(folder, "http://127.0.0.1:1")
    for arguments in ([], ["--json"]):
        result = doctor(*arguments)
        assert result.exit_code == 1
        assert KEY not in result.output
        assert "no connection" in result.stdout
    found, _ = findings()
    assert found["model big"]["verdict"] == found["embeddings"]["verdict"] == "fail"
    assert found["models.big.key"]["detail"] == "'env:BIG_KEY'"


def test_offline_asks_nobody(folder: Path) -> None:
    remote(folder, "http://127.0.0.1:1")
    found, code = findings("--offline")
    assert code == 0
    for name in ("model big", "embeddings"):
        assert (found[name]["verdict"], found[name]["detail"]) == (
            "skipped",
            "not asked (--offline)",
        )


def test_a_broken_configuration_is_a_finding(folder: Path) -> None:
    (folder / "murmurate.toml").write_text("[models.m]\nslots = 1\n")
    found, code = findings()
    assert (found["configuration"]["verdict"], code) == ("fail", 1)
    assert "engine" in found["configuration"]["detail"]


def test_a_server_that_runs_is_told_with_its_parts_and_how_it_searches(folder: Path) -> None:
    ready = b'{"parts": {"model tiny": "ready", "documents docs": "not read yet"}}'
    words = b'{"collections": [{"collection": "docs", "search": "words only: it is away"}]}'
    replies = [OK + b"\r\n" + body for body in (b"{}", ready, words)]
    with answering(*replies) as (url, _):
        found, code = findings("--url", url, "--key", "k")
    assert code == 1
    assert found["server"]["verdict"] == "ok"
    assert found["  documents docs"]["verdict"] == "fail"
    assert found["  search docs"]["detail"] == "words only: it is away"
    assert "port" not in found


def test_a_server_whose_key_may_not_ask_for_all_runs_all_the_same(folder: Path) -> None:
    forbidden = (
        b"HTTP/1.1 403 Forbidden\r\n\r\n"
        b'{"error": {"message": "this key lacks the scope", "code": "key.scope_missing"}}'
    )
    ready = OK + b'\r\n{"parts": {"model tiny": "ready"}}'
    with answering(forbidden, ready, forbidden) as (url, _):
        found, code = findings("--url", url, "--key", "k")
    assert (found["server"]["verdict"], found["server"]["detail"]) == ("ok", url)
    assert found["  model tiny"]["verdict"] == "ok"
    for path in ("/v1/models", "/api/knowledge"):
        told = found[f"  key {path}"]
        assert (told["verdict"], told["detail"]) == ("warn", "this key lacks the scope")
    assert code == 0


def test_a_server_that_refuses_for_another_reason_is_no_server_of_ours(folder: Path) -> None:
    with answering(b"HTTP/1.1 404 Not Found\r\n\r\n<html>") as (url, _):
        found, _ = findings("--url", url, "--key", "k")
    assert (found["server"]["verdict"], found["server"]["detail"]) == (
        "warn",
        "the server answered 404",
    )


@pytest.mark.parametrize("collections", [7, None, {"a": 1}])
def test_collections_that_are_none_are_strange(collections: object) -> None:
    with pytest.raises(RefusedError):
        by_words(collections)
    assert by_words([7, {}, {"search": "words and vectors"}]) == []
