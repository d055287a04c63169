"""Runs as whoever begins them meets them: on the command line, with real processes behind it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from murmurate.cli import main
from tests.e2e.running import Running, running, until

# A command ends after its request, and its socket with it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

MURMURATE = (sys.executable, "-m", "murmurate")
RULES = """
[[rules]]
match = 'add (\\d+)'
tools = true
result = false
call = "calculate"
arguments = '{"expression": "{1} + MORE"}'

[[rules]]
match = ".*"
text = "Added."
"""
CONFIG = """
[knowledge]

[models.plain]
engine = "scripted"
rules = "plain.toml"

[models.plus]
engine = "scripted"
rules = "plus.toml"

[models.crawl]
engine = "scripted"
rules = "crawl.toml"

[agents.clerk]
model = "plain"
tools = ["calculate"]
answers = "compose"
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service with an agent that calculates, a model that adds too much, and a slow one."""
    folder = tmp_path_factory.mktemp("runs")
    for name, more in (("plain", "1"), ("plus", "2")):
        (folder / f"{name}.toml").write_text(RULES.replace("MORE", more))
    crawling = f'tokens_per_s = 4\n\n[[rules]]\ntext = "{"word " * 1000}"\n'
    (folder / "crawl.toml").write_text(crawling)
    (folder / "murmurate.toml").write_text(CONFIG)
    with running(folder / "state", "--config", str(folder / "murmurate.toml")) as it:
        yield it


def command(service: Running, *words: str, code: int = 0) -> str:
    """Run a command against the local service; return what it prints."""
    done = CliRunner().invoke(main, [*words, "--state", str(service.state)])
    assert done.exit_code == code, done.output
    return done.output


def started(service: Running, *words: str) -> dict[str, Any]:
    return json.loads(command(service, "runs", "start", *words, "--json"))


def test_a_run_is_begun_followed_listed_and_shown(service: Running) -> None:
    said = command(service, "runs", "start", "clerk", "add 2", "--session", "new", "--follow")
    first, kept, *events = said.splitlines()
    run_id = first.split()[0]
    assert first == f"{run_id} is queued: murmurate runs follow {run_id}"
    assert kept.startswith("kept as sess_")
    assert [line.partition("  ")[2] for line in events] == [
        "began: clerk, asked 'add 2'",
        "1 model plain: calls calculate",
        '2 tool calculate({"expression": "2 + 1"}): {"result":3}',
        '3 model plain: "Added."',
        "finished",
        "",
        "",
    ]
    assert events[-1] == "Added."
    heads, newest, *_ = command(service, "runs", "list").splitlines()
    assert heads.split() == ["id", "model", "status", "steps", "began", "took"]
    assert newest.split()[:4] == [run_id, "clerk", "finished", "3"]
    shown = command(service, "runs", "show", run_id).splitlines()
    assert shown[0] == f"{run_id}  clerk  finished"
    assert shown[3:] == [
        "├─ 1 model plain: calls calculate",
        '│  └─ 2 tool calculate({"expression": "2 + 1"}): {"result":3}',
        '└─ 3 model plain: "Added."',
        "",
        "Added.",
    ]


def test_what_programs_read_is_json(service: Running) -> None:
    run_id = started(service, "clerk", "add 2")["id"]
    followed = command(service, "runs", "follow", run_id, "--json")
    events = [json.loads(line) for line in followed.splitlines()]
    assert [it["kind"] for it in events] == ["run.begun", *["run.step"] * 3, "run.finished"]
    shown = json.loads(command(service, "runs", "show", run_id, "--json"))
    assert (shown["status"], shown["answer"]["text"]) == ("finished", "Added.")
    listed = json.loads(command(service, "runs", "list", "--json"))["runs"]
    assert (listed[0]["id"], listed[0]["steps"]) == (run_id, 3)


def test_a_replay_is_the_same_until_another_model_is_asked(service: Running) -> None:
    run_id = started(service, "clerk", "add 2")["id"]
    command(service, "runs", "follow", run_id)
    before = command(service, "runs", "list", "--json")
    assert command(service, "replay", run_id).splitlines() == [
        "same  1 model plain",
        "same  2 tool calculate",
        "same  3 model plain",
        "same  answer",
    ]
    other = command(service, "replay", run_id, "--model", "plus", code=1)
    assert other.splitlines() == [
        "other reply      1 model plain",
        '    - calculate({"expression":"2 + 1"})',
        '    + calculate({"expression":"2 + 2"})',
        "other arguments  2 tool calculate",
        '    - {"expression":"2 + 1"}',
        '    + {"expression":"2 + 2"}',
        "    no record: stopped here",
        "not reached      3 model plain",
        "not reached      answer",
    ]
    replayed = json.loads(command(service, "replay", run_id, "--json"))
    assert (replayed["same"], len(replayed["steps"])) == (True, 3)
    assert command(service, "runs", "list", "--json") == before, "nothing of it is stored"
    assert "no model 'none'" in command(service, "replay", run_id, "--model", "none", code=1)


def test_a_run_is_cancelled_and_its_follower_hears_of_it(service: Running) -> None:
    run_id = started(service, "crawl", "hi")["id"]
    assert f"{run_id} stops" in command(service, "runs", "cancel", run_id)
    followed = command(service, "runs", "follow", run_id, code=1)
    assert followed.splitlines()[-1].endswith("cancelled")
    assert "already" in command(service, "runs", "cancel", run_id, code=1)
    assert f"{run_id} goes on" in command(service, "runs", "resume", run_id)
    assert "can be replayed once it is over" in command(service, "replay", run_id, code=1)
    command(service, "runs", "cancel", run_id)


def test_a_run_is_followed_from_a_dead_server_to_the_next(service: Running) -> None:
    run_id = started(service, "crawl", "hi")["id"]
    following = [*MURMURATE, "runs", "follow", run_id, "--json", "--state", str(service.state)]
    with subprocess.Popen(following, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert json.loads(follower.stdout.readline())["kind"] == "run.begun"
        os.kill(service.worker("server"), signal.SIGKILL)
        until(lambda: cancelled(service, run_id))
        rest = [json.loads(line)["kind"] for line in follower.stdout]
    assert (rest, follower.returncode) == (["run.cancel", "run.cancelled"], 1)


def cancelled(service: Running, run_id: str) -> bool:
    """Cancel a run, if there is a server again that takes it."""
    try:
        return service.request(f"/api/runs/{run_id}/cancel", b"")[0] == 202
    except OSError:
        return False


def test_mistakes_are_one_line_that_says_what_to_do(service: Running) -> None:
    for words, line in (
        (("runs", "show", "run_none"), "there is no run 'run_none'"),
        (("runs", "follow", "run_none"), "there is no run 'run_none'"),
        (("runs", "resume", "run_none"), "there is no run 'run_none'"),
        (("replay", "run_none"), "there is no run 'run_none'"),
        (("runs", "start", "nobody", "hi"), "no chat model 'nobody' is served here; there are: "),
    ):
        said = command(service, *words, code=1)
        assert (said.count("\n"), said.startswith("murmurate: ")) == (1, True)
        assert line in said
