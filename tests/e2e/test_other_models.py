"""A service with another file, or whose model and embedder are another server: murmurate itself."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from murmurate.config import weights_path
from tests.e2e.running import Running, running

QUESTION = "What happens when the engine is killed?"


@pytest.fixture(scope="module")
def second(service: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service that has no model and no embedder of its own."""
    folder = tmp_path_factory.mktemp("second")
    (folder / "first.key").write_text(service.key)
    (folder / "murmurate.toml").write_text(
        f'''
[models.far]
url = "{service.url}/v1"
key = "file:{folder}/first.key"
upstream_name = "tiny"
[embeddings]
url = "{service.url}/v1"
model = "minilm"
key = "file:{folder}/first.key"
[agents.assistant]
model = "far"
knowledge = ["docs"]
tools = ["search", "calculate"]
answers = "quote"
history_chars_max = 1200
'''
    )
    with running(folder / "state", "--config", str(folder / "murmurate.toml")) as it:
        yield it


def test_the_other_servers_model_and_embedder_answer_as_if_they_were_here(
    service: Running, second: Running
) -> None:
    answer = second.client().chat.completions.create(
        model="assistant", messages=[{"role": "user", "content": QUESTION}], temperature=0
    )
    assert "engine" in (answer.choices[0].message.content or "")
    here, there = (
        it.client().embeddings.create(model="minilm", input=["a cat", "bread"]).data
        for it in (second, service)
    )
    assert here[0].embedding == pytest.approx(there[0].embedding, abs=1e-6)
    assert here[1].embedding == pytest.approx(there[1].embedding, abs=1e-6)


def test_the_documents_have_vectors_of_the_other_server(second: Running) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "murmurate", "ingest", "--json", "--state", str(second.state)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1])["step"] == "done"
    status, _, body = second.request("/api/knowledge")
    assert status == 200
    assert "words and vectors" in json.dumps(body)


def test_a_file_beside_the_configuration_is_a_model_with_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "conf"
    folder.mkdir()
    shutil.copy(weights_path("builtin:tiny"), folder / "mine.gguf")
    (folder / "m.toml").write_text('models.mine.weights = "mine.gguf"\n')
    (tmp_path / "elsewhere").mkdir()
    state = tmp_path / "elsewhere" / "state"  # it starts in the folder above its state
    with running(state, "--config", str(folder / "m.toml")) as it:
        answer = it.client().chat.completions.create(
            model="mine", messages=[{"role": "user", "content": "hello"}], max_tokens=4
        )
        assert answer.choices[0].message.content


def test_the_doctor_finds_both_in_order_with_the_server_up_and_down(
    service: Running, second: Running, tmp_path: Path
) -> None:
    config = str(second.state.parent / "murmurate.toml")
    for state in (second.state, tmp_path / "state"):
        arguments = ["--json", "--config", config, "--state", str(state)]
        done = subprocess.run(
            [sys.executable, "-m", "murmurate", "doctor", *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        found = {finding["about"]: finding for finding in json.loads(done.stdout)}
        assert not [it for it in found.values() if it["verdict"] == "fail"]
        assert "takes the key" in found["model far"]["detail"]
        assert found["embeddings"]["detail"].endswith(", 384 numbers")
        assert found["embeddings"]["verdict"] == "ok"
        assert done.returncode == 0
        assert service.key not in done.stdout + done.stderr
        assert (found["server"]["verdict"] == "ok") == (state == second.state)


def test_no_secret_of_the_other_server_is_written_anywhere(
    service: Running, second: Running
) -> None:
    for file in second.state.rglob("*"):
        if file.is_file():
            assert service.key.encode() not in file.read_bytes(), file
    output = Path(f"{second.state}.output").read_text()
    assert service.key not in output
