"""Every command, run with the key of another tenant against a real service.

A new command without a case, or a reason why it needs none, fails the first test.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import click
import pytest

from murmurate.cli import main
from tests.e2e.running import Running, running, until

RULES = """
tokens_per_s = 1000

[[rules]]
match = ".*"
text = "one two three"
"""
CONFIG = """
[models.plain]
engine = "scripted"
rules = "rules.toml"

[knowledge.plans]
folder = "plans"
tenants = ["acme"]

[agents.planner]
model = "plain"
knowledge = ["plans"]

[models.caller]
engine = "scripted"
rules = "caller.toml"

[agents.asker]
model = "caller"
knowledge = ["plans"]
tools = ["search"]

[agents.asker.permissions]
search = "ask"
"""
CALLER = """
[[rules]]
match = ".*"
call = "search"
arguments = '{"query": "ACME-WORD"}'
"""


LINE = {
    "custom_id": "c",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {"model": "planner", "messages": [{"role": "user", "content": "hi"}]},
}


@dataclass(frozen=True)
class Done:
    """How a command ended, and all that it printed."""

    exit_code: int
    said: str

    def refused(self, words: str) -> None:
        assert self.exit_code == 1, self.said
        assert words in self.said


@dataclass(frozen=True)
class Town:
    """A service with the tenants acme and birch, and what acme has there."""

    service: Running
    keys: dict[str, dict[str, Any]]
    session: str
    trace: str
    run_id: str
    asks: str
    """A run that waits for an approval."""

    def run(self, who: str, *words: str, typed: str = "") -> Done:
        """Run a command with somebody's key, in an empty folder."""
        key = self.keys[who]["secret"]
        empty = self.service.state.parent / "empty"
        empty.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "murmurate", *words, "--url", self.service.url]
        done = subprocess.run(
            [*command, "--key", key, "--state", "none"],
            input=typed,
            capture_output=True,
            text=True,
            check=False,
            cwd=empty,
        )
        return Done(done.returncode, done.stdout + done.stderr)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    folder = tmp_path_factory.mktemp("town")
    (folder / "rules.toml").write_text(RULES)
    (folder / "caller.toml").write_text(CALLER)
    (folder / "town.toml").write_text(CONFIG)
    (folder / "plans").mkdir()
    (folder / "plans" / "secret.md").write_text("# Plans\n\nThe vault opens at noon.\n")
    with running(folder / "state", "--config", str(folder / "town.toml")) as service:
        keys: dict[str, dict[str, Any]] = {}
        for name in ("acme", "birch"):
            body = {"label": f"{name}'s", "tenant": name, "scopes": ["*"]}
            _, _, keys[name] = service.request("/api/keys", body)
        status, headers, _ = service.request(
            "/v1/chat/completions",
            {"model": "planner", "messages": [{"role": "user", "content": "hi"}]},
            {"Authorization": f"Bearer {keys['acme']['secret']}", "x-murmurate-session": "new"},
        )
        assert status == 200
        session, trace = headers["x-murmurate-session"], headers["x-murmurate-trace"]
        _, _, begun = service.request(
            "/api/runs",
            {"model": "planner", "messages": [{"role": "user", "content": "hi"}]},
            {"Authorization": f"Bearer {keys['acme']['secret']}"},
        )
        _, _, asks = service.request(
            "/api/runs",
            {"model": "asker", "messages": [{"role": "user", "content": "hi"}]},
            {"Authorization": f"Bearer {keys['acme']['secret']}"},
        )
        (folder / "empty").mkdir(exist_ok=True)
        (folder / "empty" / "in.jsonl").write_text(json.dumps(LINE) + "\n")
        yield Town(service, keys, session, trace, begun["id"], asks["id"])


def asks(town: Town) -> None:
    town.run("birch", "ask", "--model", "planner", "hi").refused("no chat model 'planner'")
    assert "one two three" in town.run("acme", "ask", "--model", "planner", "hi").said


def chats(town: Town) -> None:
    done = town.run("birch", "chat", "--model", "plain", "--session", town.session, typed="hi\n")
    assert f"there is no session '{town.session}'" in done.said
    assert "one two three" not in done.said


