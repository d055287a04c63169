"""What the doctor says of this machine."""

import os
import socket
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from murmurate.adapters.chunks import ChunkTable
from murmurate.adapters.gguf import read_header
from murmurate.adapters.minilm import DIMENSIONS
from murmurate.cli import local_checks
from murmurate.config import Config, EmbeddingsEngine, parse, weights_path
from murmurate.workers.embedder import MINILM, identity


def test_versions_are_told() -> None:
    assert [finding.about for finding in local_checks.programs()] == ["murmurate", "python"]


def test_what_is_installed_is_told_with_its_version_and_the_rest_with_how_to_get_it() -> None:
    fine = local_checks.part("jieba", "jieba", "Chinese words", "pip install murmurate")
    assert (fine.verdict, fine.detail) == ("ok", "jieba 0.42.1")
    missing = local_checks.part("no_such_module", "none", "engine", "pip install it")
    assert (missing.verdict, missing.advice) == ("fail", "pip install it")
    own = local_checks.part("murmurate.cli", "no-such-package", "x", "y")
    assert own.detail == "murmurate.cli"


def test_minilm_is_asked_for_only_where_it_is_used() -> None:
    names = [finding.about for finding in local_checks.parts(EmbeddingsEngine.OPENAI)]
    assert "MiniLM's weights" not in names
    assert "vectors" in names
    assert len(local_checks.parts(EmbeddingsEngine.MINILM)) == len(names) + 2
    assert len(local_checks.parts(EmbeddingsEngine.NONE)) == len(names) - 1


def test_the_embedder_of_this_machine_is_compared_with_the_index() -> None:
    config = Config()
    assert local_checks.embedder(config, None).verdict == "ok"
    assert local_checks.embedder(config, MINILM).detail == "minilm, 384 numbers"
    other = local_checks.embedder(config, "openai http://h/v1 m 3 -")
    assert (other.verdict, "embedded again" in other.advice) == ("warn", True)
    none = parse({"embeddings": {"engine": "none"}})
    assert "words alone" in local_checks.embedder(none, None).detail


@pytest.mark.parametrize(
    ("table", "verdict", "words"),
    [
        ({"weights": "builtin:tiny"}, "ok", "qwen3, "),
        ({"weights": "/nowhere.gguf"}, "fail", "/nowhere.gguf is missing: check the path"),
        ({"weights": "builtin:tiny", "context_tokens": 10**6}, "fail", "was trained for"),
        ({"weights": "builtin:tiny", "slots": 10**6}, "warn", "takes up to"),
    ],
)
def test_weights_are_told_by_their_header(table: Any, verdict: str, words: str) -> None:
    finding = local_checks.weights("m", parse({"models": {"m": table}}).models["m"])
    assert (finding.about, finding.verdict) == ("model m", verdict)
    assert words in finding.detail


def test_a_model_without_a_chat_template_is_a_warning() -> None:
    header = read_header(weights_path("builtin:tiny"))
    plain = replace(header, has_chat_template=False)
    finding = local_checks.judge_weights("m", plain, 100, None)
    assert (finding.verdict, "instruct" in finding.advice) == ("warn", True)


def test_rules_and_folders_are_there_or_not(tmp_path: Path) -> None:
    model = parse({"models": {"m": {"rules": str(tmp_path / "r.toml")}}}).models["m"]
    assert local_checks.rules("m", model).verdict == "fail"
    (tmp_path / "r.toml").write_text("")
    assert local_checks.rules("m", model).verdict == "ok"
    assert local_checks.folder("docs", tmp_path).verdict == "ok"
    assert local_checks.folder("docs", tmp_path / "none").advice.endswith("knowledge.docs.folder")


def test_a_state_folder_that_others_can_read_is_a_warning(tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert "made at the first start" in local_checks.state_folder(state)[0].detail
    state.mkdir(mode=0o700)
    (state / "key").write_text("mur_secret")
    (state / "key").chmod(0o600)
    assert [f.verdict for f in local_checks.state_folder(state) if f.about != "disk"] == ["ok"]
    (state / "key").chmod(0o644)
    state.chmod(0o755)
    folder, key, _ = local_checks.state_folder(state)
    assert (folder.verdict, folder.advice) == ("warn", f"chmod 700 {state}")
    assert (key.about, key.advice) == ("state key", f"chmod 600 {state / 'key'}")
    assert "mur_secret" not in str(key)


def test_a_key_file_that_others_can_read_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("sk-secret-1")
    path.chmod(0o640)
    remote = {"url": "http://h/v1", "key": f"file:{path}"}
    config = parse({"models": {"big": remote, "env": {"url": "http://h/v1", "key": "env:K"}}})
    [finding] = local_checks.key_files(config)
    assert (finding.about, finding.verdict) == ("models.big.key", "warn")
    assert "sk-secret-1" not in str(finding)
    path.chmod(0o600)
    assert not local_checks.key_files(config)


def test_a_file_of_somebody_else_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.touch(mode=0o600)
    assert local_checks.private("key", path) == []
    [finding] = local_checks.private("key", path, user=os.geteuid() + 1)
    assert "belongs to somebody else" in finding.detail


@pytest.mark.parametrize(
    ("free_bytes", "verdict"), [(5e9, "ok"), (9e8, "warn"), (4e7, "fail"), (0, "fail")]
)
def test_room_on_the_disk(free_bytes: float, verdict: str) -> None:
    assert local_checks.judge_disk(Path("/s"), int(free_bytes)).verdict == verdict


def test_a_port_in_use_is_a_warning() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        finding = local_checks.port(f"127.0.0.1:{number}")
        assert (finding.verdict, "in use" in finding.detail) == ("warn", True)
    assert local_checks.port("127.0.0.1:0").verdict == "ok"


def test_whose_vectors_the_index_has_is_read_without_a_server(tmp_path: Path) -> None:
    assert local_checks.embedded_by(tmp_path) is None
    (tmp_path / "index").mkdir()
    path = tmp_path / "index" / "index.db"
    path.write_bytes(b"no database")
    assert local_checks.embedded_by(tmp_path) is None
    path.unlink()
    config = parse({"embeddings": {"engine": "minilm"}})
    with closing(ChunkTable(path.parent)) as table:
        table.use_embedder(identity(config.embeddings, DIMENSIONS))
    found = local_checks.embedded_by(tmp_path)
    assert local_checks.embedder(config, found).verdict == "ok"
    assert local_checks.embedder(config, "minilm-int8-0").verdict == "warn"
    assert msgspec.json.encode(local_checks.disk(tmp_path).as_dict())
