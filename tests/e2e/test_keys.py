"""Keys as their owner meets them: on the command line, with real processes behind it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.running import Running, running
from tests.e2e.test_up import scripted

RULES = f"""
tokens_per_s = 10

[[rules]]
match = ".*"
text = "{"word " * 1000}"
"""
HELLO: list[Any] = [{"role": "user", "content": "hello"}]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Running]:
    """A service whose model talks for minutes, and no keys but its first."""
    options = scripted(tmp_path)
    (tmp_path / "rules.toml").write_text(RULES)
    with running(tmp_path / "state", *options) as it:
        yield it


def keys(service: Running, *words: str, fails: bool = False) -> str:
    """Run `murmurate keys …` against the local service; return what it prints."""
    command = [sys.executable, "-m", "murmurate", "keys", *words, "--state", str(service.state)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) is fails, done.stderr
    return done.stderr if fails else done.stdout


def created(service: Running, *words: str) -> dict[str, Any]:
    return json.loads(keys(service, "create", *words, "--json"))


def models(service: Running, secret: str) -> int:
    """Return the status of a request with that secret."""
    headers = {"Authorization": f"Bearer {secret}"}
    return service.request("/v1/models", headers=headers)[0]


def audit(service: Running, *words: str) -> str:
    """Run `murmurate audit …` against the local service; return what it prints."""
    command = [sys.executable, "-m", "murmurate", "audit", *words, "--state", str(service.state)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_trail_tells_who_did_what_from_where(service: Running) -> None:
    made = created(service, "short-lived", "--scopes", "chat")
    keys(service, "revoke", made["id"])
    heads, *rows = audit(service).splitlines()
    assert heads.split()[:3] == ["at", "(UTC)", "action"]
    first, second, third = rows
    assert "the server" in first
    assert "127.0.0.1" in second
    assert f"{made['id']} label=short-lived scopes=chat" in second
    assert "key.revoked" in third
    [only] = audit(service, "--json", "--action", "key.revoked").splitlines()
    assert json.loads(only)["key"] == made["id"]
    assert made["secret"] not in audit(service, "--json")


def test_the_trail_can_be_followed(service: Running) -> None:
    command = [sys.executable, "-u", "-m", "murmurate", "audit", "--follow", "--json"]
    with subprocess.Popen(
        [*command, "--state", str(service.state)], stdout=subprocess.PIPE, text=True
    ) as following:
        assert following.stdout is not None
        assert json.loads(following.stdout.readline())["by"] is None
        made = created(service, "seen at once")
        assert json.loads(following.stdout.readline())["key"] == made["id"]
        following.terminate()


def test_a_role_stands_for_several_scopes(service: Running) -> None:
    made = created(service, "night shift", "--role", "viewer")
    assert made["roles"] == ["viewer"]
    assert models(service, made["secret"]) == 200
    headers = {"Authorization": f"Bearer {made['secret']}"}
    assert service.request("/api/keys", headers=headers)[0] == 403
    assert "viewer" in keys(service, "list")
    assert "there is no role 'vewer'" in keys(service, "create", "x", "--role", "vewer", fails=True)


def test_a_key_is_shown_once_and_listed_without_its_secret(service: Running) -> None:
    shown = keys(service, "create", "夜间 reports", "--lane", "batch", "--expires", "90d")
    secret = next(line.split()[1] for line in shown.splitlines() if line.startswith("secret"))
    assert secret.startswith("mur_")
    assert "shown only now" in shown
    assert models(service, secret) == 200
    listed = keys(service, "list")
    heads, *rows = listed.splitlines()
    assert heads.split()[:5] == ["id", "label", "tenant", "state", "scopes"]
    assert [("first key" in row, "夜间 reports" in row) for row in rows] == [
        (True, False),
        (False, True),
    ]
    assert "chat,embeddings,models" in rows[1]
    assert secret not in listed
    kept = b"".join(file.read_bytes() for file in service.state.glob("*") if file.is_file())
    assert secret.encode() not in kept
    assert b"first key" in kept, "it was the right place to look"


def test_the_first_key_can_be_rotated_and_the_command_line_goes_on(service: Running) -> None:
    [first] = json.loads(keys(service, "list", "--json"))["keys"]
    assert "last one" in keys(service, "revoke", first["id"], fails=True)
    assert "secret" in keys(service, "rotate", first["id"], "--grace", "1h")
    assert models(service, service.key) == 200, "in its grace"
    assert models(service, (service.state / "key").read_text().strip()) == 200
    keys(service, "rotate", first["id"])
    assert models(service, service.key) == 401
    assert json.loads(keys(service, "list", "--json"))["keys"][0]["id"] == first["id"]


def test_what_was_changed_survives_the_death_of_the_server(service: Running) -> None:
    kept, gone = created(service, "kept"), created(service, "gone")
    fresh = json.loads(keys(service, "rotate", kept["id"], "--json"))
    assert "is revoked" in keys(service, "revoke", gone["id"])
    service.kill("server")
    assert models(service, fresh["secret"]) == 200
    assert models(service, kept["secret"]) == 401
    assert models(service, gone["secret"]) == 401
    states = {
        key["label"]: key["state"] for key in json.loads(keys(service, "list", "--json"))["keys"]
    }
    assert states == {"first key": "active", "kept": "active", "gone": "revoked"}


def test_a_key_revoked_in_mid_stream_ends_the_stream_with_an_error_event(service: Running) -> None:
    key = created(service, "leaked")
    with service.client(key["secret"]) as client:
        with client.chat.completions.create(model="slow", messages=HELLO, stream=True) as stream:
            assert next(stream).choices
            keys(service, "revoke", key["id"])
            with pytest.raises(openai.APIError) as raised:
                list(stream)
        assert raised.value.code == "key.revoked"
        with pytest.raises(openai.AuthenticationError) as refused:
            client.models.list()
        assert refused.value.code == "key.revoked"
    assert models(service, service.key) == 200


def test_mistakes_are_one_line_that_says_what_to_do(service: Running) -> None:
    for words, line in (
        (("create", "x", "--scopes", "chta"), "there is no scope 'chta'; there are: chat, "),
        (("create", "x", "--expires", "soon"), "expected 30d, 2027-01-31 or"),
        (("create", "x", "--tenant", "Acme Inc"), "tenant: "),
        (("revoke", "key_none"), "there is no key 'key_none'"),
        (("rotate", "key_none", "--grace", "1y"), "grace: '1y' is no duration"),
    ):
        said = keys(service, *words, fails=True)
        assert said.count("\n") == 1
        assert said.startswith("murmurate: ")
        assert line in said