def ingests(town: Town) -> None:
    named = ("ingest", "--collection", "plans")
    town.run("birch", *named).refused("no collection 'plans'; there are: none")
    file = str(town.service.state.parent / "plans" / "secret.md")
    town.run("birch", "ingest", file).refused("no collection's folder has it")
    everything = town.run("birch", "ingest", "--json")
    assert (everything.exit_code, everything.said) == (0, "")
    assert '"done"' in town.run("acme", *named, "--json").said


def searches(town: Town) -> None:
    named = ("search", "--collection", "plans", "when does the vault open?")
    town.run("birch", *named).refused("no collection 'plans'; there are: none")
    assert "vault" not in town.run("birch", "search", "when does the vault open?").said
    assert "noon" in town.run("acme", *named).said


def shows_knowledge(town: Town) -> None:
    assert "plans" not in town.run("birch", "knowledge", "status").said
    assert "plans" in town.run("acme", "knowledge", "status").said


def traces(town: Town) -> None:
    town.run("birch", "trace", town.trace).refused(f"there is no trace '{town.trace}'")
    assert town.run("acme", "trace", town.trace).exit_code == 0


def starts_runs(town: Town) -> None:
    start = ("runs", "start", "planner", "hi")
    town.run("birch", *start).refused("no chat model 'planner'")
    assert "is queued" in town.run("acme", *start).said
    stray = town.run("birch", "runs", "start", "plain", "hi", "--session", town.session, "--follow")
    stray.refused(f"there is no session '{town.session}'")


def lists_runs(town: Town) -> None:
    for options in ((), ("--json",)):
        assert town.run_id not in town.run("birch", "runs", "list", *options).said
        assert town.run_id in town.run("acme", "runs", "list", *options).said


def shows_runs(town: Town) -> None:
    town.run("birch", "runs", "show", town.run_id).refused(f"there is no run '{town.run_id}'")
    assert "question: hi" in town.run("acme", "runs", "show", town.run_id).said


def follows_runs(town: Town) -> None:
    town.run("birch", "runs", "follow", town.run_id).refused(f"there is no run '{town.run_id}'")
    assert "one two three" in town.run("acme", "runs", "follow", town.run_id).said


def replays_runs(town: Town) -> None:
    assert town.run("acme", "runs", "follow", town.run_id).exit_code == 0
    town.run("birch", "replay", town.run_id).refused(f"there is no run '{town.run_id}'")
    assert town.run("acme", "replay", town.run_id).exit_code == 0


def cancels_runs(town: Town) -> None:
    town.run("birch", "runs", "cancel", town.run_id).refused(f"there is no run '{town.run_id}'")
    assert "cancelled" not in town.run("acme", "runs", "list").said


def resumes_runs(town: Town) -> None:
    assert town.run("acme", "runs", "follow", town.run_id).exit_code == 0
    town.run("birch", "runs", "resume", town.run_id).refused(f"there is no run '{town.run_id}'")
    town.run("acme", "runs", "resume", town.run_id).refused("there is nothing to resume")


def runs_batches(town: Town) -> None:
    place = town.service.state.parent / "empty" / "out"
    done = town.run("birch", "batches", "run", "in.jsonl", "--output", "out")
    assert (done.exit_code, place.exists()) == (1, False)
    assert "no chat model 'planner'" in (place.with_name("out.errors")).read_text()
    done = town.run("acme", "batches", "run", "in.jsonl", "--output", "out")
    assert done.exit_code == 0, done.said
    assert "one two three" in place.read_text()


def batch_of_acme(town: Town) -> str:
    said = town.run("acme", "batches", "run", "in.jsonl", "--output", "own", "--json").said
    return json.loads(said)["id"]


def lists_batches(town: Town) -> None:
    batch_id = batch_of_acme(town)
    for options in ((), ("--json",)):
        assert batch_id not in town.run("birch", "batches", "list", *options).said
        assert batch_id in town.run("acme", "batches", "list", *options).said
    assert "batch_req" not in town.run("birch", "runs", "list", "--batch", batch_id).said
    assert "batch_req" in town.run("acme", "runs", "list", "--batch", batch_id).said


def shows_batches(town: Town) -> None:
    batch_id = batch_of_acme(town)
    town.run("birch", "batches", "show", batch_id).refused(f"there is no batch '{batch_id}'")
    assert "1 of 1 lines answered" in town.run("acme", "batches", "show", batch_id).said


def cancels_batches(town: Town) -> None:
    batch_id = batch_of_acme(town)
    town.run("birch", "batches", "cancel", batch_id).refused(f"there is no batch '{batch_id}'")
    town.run("acme", "batches", "cancel", batch_id).refused("is completed")


