"""What an agent asks for, as its client and those who decide meet it: with real processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import openai
import pytest
from click.testing import CliRunner

from murmurate.cli import main
from tests.e2e.running import Running, running, until

# A command ends after its request, and its socket with it.
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

RULES = r"""
[[rules]]
match = 'add (\d+) and (\d+)'
tools = true
result = false
call = "calculate"
arguments = '{"expression": "{1} + {2}"}'

[[rules]]
match = ".*"
text = "I heard {result}"
"""
CONFIG = """
[knowledge]

[limits.default]
requests_per_minute = 60000
burst = 1000

[models.plain]
engine = "scripted"
rules = "plain.toml"

[agents.clerk]
model = "plain"
tools = ["calculate"]
permissions = { calculate = "ask" }

[agents.hasty]
model = "plain"
tools = ["calculate"]
permissions = { calculate = "ask" }
approval_s = 0.2

[agents.mute]
model = "plain"
tools = ["calculate"]
permissions = { calculate = "deny" }
"""

Begin = Callable[..., str]


def configured(folder: Path) -> Path:
    (folder / "plain.toml").write_text(RULES)
    (folder / "murmurate.toml").write_text(CONFIG)
    return folder / "murmurate.toml"


class Place:
    """A service, and the keys of three people: who begins runs, and two who decide."""

    def __init__(self, service: Running) -> None:
        self.service = service
        self.keys: dict[str, str] = {}
        for name, scopes in (
            ("anne", ["chat", "runs", "approve", "sessions"]),
            ("ben", ["approve"]),
            ("cara", ["approve"]),
        ):
            _, _, made = service.request("/api/keys", {"label": name, "scopes": scopes})
            self.keys[name] = made["secret"]

    def run(self, who: str, *words: str, code: int = 0) -> str:
        """Run a command with somebody's key; return what it prints."""
        options = ("--url", self.service.url, "--key", self.keys[who])
        done = CliRunner().invoke(main, [*words, *options])
        assert done.exit_code == code, done.output
        return done.output

    def begin(self, text: str = "add 2 and 3", *, agent: str = "clerk") -> str:
        """Begin a run as Anne; return its id."""
        return json.loads(self.run("anne", "runs", "start", agent, text, "--json"))["id"]

    def waiting(self, text: str = "add 2 and 3") -> str:
        """Begin a run, and wait until it asks."""
        run_id = self.begin(text)
        until(lambda: self.shown(run_id)["status"] == "waiting for approval")
        return run_id

    def shown(self, run_id: str) -> dict[str, Any]:
        return json.loads(self.run("anne", "runs", "show", run_id, "--json"))

    def ended(self, run_id: str) -> dict[str, Any]:
        until(lambda: self.shown(run_id).get("ended_ms") is not None)
        return self.shown(run_id)

    def calls(self, run_id: str) -> list[dict[str, Any]]:
        """Return the calls that the run has made."""
        return [step for step in self.shown(run_id)["steps"] if step["kind"] == "tool"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("approvals")
    with running(folder / "state", "--config", str(configured(folder))) as service:
        yield Place(service)


def test_a_run_whose_server_is_killed_while_it_asks_is_approved_and_finishes(place: Place) -> None:
    run_id = place.waiting()
    place.service.kill("server")
    until(lambda: run_id in place.run("ben", "runs", "approvals"))
    [row] = [it for it in place.run("ben", "runs", "approvals").splitlines() if run_id in it]
    assert row.split()[:2] == [f"{run_id}:2", "clerk"]
    assert 'calculate({"expression": "2 + 3"})' in row
    said = place.run("ben", "runs", "approve", run_id, "--reason", "as agreed")
    assert said == f"{run_id}:2: calculate is approved: murmurate runs follow {run_id}\n"
    followed = place.run("anne", "runs", "follow", run_id)
    assert 'asks: 2 calculate({"expression": "2 + 3"}): murmurate runs approvals' in followed
    assert 'I heard {"result":5}' in followed
    assert len(place.calls(run_id)) == 1
    assert run_id not in place.run("ben", "runs", "approvals")
    replayed = place.run("anne", "replay", run_id)
    assert replayed.count("same") == 5


def test_a_service_killed_whole_while_a_run_asks_goes_on_after_its_next_start(
    tmp_path: Path,
) -> None:
    config = str(configured(tmp_path))
    with running(tmp_path / "state", "--config", config) as service:
        place = Place(service)
        run_id = place.waiting()
        keys = place.keys
        os.kill(service.pid, signal.SIGKILL)
        service.process.wait(30)
        (tmp_path / "state.ready").unlink()
    with running(tmp_path / "state", "--config", config) as service:
        place.service, place.keys = service, keys
        assert place.shown(run_id)["status"] == "waiting for approval"
        place.run("cara", "runs", "approve", run_id)
        assert place.ended(run_id)["answer"]["text"] == 'I heard {"result":5}'
        assert len(place.calls(run_id)) == 1


def test_a_denied_call_is_not_made_and_the_model_hears_why(place: Place) -> None:
    run_id = place.waiting()
    said = place.run("ben", "runs", "deny", run_id, "--step", "2", "--reason", "too dear", "--json")
    assert json.loads(said)["approved"] is False
    answer = place.ended(run_id)["answer"]["text"]
    assert answer == """I heard {"error":"the call of 'calculate' was denied: too dear"}"""
    assert place.calls(run_id) == []


def test_when_nobody_decides_the_call_counts_as_denied(place: Place) -> None:
    run_id = place.begin(agent="hasty")
    assert "denied: nobody has decided in time" in place.ended(run_id)["answer"]["text"]
    said = place.run("ben", "runs", "approve", run_id, code=1)
    assert "nobody decided in time, so it was denied" in said


def test_who_began_a_run_cannot_decide_and_hears_what_to_do(place: Place) -> None:
    run_id = place.waiting()
    said = place.run("anne", "runs", "approve", run_id, code=1)
    assert "this key began" in said
    assert "own = true" in said
    assert place.shown(run_id)["status"] == "waiting for approval"
    place.run("anne", "runs", "cancel", run_id)
    assert place.ended(run_id)["status"] == "cancelled"


def test_who_has_no_scope_for_it_sees_nothing_and_decides_nothing(place: Place) -> None:
    run_id = place.waiting()
    body = {"label": "doris", "scopes": ["runs", "chat"]}
    _, _, made = place.service.request("/api/keys", body)
    place.keys["doris"] = made["secret"]
    assert "no scope 'approve'" in place.run("doris", "runs", "approvals", code=1)
    assert "no scope 'approve'" in place.run("doris", "runs", "deny", run_id, code=1)
    assert place.shown(run_id)["status"] == "waiting for approval"


def test_of_two_who_decide_at_once_one_hears_who_was_first(place: Place) -> None:
    run_id = place.waiting()
    words = ("runs", "approve", run_id, "--url", place.service.url, "--key")
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "murmurate", *words, place.keys[who]],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for who in ("ben", "cara")
    ]
    said = [it.communicate(timeout=30) for it in both]
    assert sorted(it.returncode for it in both) == [0, 1]
    [refused] = [err for _, err in said if err]
    assert f"{run_id}:2 (calculate) is decided: key_" in refused
    assert len(place.ended(run_id)["steps"]) == 4


