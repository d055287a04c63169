"""The commands as a user meets them: against a real service, with their output as it is."""

import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.e2e.running import (
    START_S,
    Running,
    output_of,
    running,
    stop,
    wait_for_output,
)
from tests.e2e.test_up import scripted

MURMURATE = (sys.executable, "-m", "murmurate")


def chat(service: Running, text: str, *options: str) -> str:
    """Return what `murmurate chat` prints when these lines are typed."""
    done = subprocess.run(
        [*MURMURATE, "chat", "--state", str(service.state), *options],
        input=text,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_up_welcomes_with_url_key_and_a_real_answer(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running(state, welcome=()) as service:
        output = wait_for_output(state, "murmurate trace ")
        assert f"murmurate serves on {service.url}\n" in output
        assert f"key: {service.key}   (kept in {state / 'key'})\n" in output
        assert f'"Authorization: Bearer {service.key}"' in output
        answer = output.partition("Its answer right now:\n\n")[2]
        assert "engine" in answer
        assert "quoted from" in answer


def test_the_command_that_up_shows_works_as_it_stands(tmp_path: Path) -> None:
    state = tmp_path / "state"
    options = scripted(tmp_path)
    for _ in range(2):  # with the key in it, then with the file that it is in
        state.with_name("state.output").unlink(missing_ok=True)
        with running(state, *options, welcome=()):
            output = wait_for_output(state, "Its answer right now:")
            shown = re.findall(r"(curl .*?\n.*?)\n\n", output, re.DOTALL)[-1]
            done = subprocess.run(
                ["bash", "-c", shown], capture_output=True, text=True, check=False
            )
            assert "one two three" in done.stdout, (shown, done.stderr)


def test_later_starts_keep_the_key_out_of_the_journal(tmp_path: Path) -> None:
    state = tmp_path / "state"
    options = scripted(tmp_path)
    with running(state, *options, welcome=()) as service:
        assert service.key in wait_for_output(state, "Its answer right now:")
    state.with_name("state.output").unlink()
    with running(state, *options, welcome=()) as service:
        output = wait_for_output(state, "Its answer right now:")
        assert f"key: in the file {state / 'key'}\n" in output
        assert f'"Authorization: Bearer $(cat {state / "key"})"' in output
    assert service.key not in output_of(state)


def test_a_terminal_is_shown_the_key_at_each_start(tmp_path: Path) -> None:
    state = tmp_path / "state"
    options = scripted(tmp_path)
    with running(state, *options) as service:
        key = service.key
    ours, theirs = pty.openpty()
    command = [*MURMURATE, "up", "--state", str(state), "--listen", "127.0.0.1:0", *options]
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, cwd=tmp_path)
    os.close(theirs)
    try:
        output = b""
        deadline_s = time.monotonic() + START_S
        while b"right now" not in output and time.monotonic() < deadline_s:
            output += os.read(ours, 4096)
        assert b"key: " + key.encode() in output
    finally:
        assert stop(process) == 0
        os.close(ours)


def test_a_chat_of_two_turns_is_kept_and_goes_on_later(service: Running) -> None:
    output = chat(service, "Hello!\n\nWhat is 23 * 45?\n")
    assert "1035" in output
    kept = re.search(r"kept as (sess_\w+): murmurate chat --session (\S+)", output)
    assert kept is not None
    session = kept[1]
    assert kept[2] == session
    assert f"kept as {session}" in chat(service, "thanks\n", "--session", session)
    _, _, found = service.request(f"/api/sessions/{session}")
    texts = [message["parts"][0]["text"] for message in found["messages"] if message["parts"]]
    asked = [text for text in texts if text in {"Hello!", "What is 23 * 45?", "thanks"}]
    assert asked == ["Hello!", "What is 23 * 45?", "thanks"]


def test_up_answers_from_the_folder_that_it_is_given(tmp_path: Path) -> None:
    docs = tmp_path / "handbook"
    docs.mkdir()
    (docs / "office.md").write_text(
        "# Office\n\nThe parking permit for visitors is handed out at the green reception desk.\n"
    )
    with running(tmp_path / "state", "--docs", str(docs)) as service:
        answer = service.client().chat.completions.create(
            model="assistant",
            messages=[{"role": "user", "content": "Where is the parking permit handed out?"}],
        )
        text = answer.choices[0].message.content or ""
        assert "green reception desk" in text
        assert "office.md" in text


def test_ask_says_in_one_line_that_the_server_was_killed(tmp_path: Path) -> None:
    with running(tmp_path / "state", *scripted(tmp_path)) as service:
        command = [*MURMURATE, "ask", "--model", "slow", "--state", str(service.state), "hi"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
        ) as asking:
            assert asking.stdout is not None
            assert asking.stdout.read(3) == "one"
            os.kill(service.worker("server"), signal.SIGKILL)
            _, words = asking.communicate(timeout=30)
        assert asking.returncode == 1
        assert words.splitlines() == [
            "murmurate: the server went away in the middle of the answer: ask again"
        ]