def lists_approvals(town: Town) -> None:
    for options in ((), ("--json",)):
        until(lambda o=options: town.asks in town.run("acme", "runs", "approvals", *o).said)
        said = town.run("birch", "runs", "approvals", *options).said
        assert not any(word in said for word in (town.asks, "asker", "ACME-WORD"))


def decides_approvals(town: Town, verb: str) -> None:
    until(lambda: town.asks in town.run("acme", "runs", "approvals").said)
    for options in ((), ("--step", "2")):
        decided = town.run("birch", "runs", verb, town.asks, *options)
        decided.refused(f"there is no run '{town.asks}'")
        town.run("acme", "runs", verb, town.asks, *options).refused("this key began")
    assert "waiting for approval" in town.run("acme", "runs", "show", town.asks).said


def creates(town: Town) -> None:
    town.run("birch", "keys", "create", "mine", "--tenant", "acme").refused("its own tenant only")
    made = json.loads(town.run("birch", "keys", "create", "mine", "--json").said)
    assert made["tenant"] == "birch"


def lists(town: Town) -> None:
    for options in ((), ("--tenant", "acme"), ("--json",)):
        done = town.run("birch", "keys", "list", *options)
        assert done.exit_code == 0
        assert "acme" not in done.said
        assert town.keys["acme"]["id"] not in done.said


def rotates(town: Town) -> None:
    key_id = town.keys["acme"]["id"]
    town.run("birch", "keys", "rotate", key_id).refused(f"there is no key '{key_id}'")


def revokes(town: Town) -> None:
    key_id = town.keys["acme"]["id"]
    town.run("birch", "keys", "revoke", key_id).refused(f"there is no key '{key_id}'")
    assert town.run("acme", "keys", "list").exit_code == 0


def adds_up(town: Town) -> None:
    said = town.run("birch", "usage", "--json").said
    assert json.loads(said)["tenant"] == "birch"
    town.run("birch", "usage", "--tenant", "acme").refused("operator")


def examines(town: Town) -> None:
    said = town.run("birch", "doctor", "--json").said
    assert town.service.url in said
    assert "acme" not in said
    assert "plans" not in said


CASES: dict[str, Callable[[Town], None] | str] = {
    "up": "starts a service of its own and asks none",
    "deploy edge-proxy": "prints a text made of the configuration and asks no service",
    "ask": asks,
    "chat": chats,
    "ingest": ingests,
    "search": searches,
    "knowledge status": shows_knowledge,
    "trace": traces,
    "usage": adds_up,
    "runs start": starts_runs,
    "runs list": lists_runs,
    "runs show": shows_runs,
    "runs follow": follows_runs,
    "runs cancel": cancels_runs,
    "runs resume": resumes_runs,
    "runs approvals": lists_approvals,
    "runs approve": lambda town: decides_approvals(town, "approve"),
    "runs deny": lambda town: decides_approvals(town, "deny"),
    "replay": replays_runs,
    "batches run": runs_batches,
    "batches list": lists_batches,
    "batches show": shows_batches,
    "batches cancel": cancels_batches,
    "keys create": creates,
    "keys list": lists,
    "keys rotate": rotates,
    "keys revoke": revokes,
    "doctor": examines,
    "backup": "works on the state folder of whoever may read it, and asks no server",
    "log copy": "works on the logs of whoever may read and write them, and asks no server",
    "restore": "works on the state folder of whoever may write it, and asks no server",
}


def verbs(command: click.Command, name: str = "") -> Iterator[str]:
    """Yield the commands that do something, by all their words."""
    if not isinstance(command, click.Group):
        yield name
        return
    context = click.Context(command)
    for word in command.list_commands(context):
        below = command.get_command(context, word)
        assert below is not None
        yield from verbs(below, f"{name} {word}".strip())


def test_every_command_has_a_case_or_a_reason() -> None:
    assert set(CASES) == set(verbs(main))


@pytest.mark.e2e
@pytest.mark.parametrize(
    "verb", [verb for verb, case in CASES.items() if not isinstance(case, str)]
)
def test_nothing_of_another_tenant_is_printed_or_changed(town: Town, verb: str) -> None:
    case = CASES[verb]
    assert not isinstance(case, str)
    case(town)