def test_a_client_of_a_session_hears_which_run_asks_and_the_session_gets_its_turn(
    place: Place,
) -> None:
    client = openai.OpenAI(
        base_url=f"{place.service.url}/v1", api_key=place.keys["anne"], max_retries=2, timeout=30
    )
    place.service.clients.append(client)
    seen = len(json.loads(place.run("anne", "runs", "list", "--json"))["runs"])
    with pytest.raises(openai.ConflictError, match="may not call calculate") as refused:
        client.chat.completions.create(
            model="clerk",
            messages=[{"role": "user", "content": "add 4 and 5"}],
            extra_headers={"x-murmurate-session": "new"},
        )
    assert refused.value.code == "run.waiting"
    runs = json.loads(place.run("anne", "runs", "list", "--json"))["runs"]
    assert len(runs) == min(seen + 1, 50), "OpenAI's client has not asked again"
    run_id, session = runs[0]["id"], runs[0]["session"]
    assert run_id in str(refused.value)
    began_s = time.monotonic()
    place.run("ben", "runs", "approve", run_id)
    place.ended(run_id)
    assert time.monotonic() - began_s < 5
    own = {"Authorization": f"Bearer {place.keys['anne']}"}
    status, _, kept = place.service.request(f"/api/sessions/{session}", headers=own)
    texts = [part["text"] for message in kept["messages"] for part in message["parts"]]
    assert (status, texts) == (200, ["add 4 and 5", 'I heard {"result":9}'])


def test_a_request_without_a_run_cannot_wait_and_a_denied_tool_is_not_there(place: Place) -> None:
    client = place.service.client(place.keys["anne"])
    for agent, words in (("clerk", "begin a run (POST /api/runs)"), ("mute", "I heard ")):
        answer = client.chat.completions.create(
            model=agent, messages=[{"role": "user", "content": "add 6 and 7"}]
        )
        text = answer.choices[0].message.content or ""
        assert words in text
        assert "13" not in text


def test_what_waits_is_counted_and_how_long(place: Place) -> None:
    run_id = place.waiting()

    def page() -> str:
        with closing(place.service.connection()) as connection:
            connection.request("GET", "/metrics")
            return connection.getresponse().read().decode()

    def value(name: str) -> float:
        [line] = [it for it in page().splitlines() if it.startswith(f"{name} ")]
        return float(line.split()[1])

    until(lambda: value("murmurate_approvals_waiting") >= 1)
    assert value("murmurate_approvals_oldest_seconds") > 0
    place.run("ben", "runs", "approve", run_id)
